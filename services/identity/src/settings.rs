//! What can be set of identity, as `TRUNKLINE_IDENTITY__<NAME>` or in the section `identity` of a file.

use std::path::PathBuf;

use kernel::settings::Secret;
use kernel::{Settings, StartError};
use serde::{Deserialize, Serialize};

use crate::domain::HashParameters;
use crate::mail::{self, Post};

/// The section `identity`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentitySettings {
    /// Whether anybody may open an account. Default true; otherwise `Register` answers 403.
    pub registration_open: bool,
    /// What a new password hash costs. A user's hash that was made with other parameters is replaced at the next sign-in.
    pub password_hash: PasswordHashSettings,
    /// JSON file with `email` and `password` of the administrator who is made when there is none; absent for nobody.
    pub bootstrap_admin_file: Option<PathBuf>,
    /// Where mail goes: `smtps://user:password@host`, `smtp://user:password@host?tls=required`, `smtp://host:port` for a server
    /// that needs neither, or `file:///folder`, where each letter becomes a file. Certificates are judged by the system's
    /// authorities (`SSL_CERT_FILE`). Absent, each letter becomes a dead letter of the queue `mail`.
    pub mail_url: Option<Secret>,
    /// Who mail comes from. Default `Trunkline <no-reply@localhost>`.
    pub mail_sender: String,
}

/// Parameters of argon2id (RFC 9106). A start with weaker ones than OWASP's equivalents is refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PasswordHashSettings {
    /// Memory of one hash in KiB, to 262,144. Default 19,456.
    pub memory_kib: u32,
    /// Passes over it, 1 to 64. Default 2.
    pub iterations: u32,
    /// Lanes, 1 to 16; one thread computes them all. Default 1.
    pub parallelism: u32,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            registration_open: true,
            password_hash: PasswordHashSettings::default(),
            bootstrap_admin_file: None,
            mail_url: None,
            mail_sender: "Trunkline <no-reply@localhost>".to_owned(),
        }
    }
}

impl Default for PasswordHashSettings {
    fn default() -> Self {
        Self { memory_kib: 19_456, iterations: 2, parallelism: 1 }
    }
}

impl IdentitySettings {
    pub(crate) fn hash_parameters(&self) -> Result<HashParameters, StartError> {
        let PasswordHashSettings { memory_kib, iterations, parallelism } = self.password_hash;
        HashParameters::new(memory_kib, iterations, parallelism).map_err(StartError::new)
    }
}

impl Settings for IdentitySettings {
    fn check(&self) -> Vec<String> {
        let PasswordHashSettings { memory_kib, iterations, parallelism } = self.password_hash;
        let fault = HashParameters::new(memory_kib, iterations, parallelism).err();
        let mut faults: Vec<String> = fault.map(|fault| format!("password_hash: {fault}")).into_iter().collect();
        let url = self.mail_url.as_ref().map(|url| mail::check_url(url.expose()));
        faults.extend(url.and_then(Result::err).map(|fault| format!("mail_url {fault}")));
        if Post::open(None, &self.mail_sender).is_err() {
            faults.push("mail_sender must be an address, or a name and an address: Ann <ann@example.org>".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_weak_hashes_are_not() {
        let mut settings = IdentitySettings::default();
        assert_eq!(settings.check(), Vec::<String>::new());

        settings.password_hash.iterations = 1;
        settings.mail_url = Some(Secret::new("smtp://ann:secret@mail.example.org"));
        settings.mail_sender = "nobody".to_owned();

        assert_eq!(
            settings.check(),
            [
                "password_hash: 19456 KiB are too little for 1 iterations; at least 47104 are needed",
                "mail_url must be smtps:// or end in ?tls=required where it has a password",
                "mail_sender must be an address, or a name and an address: Ann <ann@example.org>",
            ]
        );
    }
}
