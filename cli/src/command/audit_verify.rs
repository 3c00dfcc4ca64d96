//! `trunkline audit verify`: an exported file, checked with nothing but a public key.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use proof::{ExportReport, PublicKey};

use super::output::{cell, print};

pub(super) const ABOUT: &str = "\
Check an exported file, offline

Checks that no entry was altered, removed, put in or moved, and that the end is the one that was signed. Needs the file and
the public key only. Without a key the signature is checked with the key in the file, which shows that the file is whole,
but not whose it is: `trunkline audit checkpoints` shows the key. Exits with 1 when something is wrong, and says what and
where.";

/// Bytes read from the file at once.
const BUFFER_BYTES: usize = 1024 * 1024;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The file, as `trunkline audit export` writes it
    file: PathBuf,
    /// The key that is trusted, base64url, or a file with it; give several where the key was changed
    #[arg(long = "public-key", value_name = "KEY")]
    public_keys: Vec<String>,
    /// The report as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let trusted = arguments.public_keys.iter().map(|key| public_key(key)).collect::<Result<Vec<_>>>()?;
    let file = File::open(&arguments.file).with_context(|| format!("reading {}", arguments.file.display()))?;
    let report = proof::verify_lines(BufReader::with_capacity(BUFFER_BYTES, file), &trusted)
        .with_context(|| format!("reading {}", arguments.file.display()))?;
    if arguments.json {
        print(&json(&report).to_string())?;
    } else {
        tell(&report, !trusted.is_empty())?;
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn public_key(given: &str) -> Result<PublicKey> {
    if let Some(key) = PublicKey::parse(given) {
        return Ok(key);
    }
    let file = Path::new(given);
    if !file.is_file() {
        bail!("{given} is neither an Ed25519 public key in base64url nor a file with one");
    }
    let text = fs::read_to_string(file).with_context(|| format!("reading {given}"))?;
    PublicKey::parse(text.trim()).with_context(|| format!("{given} holds no Ed25519 public key in base64url"))
}

fn tell(report: &ExportReport, is_trusted: bool) -> Result<()> {
    for finding in &report.findings {
        print(&format!("{} at {}: {}", finding.kind, finding.sequence, cell(&finding.detail)))?;
    }
    let part = format!("{} entries, {} to {}", report.entries, report.first, report.last);
    if !report.findings.is_empty() {
        return print(&format!("does not hold: {} findings in {part}", report.findings_count));
    }
    let Some(checkpoint) = &report.checkpoint else { return print("does not hold") };
    let key = if is_trusted { "a trusted key" } else { "the key in the file, which nobody vouches for" };
    print(&format!("holds: {part}, signed {} by {key} ({})", checkpoint.time, checkpoint.public_key))
}

fn json(report: &ExportReport) -> serde_json::Value {
    let problems = report.findings.iter().map(|finding| {
        serde_json::json!({
            "sequence": finding.sequence.to_string(), "kind": finding.kind.as_str(), "detail": finding.detail,
        })
    });
    serde_json::json!({
        "valid": report.findings.is_empty(),
        "entries": report.entries.to_string(),
        "firstSequence": report.first.to_string(),
        "lastSequence": report.last.to_string(),
        "publicKey": report.checkpoint.as_ref().map(|checkpoint| checkpoint.public_key.to_string()),
        "problems": problems.collect::<Vec<_>>(),
    })
}
