//! Options that several commands take, and how their values are read.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::platform::admin::{Admin, AdminFile};
use crate::platform::{folders, programs};

/// Sections of settings that every process has.
const COMMON_SECTIONS: &[&str] = &["consumers", "database", "endpoints", "log", "nats", "tokens"];

/// Which platform is meant.
#[derive(Args, Debug)]
pub(super) struct Data {
    /// The platform's data folder [default: /var/lib/trunkline for root, else $XDG_DATA_HOME/trunkline]
    #[arg(long, value_name = "DIR", env = "TRUNKLINE_DATA")]
    data: Option<PathBuf>,
}

impl Data {
    /// The folder, given or default.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        self.data.clone().map_or_else(folders::default_data, Ok)
    }

    /// Whether it is not the default one, so that hints have to name it.
    pub(super) fn is_given(&self) -> bool {
        self.data.is_some()
    }

    /// What its `admin.json` says.
    pub(super) fn admin(&self) -> Result<Admin> {
        AdminFile::in_folder(&self.folder()?).read()
    }
}

/// A NATS server that is not ours.
#[derive(Args, Debug)]
pub(super) struct GivenNats {
    /// The NATS server [default: our own]. Its users must be those of `trunkline nats render`
    #[arg(long = "nats-url", value_name = "URL", env = "TRUNKLINE_NATS_URL")]
    pub(super) url: Option<String>,
    #[command(flatten)]
    pub(super) ca: NatsAuthority,
}

/// Who vouches for a NATS server that speaks TLS.
#[derive(Args, Debug)]
pub(super) struct NatsAuthority {
    /// The authority that signed the NATS server's certificate, PEM; given, connections are TLS only
    #[arg(long = "nats-ca", value_name = "FILE", env = "TRUNKLINE_NATS__CA_FILE")]
    pub(super) file: Option<PathBuf>,
}

/// `NAME=N` of `--instances`.
pub(super) fn parse_instances(text: &str) -> Result<(String, usize)> {
    let Some((name, count)) = text.split_once('=') else { bail!("expected NAME=N, for example auth=2") };
    if !programs::names().contains(&name) {
        bail!("there is no service {name}; there are {}", programs::names().join(", "));
    }
    match count.parse() {
        Ok(count) if count <= 64 => Ok((name.to_owned(), count)),
        _ => bail!("the number of instances must be 0 to 64"),
    }
}

/// A setting for the processes that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The service; `None` for every process.
    pub(super) service: Option<String>,
    /// The environment variable that carries it.
    pub(super) variable: String,
    /// Its value as the environment takes it.
    pub(super) value: String,
}

/// `NAME=VALUE` of `--set`: the first word of the dotted name is the section, and a section that is not common belongs to the
/// service of that name.
pub(super) fn parse_setting(text: &str) -> Result<Setting> {
    let Some((name, value)) = text.split_once('=') else { bail!("expected NAME=VALUE, for example log.level=debug") };
    let Some((section, rest)) = name.split_once('.') else {
        bail!("a setting's name has a section, as in gateway.rate_limits.enabled")
    };
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    if !rest.split('.').all(is_word) {
        bail!("{name} is not a setting's name");
    }
    let service = if programs::names().contains(&section) {
        Some(section.to_owned())
    } else if COMMON_SECTIONS.contains(&section) {
        None
    } else {
        bail!(
            "there is no section {section}; there are {}, {}",
            programs::names().join(", "),
            COMMON_SECTIONS.join(", ")
        );
    };
    let variable = format!("TRUNKLINE_{}", name.replace('.', "__").to_ascii_uppercase());
    Ok(Setting { service, variable, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_goes_to_the_process_whose_section_it_is() {
        let gateway = parse_setting("gateway.cors.allowed_origins=[\"https://a.example\"]").unwrap();
        assert_eq!(gateway.service.as_deref(), Some("gateway"));
        assert_eq!(gateway.variable, "TRUNKLINE_GATEWAY__CORS__ALLOWED_ORIGINS");
        assert_eq!(gateway.value, "[\"https://a.example\"]");
        assert_eq!(parse_setting("log.level=debug").unwrap().service, None);
        assert_eq!(parse_setting("auth.issuer=a=b").unwrap().value, "a=b");
        for wrong in ["log.level", "level=debug", "billing.rate=1", "auth.A=1", "auth..a=1"] {
            assert!(parse_setting(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn instances_are_of_a_known_name_and_bounded() {
        assert_eq!(parse_instances("auth=2").unwrap(), ("auth".to_owned(), 2));
        for wrong in ["auth", "auth=65", "auth=-1", "billing=1"] {
            assert!(parse_instances(wrong).is_err(), "{wrong}");
        }
    }
}
