//! `trunkline audit`: the log, read through the gateway.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::api::Session;
use super::options::Data;
use super::output::{cell, print, table};
use super::{audit_export, audit_verify};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List who did what, the newest first
    List(List),
    /// List the signed checkpoints of the log, the newest first
    Checkpoints(Checkpoints),
    /// Write the log, or its part of some time, to a file, one JSON object a line
    #[command(long_about = audit_export::ABOUT)]
    Export(audit_export::Arguments),
    /// Check an exported file, offline
    #[command(long_about = audit_verify::ABOUT)]
    Verify(audit_verify::Arguments),
}

#[derive(Args, Debug)]
pub(super) struct Checkpoints {
    #[command(flatten)]
    data: Data,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// One JSON object a line, with every field
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    data: Data,
    /// Only what this actor did: an id
    #[arg(long, value_name = "ID")]
    actor: Option<String>,
    /// Only this action, for example auth.session.created
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only what was done to this: an id
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    /// Only what ended so: SUCCESS, DENIED or FAILURE
    #[arg(long, value_name = "OUTCOME", ignore_case = true, value_parser = ["SUCCESS", "DENIED", "FAILURE"])]
    outcome: Option<String>,
    /// Only from this time on, RFC 3339
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How many entries at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// One JSON object a line, with every field
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => list(arguments).await?,
        Command::Checkpoints(arguments) => checkpoints(&arguments).await?,
        Command::Export(arguments) => audit_export::run(&arguments).await?,
        Command::Verify(arguments) => return audit_verify::run(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

async fn checkpoints(arguments: &Checkpoints) -> Result<()> {
    let session = Session::open(&arguments.data).await?;
    let (checkpoints, _) = session.pages("/api/v1/audit/checkpoints", &[], arguments.limit).await?;
    if arguments.json {
        return checkpoints.iter().try_for_each(|checkpoint| print(&checkpoint.to_string()));
    }
    if checkpoints.is_empty() {
        return print("no checkpoints");
    }
    let heading = ["SEQUENCE", "TIME", "HASH", "PUBLIC KEY"].map(str::to_owned).to_vec();
    let row = |checkpoint: &Value| {
        ["sequence", "time", "hash", "publicKey"].map(|field| cell(checkpoint[field].as_str().unwrap_or("-"))).to_vec()
    };
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(checkpoints.iter().map(row)).collect();
    print(&table(&rows))
}

async fn list(list: List) -> Result<()> {
    let session = Session::open(&list.data).await?;
    let filters = [
        ("actor", &list.actor),
        ("action", &list.action),
        ("target", &list.target),
        ("outcome", &list.outcome.as_ref().map(|outcome| outcome.to_ascii_uppercase())),
        ("from", &list.from),
        ("to", &list.to),
    ];
    let filters: Vec<(&str, String)> =
        filters.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
    let (entries, are_more) = session.pages("/api/v1/audit/entries", &filters, list.limit).await?;
    if list.json {
        return entries.iter().try_for_each(|entry| print(&entry.to_string()));
    }
    if entries.is_empty() {
        return print("no entries");
    }
    let heading = ["SEQUENCE", "TIME", "ACTION", "OUTCOME", "ACTOR", "TARGET", "ADDRESS"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(entries.iter().map(row)).collect();
    print(&table(&rows))?;
    if are_more { print(&format!("… and more; --limit shows more than {}", list.limit)) } else { Ok(()) }
}

fn row(entry: &Value) -> Vec<String> {
    let text = |value: &Value| cell(value.as_str().unwrap_or("-"));
    let reference = |value: &Value| match (value["type"].as_str(), value["id"].as_str()) {
        (Some(kind), Some(id)) if !id.is_empty() => cell(&format!("{kind}:{id}")),
        (Some(kind), _) => cell(kind),
        _ => "-".to_owned(),
    };
    vec![
        text(&entry["sequence"]),
        text(&entry["time"]),
        text(&entry["action"]),
        text(&entry["outcome"]),
        reference(&entry["actor"]),
        reference(&entry["target"]),
        text(&entry["ipAddress"]),
    ]
}
