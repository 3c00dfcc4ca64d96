//! Query parameters as bindings of the request's fields. Refuses what it would otherwise have to guess: an unknown name,
//! a second value where one is meant, an escape that is none.

use kernel::{Error, FieldError};
use subjects::QueryField;
use subjects::wire::v1::Binding;

use crate::percent;
use crate::refusal::Refusal;

/// More parameters than any operation has, repeated ones included.
const PARAMETERS_MAX: usize = 100;

/// An unknown name is repeated to the client no further than this.
const NAME_CHARACTERS_SHOWN: usize = 64;

/// Adds to `bindings` what `query` gives for `fields`. An empty value is the same as none.
pub(crate) fn bind(query: &str, fields: &[QueryField], bindings: &mut Vec<Binding>) -> Result<(), Refusal> {
    let mut unknown = Vec::new();
    let first = bindings.len();
    for (position, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if position == PARAMETERS_MAX {
            return Err(Refusal::malformed_query("There are too many parameters."));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (percent::decode(name, true), percent::decode(value, true)) else {
            return Err(Refusal::malformed_query("An escape in the query is not complete or not UTF-8."));
        };
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            unknown.push(unknown_field(&name));
            continue;
        };
        if !field.repeated && bindings[first..].iter().any(|binding| binding.field == field.field) {
            return Err(Refusal::duplicate_parameter(field.name));
        }
        bindings.push(Binding { field: field.field.to_owned(), value: value.into_owned() });
    }
    bindings.retain(|binding| !binding.value.is_empty());
    if unknown.is_empty() { Ok(()) } else { Err(Error::invalid(unknown).into()) }
}

fn unknown_field(name: &str) -> FieldError {
    let shown: String = name.chars().take(NAME_CHARACTERS_SHOWN).collect();
    // RFC 6901 §3.
    let pointer = format!("/{}", shown.replace('~', "~0").replace('/', "~1"));
    FieldError::new(pointer, "unknown_field", "is not a parameter of this operation")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[QueryField] = &[
        QueryField { name: "query", field: "query", repeated: false },
        QueryField { name: "pageSize", field: "page_size", repeated: false },
        QueryField { name: "tag", field: "tag", repeated: true },
    ];

    fn read(query: &str) -> Result<Vec<(String, String)>, (u16, String)> {
        let mut bindings = Vec::new();
        bind(query, FIELDS, &mut bindings)
            .map(|()| bindings.into_iter().map(|binding| (binding.field, binding.value)).collect())
            .map_err(|refusal| {
                let pointer = refusal.error.errors().first().map(|error| error.pointer.clone());
                (refusal.error.status(), pointer.unwrap_or_default())
            })
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn parameters_become_bindings_of_their_fields() {
        let bound = read("pageSize=10&query=a%20b+c%C3%A9&tag=x&tag=y").unwrap();

        assert_eq!(bound, pairs(&[("page_size", "10"), ("query", "a b c\u{e9}"), ("tag", "x"), ("tag", "y")]));
        assert_eq!(read("").unwrap(), []);
        assert_eq!(read("&query=&").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(read("pageSizes=1"), Err((422, "/pageSizes".to_owned())));
        assert_eq!(read("page_size=1"), Err((422, "/page_size".to_owned())));
        assert_eq!(read("a/b=1"), Err((422, "/a~1b".to_owned())));
        assert_eq!(read("query=1&query=2"), Err((400, String::new())));
        assert_eq!(read("query=&query="), Err((400, String::new())));
        assert_eq!(read("query=%zz"), Err((400, String::new())));
        assert_eq!(read("qu%ery=1"), Err((400, String::new())));
        assert_eq!(read("query=%ff"), Err((400, String::new())));
        assert_eq!(read(&"tag=x&".repeat(101)), Err((400, String::new())));
        assert_eq!(read(&format!("{}=1", "x".repeat(500))).unwrap_err().1.len(), 65);
    }
}
