//! Lays file and environment over the defaults, value by value, so that every fault is found and named.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Process, Settings};

/// Begins every variable of ours.
const PREFIX: &str = "TRUNKLINE_";
/// Names the file, so it cannot stand in it.
const FILE_VARIABLE: &str = "TRUNKLINE_CONFIG_FILE";

/// What is laid over the defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// Environment, whole or in part; what does not begin with `TRUNKLINE_` is passed over.
    pub variables: Vec<(OsString, OsString)>,
    /// Sections of the file that belong to other services, which share it.
    pub other_sections: Vec<String>,
}

impl Sources {
    /// The environment of the process. `other_sections` are the names of the other services.
    pub fn of_process(other_sections: impl IntoIterator<Item = String>) -> Self {
        Self { variables: std::env::vars_os().collect(), other_sections: other_sections.into_iter().collect() }
    }
}

/// Everything that is wrong with the settings, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}

/// Reads the process's settings and those of `service`.
pub fn load<T: Settings>(service: &str, sources: &Sources) -> Result<(Process, T), Faults> {
    let mut faults = Vec::new();
    let mut document = defaults::<T>(service);
    let overrides = collect(&document, sources, &mut faults);
    for layer in overrides {
        apply::<T>(&mut document, service, layer, &mut faults);
    }
    // What could not be taken was left at its default, so the rest is judged all the same and told together.
    let own = document.remove(service).unwrap_or_default();
    let own: T = serde_json::from_value(own).expect("each value was tried on the type");
    let process: Process = serde_json::from_value(Value::Object(document)).expect("each value was tried on the type");
    faults.extend(process.check());
    faults.extend(own.check().into_iter().map(|fault| format!("{service}.{fault}")));
    if faults.is_empty() { Ok((process, own)) } else { Err(Faults(faults)) }
}

/// One value that was given.
struct Override {
    path: Vec<String>,
    /// Where from, as the person wrote it.
    origin: String,
    /// How the text may be understood, the likelier first.
    readings: Vec<Value>,
}

fn defaults<T: Settings>(service: &str) -> Map<String, Value> {
    let document = serde_json::to_value(Process::default()).expect("settings are plain data");
    let Value::Object(mut document) = document else { unreachable!("a struct is an object") };
    let own = serde_json::to_value(T::default()).expect("settings are plain data");
    document.insert(service.to_owned(), own);
    document
}

fn collect(document: &Map<String, Value>, sources: &Sources, faults: &mut Vec<String>) -> Vec<Override> {
    let mut overrides = Vec::new();
    let mut file = None;
    let mut variables = Vec::new();
    for (name, value) in &sources.variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        match value.to_str() {
            None => faults.push(format!("{name} is not UTF-8")),
            Some("") => faults.push(format!("{name} is empty")),
            Some(value) if name == FILE_VARIABLE => file = Some(PathBuf::from(value)),
            Some(value) => variables.push((name, value)),
        }
    }
    if let Some(file) = file {
        match read_file(&file) {
            Ok(table) => {
                let origin = file.display().to_string();
                walk(document, table, &origin, &sources.other_sections, &mut overrides, faults);
            }
            Err(fault) => faults.push(fault),
        }
    }
    variables.sort_unstable();
    for (name, value) in variables {
        let path: Vec<String> = name[PREFIX.len()..].to_lowercase().split("__").map(str::to_owned).collect();
        if is_known(document, &path) {
            let readings = readings(value);
            overrides.push(Override { path, origin: name.to_owned(), readings });
        } else if !sources.other_sections.contains(&path[0]) {
            faults.push(format!("{name} is not a setting"));
        }
    }
    overrides
}

/// The file as a tree. The fault names a line and never quotes it.
fn read_file(file: &std::path::Path) -> Result<Map<String, Value>, String> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{name} cannot be read: {}", error.kind()))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("{name} line {line} is not TOML")
    })
}

/// Members of a table, as far down as the defaults are tables too.
fn walk(
    document: &Map<String, Value>,
    table: Map<String, Value>,
    origin: &str,
    other_sections: &[String],
    overrides: &mut Vec<Override>,
    faults: &mut Vec<String>,
) {
    let mut open = vec![(Vec::new(), table)];
    while let Some((path, table)) = open.pop() {
        for (name, value) in table {
            let mut path: Vec<String> = path.clone();
            path.push(name);
            let origin = format!("{origin}: {}", path.join("."));
            match (find(document, &path), value) {
                (None, _) if other_sections.contains(&path[0]) => {}
                (None, _) => faults.push(format!("{origin} is not a setting")),
                (Some(Value::Object(members)), Value::Object(table)) if !members.is_empty() => open.push((path, table)),
                (Some(_), value) => overrides.push(Override { path, origin, readings: vec![value] }),
            }
        }
    }
}

fn find<'a>(document: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(document.get(first)?, |value, name| value.as_object()?.get(name))
}

fn is_known(document: &Map<String, Value>, path: &[String]) -> bool {
    find(document, path).is_some()
}

/// A variable is text; `5`, `true` and `["a"]` may be meant as what they look like.
fn readings(text: &str) -> Vec<Value> {
    let plain = Value::String(text.to_owned());
    match serde_json::from_str(text) {
        Ok(value) => vec![value, plain],
        Err(_) => vec![plain],
    }
}

