//! Writes the committed documents that are made from the contract; `.ci/generate` calls it.
//!
//! Refuses to replace the baseline by one that breaks its readers, unless called with `--accept-break`.

use std::{env, error::Error, fs, path::Path};

use subjects::baseline::{CURRENT, breaks};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::write(folder.join("openapi.json"), subjects::openapi::document())?;

    let baseline = folder.join("baseline.json");
    if baseline.exists() && !env::args().any(|argument| argument == "--accept-break") {
        let broken = breaks(&serde_json::from_slice(&fs::read(&baseline)?)?, &serde_json::from_str(CURRENT)?);
        if !broken.is_empty() {
            return Err(format!("this breaks readers of the contract:\n{}", broken.join("\n")).into());
        }
    }
    Ok(fs::write(baseline, CURRENT)?)
}
