//! compose.yaml and Dockerfile name what there is: programs, settings, paths, options. No container engine is needed to
//! see that, and none may be at hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use platform_tests::build::{command, programs};
use serde_json::{Map, Value};
use tokio::process::Command;
use trunkline::platform::programs;

/// A setting that no program has: it ends before it connects anywhere, and tells all that it does not know.
const UNKNOWN: &str = "TRUNKLINE_NO_SUCH_SETTING";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn compose() -> Value {
    let text = std::fs::read_to_string(repository().join("compose.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn containers(compose: &Value) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
    let services = compose["services"].as_object().unwrap();
    services.iter().map(|(name, container)| (name.as_str(), container.as_object().unwrap()))
}

fn environment(container: &Map<String, Value>) -> Vec<(String, String)> {
    let Some(variables) = container.get("environment").and_then(Value::as_object) else { return Vec::new() };
    variables.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().into())).collect()
}

/// The words of a container's command, those of a script included.
fn words(container: &Map<String, Value>) -> Vec<String> {
    let command = container.get("command").and_then(Value::as_array).into_iter().flatten();
    command.flat_map(|part| part.as_str().unwrap().split_whitespace()).map(str::to_owned).collect()
}

#[tokio::test]
async fn each_container_of_ours_gives_its_program_settings_that_it_has() {
    let (compose, programs) = (compose(), programs().await);
    let mut seen = BTreeSet::new();
    for (name, container) in containers(&compose).filter(|(name, _)| programs::names().contains(name)) {
        let mut variables = environment(container);
        variables.retain(|(name, _)| name.starts_with("TRUNKLINE_"));
        let given = words(container).into_iter().filter_map(|word| Some(word.split_once('=')?.0.to_owned()));
        variables.extend(given.filter(|name| name.starts_with("TRUNKLINE_")).map(|name| (name, "/".to_owned())));
        assert!(variables.len() > 4, "{name}: {variables:?}");

        let output = Command::new(programs.path(name)).env_clear().envs(variables).env(UNKNOWN, "1").output().await;
        let output = output.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        let unknown: Vec<&str> = told.lines().filter(|line| line.contains("is not a setting")).collect();

        assert_eq!(output.status.code(), Some(78), "{told}");
        assert_eq!(unknown, [format!("{UNKNOWN} is not a setting")], "{name}: {told}");
        seen.insert(name);
    }
    assert_eq!(seen, programs::names().into_iter().collect(), "each program has its container");
}

#[tokio::test]
async fn each_command_of_trunkline_takes_the_options_it_is_given() {
    let mut checked = 0;
    for (name, container) in containers(&compose()) {
        let words = words(container);
        for start in words.iter().enumerate().filter(|(_, word)| *word == "trunkline").map(|(index, _)| index) {
            let arguments: Vec<&str> = words[start + 1..]
                .iter()
                .map(String::as_str)
                .take_while(|word| {
                    word.starts_with('/') || word.starts_with('-') || word.chars().all(char::is_alphabetic)
                })
                .take_while(|word| *word != "echo")
                .collect();
            // Help is told once everything before it has been understood.
            let output = Command::new(command().await).args(&arguments).arg("--help").output().await;
            let output = output.unwrap();
            assert!(output.status.success(), "{name}: {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            checked += 1;
        }
    }
    assert_eq!(checked, 3, "render, migrate and apply");
}

#[test]
fn what_is_referred_to_is_declared() {
    let compose = compose();
    let names: BTreeSet<&str> = containers(&compose).map(|(name, _)| name).collect();
    let volumes = compose["volumes"].as_object().unwrap();
    for (name, container) in containers(&compose) {
        for needed in container.get("depends_on").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            assert!(names.contains(needed.as_str()), "{name} waits for {needed:?}");
        }
        for mount in container.get("volumes").and_then(Value::as_array).into_iter().flatten() {
            let (volume, _) = mount.as_str().unwrap().split_once(':').unwrap();
            assert!(volumes.contains_key(volume), "{name} mounts {volume}");
        }
    }
}

#[test]
fn the_broker_is_told_what_its_configuration_asks_for() {
    let compose = compose();
    let (_, nats) = containers(&compose).find(|(name, _)| *name == "nats").unwrap();
    let told: BTreeSet<String> = environment(nats).into_iter().map(|(name, _)| name).collect();
    let configuration = trunkline::platform::nats::CONFIGURATION;
    let asked: BTreeSet<String> = configuration
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('$'))
        .map(|(_, name)| name.trim().to_owned())
        .collect();
    assert_eq!(told, asked);
}

#[test]
fn the_image_holds_every_program() {
    let dockerfile = std::fs::read_to_string(repository().join("Dockerfile")).unwrap();
    for name in programs::names().into_iter().chain(["trunkline"]) {
        assert!(dockerfile.contains(&format!("target/release/{name} ")), "{name}");
    }
    for folder in ["/broker", "/mail", "/secrets", "/superuser", "/tls"] {
        assert!(dockerfile.contains(folder), "{folder} is made, so that its volume has an owner");
    }
}
