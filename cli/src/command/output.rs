//! What the commands write: results on standard output, warnings and errors on standard error.

use std::fmt;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use anyhow::{Error, Result};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Who read the results has heard enough (`| head`): nothing is left to do, and nothing has failed.
#[derive(Debug)]
pub(super) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("nobody reads the standard output any more")
    }
}

impl std::error::Error for ReaderGone {}

/// Writes a result line.
///
/// # Errors
/// [`ReaderGone`] when the other end of the pipe is closed.
pub(super) fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Error::new(ReaderGone),
        _ => Error::new(error).context("writing to standard output"),
    })
}

/// Tells something beside the results.
pub(super) fn note(line: &str) {
    let _closed_terminal = writeln!(std::io::stderr(), "trunkline: {line}");
}

/// Tells why the command failed, in one line as far as the causes allow.
pub(super) fn complain(error: &Error) {
    let _closed_terminal = writeln!(std::io::stderr(), "trunkline: {}", in_one_line(error));
}

/// The error with its causes, without those that the one before already names.
fn in_one_line(error: &Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if parts.last().is_none_or(|last| !last.contains(&cause)) {
            parts.push(cause);
        }
    }
    parts.join(": ")
}

/// Shows what the supervisor has to say while a command runs.
pub(super) fn log_warnings() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Of libraries only what the errors of the commands do not tell anyway: nothing.
    let ours = Targets::new().with_target(env!("CARGO_PKG_NAME"), LevelFilter::WARN);
    tracing_subscriber::registry().with(lines.with_filter(ours)).init();
}

/// Lines up columns with two blanks between them; the last column is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What is shown in a table: a terminal must not be driven by what somebody else wrote into a field.
pub(super) fn cell(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_already_told_is_not_told_again() {
        let error = anyhow::anyhow!("refused").context("nats: refused").context("connecting");
        assert_eq!(in_one_line(&error), "connecting: nats: refused");
    }

    #[test]
    fn columns_line_up_and_control_characters_do_not_reach_the_terminal() {
        let rows = vec![vec!["a".to_owned(), "long".to_owned()], vec!["bbb".to_owned(), cell("x\u{1b}[2J")]];
        assert_eq!(table(&rows), "a    long\nbbb  x\u{fffd}[2J");
    }
}