/// Takes the first reading that the types accept.
fn apply<T: Settings>(document: &mut Map<String, Value>, service: &str, layer: Override, faults: &mut Vec<String>) {
    let mut wanted = String::new();
    for reading in layer.readings {
        let mut tried = document.clone();
        set(&mut tried, &layer.path, reading);
        match try_types::<T>(&tried, service, &layer.path) {
            Ok(()) => {
                *document = tried;
                return;
            }
            Err(expected) => wanted = expected,
        }
    }
    faults.push(format!("{} {wanted}", layer.origin));
}

fn set(document: &mut Map<String, Value>, path: &[String], value: Value) {
    let (last, parents) = path.split_last().expect("a path has a name in it");
    let mut table = document;
    for name in parents {
        let Some(Value::Object(inner)) = table.get_mut(name) else {
            return;
        };
        table = inner;
    }
    table.insert(last.clone(), value);
}

fn try_types<T: Settings>(document: &Map<String, Value>, service: &str, path: &[String]) -> Result<(), String> {
    let outcome = if path[0] == service {
        serde_json::from_value::<T>(document[service].clone()).map(|_| ())
    } else {
        serde_json::from_value::<Process>(Value::Object(document.clone())).map(|_| ())
    };
    outcome.map_err(|error| expectation(&error.to_string()))
}

/// serde quotes the value before the last `expected`, so only what follows may be shown.
fn expectation(message: &str) -> String {
    match message.rsplit_once(", expected ") {
        Some((_, expected)) => format!("must be {expected}"),
        None => "is not valid".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::settings::LogFormat;

    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(default)]
    struct Own {
        ttl_ms: u32,
        name: String,
        cors: Cors,
    }

    #[derive(Clone, Debug, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Cors {
        origins: Vec<String>,
    }

    impl Default for Own {
        fn default() -> Self {
            Self { ttl_ms: 5, name: "n".to_owned(), cors: Cors::default() }
        }
    }

    impl Settings for Own {
        fn check(&self) -> Vec<String> {
            if self.ttl_ms == 0 { vec!["ttl_ms must be 1 or more".to_owned()] } else { Vec::new() }
        }
    }

    fn read(variables: &[(&str, &str)]) -> Result<(Process, Own), Faults> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        load("own", &Sources { variables, other_sections: vec!["other".to_owned()] })
    }

    #[test]
    fn environment_covers_the_defaults() {
        let (process, own) = read(&[
            ("PATH", "/bin"),
            ("TRUNKLINE_INSTANCE", "2"),
            ("TRUNKLINE_LOG__FORMAT", "json"),
            ("TRUNKLINE_OWN__TTL_MS", "7"),
            ("TRUNKLINE_OWN__NAME", "42"),
            ("TRUNKLINE_OWN__CORS__ORIGINS", r#"["https://a.example"]"#),
            ("TRUNKLINE_OTHER__THING", "passed over"),
        ])
        .unwrap();

        assert_eq!((process.instance.as_str(), process.log.format), ("2", LogFormat::Json));
        assert_eq!((own.ttl_ms, own.name.as_str()), (7, "42"));
        assert_eq!(own.cors.origins, ["https://a.example"]);
    }

    #[test]
    fn file_lies_between_defaults_and_environment() {
        let folder = std::env::temp_dir().join(format!("trunkline-settings-{}", std::process::id()));
        std::fs::write(&folder, "instance = \"9\"\n[own]\nttl_ms = 8\nname = \"file\"\n[other]\nx = 1\n").unwrap();

        let read = read(&[("TRUNKLINE_CONFIG_FILE", folder.to_str().unwrap()), ("TRUNKLINE_OWN__NAME", "environment")]);
        std::fs::remove_file(&folder).unwrap();

        let (process, own) = read.unwrap();
        assert_eq!((process.instance.as_str(), own.ttl_ms, own.name.as_str()), ("9", 8, "environment"));
    }

    #[test]
    fn all_faults_come_at_once_and_no_value_is_repeated() {
        let faults = read(&[
            ("TRUNKLINE_DATABASE__CONNECTIONS_MAX", "hunter2"),
            ("TRUNKLINE_LOG__FORMAT", "hunter2, expected hunter2"),
            ("TRUNKLINE_NKEY", "hunter2"),
            ("TRUNKLINE_OWN__TTL_MS", "-1"),
            ("TRUNKLINE_OWN__NAME", ""),
        ])
        .unwrap_err();

        assert_eq!(
            faults.0,
            [
                "TRUNKLINE_OWN__NAME is empty",
                "TRUNKLINE_NKEY is not a setting",
                "TRUNKLINE_DATABASE__CONNECTIONS_MAX must be u32",
                "TRUNKLINE_LOG__FORMAT must be one of `auto`, `text`, `json`",
                "TRUNKLINE_OWN__TTL_MS must be u32",
            ]
        );
    }

    #[test]
    fn values_are_checked_together() {
        let faults = read(&[
            ("TRUNKLINE_OWN__TTL_MS", "0"),
            ("TRUNKLINE_NATS_URL", "http://hunter2"),
            ("TRUNKLINE_DATABASE_URL", "hunter2"),
            ("TRUNKLINE_NKEY_FILE", "/nowhere/hunter"),
        ])
        .unwrap_err();

        assert_eq!(
            faults.0,
            [
                "nats_url is not a list of NATS URLs",
                "nkey_file cannot be read: entity not found",
                "database_url is not a PostgreSQL URL",
                "own.ttl_ms must be 1 or more",
            ]
        );
    }
}
