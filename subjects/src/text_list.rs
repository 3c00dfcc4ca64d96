//! A list that may be left out is a plain list in JSON.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::free::v1::TextList;

impl Serialize for TextList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.items.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TextList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { items: Vec::deserialize(deserializer)? })
    }
}

#[cfg(test)]
mod tests {
    use crate::authz::v1::UpdateRoleRequest;

    #[test]
    fn an_empty_list_is_not_an_absent_one() {
        let decode = |body: &str| crate::json::decode::<UpdateRoleRequest>(body.as_bytes()).map(|r| r.permissions);
        let items = |body| decode(body).unwrap().map(|list| list.items);

        assert_eq!(items("{}"), None);
        assert_eq!(items(r#"{"permissions":null}"#), None);
        assert_eq!(items(r#"{"permissions":[]}"#), Some(vec![]));
        assert_eq!(items(r#"{"permissions":["*"]}"#), Some(vec!["*".to_owned()]));
        assert!(decode(r#"{"permissions":"*"}"#).is_err() && decode(r#"{"permissions":[1]}"#).is_err());
    }
}
