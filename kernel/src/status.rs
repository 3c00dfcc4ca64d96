//! The file that says where this process is, for whoever started it. Written whole or not at all, when the process is
//! ready, and taken away when it stops.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// What is told.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    pid: u32,
    instance: String,
    admin_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// Where this process is. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    told: Mutex<Told>,
}

impl Status {
    /// To be written to `file`, where there is one.
    pub(crate) fn new(file: Option<PathBuf>, instance: &str, admin_url: &str) -> Self {
        let told =
            Told { pid: std::process::id(), instance: instance.to_owned(), admin_url: admin_url.to_owned(), url: None };
        Self(Arc::new(Inner { file, told: Mutex::new(told) }))
    }

    /// Says where users reach this very process: `http://127.0.0.1:8081`. To be called while it is built.
    pub fn set_url(&self, url: impl Into<String>) {
        self.lock().url = Some(url.into());
    }

    /// Where its admin port is.
    pub fn admin_url(&self) -> String {
        self.lock().admin_url.clone()
    }

    pub(crate) fn write(&self) -> io::Result<()> {
        let Some(file) = &self.0.file else { return Ok(()) };
        let text = serde_json::to_vec(&*self.lock()).expect("strings and numbers are always JSON");
        let beside = beside(file);
        fs::write(&beside, text)?;
        fs::rename(&beside, file)
    }

    pub(crate) fn remove(&self) {
        if let Some(file) = &self.0.file {
            // Whoever reads it checks the process too.
            let _ = fs::remove_file(file);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    file.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_written_whole_and_taken_away() {
        let file = std::env::temp_dir().join(format!("trunkline-status-{}.json", std::process::id()));
        let status = Status::new(Some(file.clone()), "1", "http://127.0.0.1:9");

        status.set_url("http://127.0.0.1:8");
        status.write().unwrap();

        let told: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(told["adminUrl"], "http://127.0.0.1:9");
        assert_eq!(told["url"], "http://127.0.0.1:8");
        assert_eq!(told["pid"], std::process::id());
        status.remove();
        assert!(!file.exists() && !beside(&file).exists());
    }
}
