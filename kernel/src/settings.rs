//! Settings: defaults in code, over them a TOML file (`TRUNKLINE_CONFIG_FILE`), over that the environment, where
//! `a.b_c` is `TRUNKLINE_A__B_C`. Read once and checked whole before any connection; all faults are told together, and
//! no fault repeats a value, which may be a secret. Live settings are not read here.

mod layers;
mod process;

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use layers::{Faults, Sources, load};
pub use process::{Consumers, Database, Endpoints, Log, LogFormat, Nats, Process, Tokens};

/// A service's own settings, the section that bears its name.
///
/// Every field is documented with unit, range and default. A field whose default is an empty map, or absent, takes any
/// shape its type allows; otherwise only the members of the default exist, and others are refused.
pub trait Settings: Serialize + DeserializeOwned + Default + Clone + fmt::Debug + Send + Sync + 'static {
    /// What is wrong, one sentence a fault, each beginning with the field's name: `access_token_ttl_ms must be …`.
    fn check(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The settings of a service that has none.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct NoSettings {}

impl Settings for NoSettings {}

/// A setting that does not print: a URL with a password in it.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Keeps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The value. Not for logs, errors or metadata.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
