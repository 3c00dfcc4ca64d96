//! `trunkline audit export`: the log in a file of one's own.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::api::Session;
use super::options::Data;
use super::output::print;

pub(super) const ABOUT: &str = "\
Write the log, or its part of some time, to a file, one JSON object a line

The last line is the signed checkpoint that covers the file. With --from or --to the file holds everything that was
written between the first and the last entry of that time, so that the chain has no hole, and on to the next checkpoint.
Only whole exports are kept. The file can be read by its owner only: addresses and user agents are in it.";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// The file; replaced where it exists
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only from this time on, RFC 3339
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let session = Session::open(&arguments.data).await?;
    let times = [("from", &arguments.from), ("to", &arguments.to)];
    let query: Vec<(&str, String)> =
        times.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
    let partial = beside(&arguments.out)?;
    match write(&session, &query, &partial).await {
        Ok(entries) => {
            fs::rename(&partial, &arguments.out).with_context(|| format!("naming {}", arguments.out.display()))?;
            print(&format!("{entries} entries in {}", arguments.out.display()))
        }
        Err(error) => {
            let _what_was_never_whole = fs::remove_file(&partial);
            Err(error)
        }
    }
}

/// Where the file grows until it is whole.
fn beside(out: &Path) -> Result<PathBuf> {
    let mut name = out.file_name().context("--out names no file")?.to_owned();
    name.push(".partial");
    Ok(out.with_file_name(name))
}

/// Writes the export to `file`, and says how many entries it has.
async fn write(session: &Session, query: &[(&str, String)], file: &Path) -> Result<u64> {
    let mut answer = session.stream("/api/v1/audit/export", query).await?;
    let file_of_its_owner = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    let file = file_of_its_owner.with_context(|| format!("writing {}", file.display()))?;
    let mut file = BufWriter::new(file);
    let mut lines = Lines::default();
    while let Some(chunk) = answer.chunk().await.context("the export was cut off; try again")? {
        file.write_all(&chunk).context("writing the export")?;
        lines.see(&chunk);
    }
    if lines.last != CHECKPOINT {
        bail!("the export was cut off: it does not end with a checkpoint; try again");
    }
    sync(file)?;
    Ok(lines.number - 1)
}

/// What the last line begins with.
const CHECKPOINT: &[u8] = br#"{"checkpoint":"#;

/// Counts lines, and remembers how the last whole one begins.
#[derive(Default)]
struct Lines {
    number: u64,
    begin: Vec<u8>,
    last: Vec<u8>,
}

impl Lines {
    fn see(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let room = CHECKPOINT.len() - self.begin.len();
            self.begin.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.number += 1;
                self.last = std::mem::take(&mut self.begin);
            }
        }
    }
}

fn sync(file: BufWriter<File>) -> Result<()> {
    let file = file.into_inner().context("writing the export")?;
    file.sync_all().context("writing the export")
}
