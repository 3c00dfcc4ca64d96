//! Looks for programs on this machine.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::process::User;
use super::Version;

/// Every executable of that name in `PATH`, first first.
pub(super) fn in_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).filter(|program| program.is_file()).collect()
}

/// Folders that may hold PostgreSQL's programs, the most specific hint first, newer versions before older ones.
pub(super) fn postgres_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = in_path("postgres")
        .iter()
        .filter_map(|program| program.canonicalize().ok()) // initdb looks for its files beside the real program.
        .filter_map(|program| program.parent().map(Path::to_owned))
        .collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output()
        && output.status.success()
    {
        folders.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    for (parent, below) in
        [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/opt/homebrew/opt", "bin"), ("/usr/local/opt", "bin")]
    {
        let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let digits = match parent {
                    "/usr/lib/postgresql" => Some(name.as_str()), // Debian: /usr/lib/postgresql/17/bin
                    "/usr" => name.strip_prefix("pgsql-"),        // Red Hat: /usr/pgsql-17/bin
                    _ => name.strip_prefix("postgresql@"),        // Homebrew: …/opt/postgresql@17/bin
                };
                Some((digits?.parse().ok()?, entry.path().join(below)))
            })
            .collect();
        found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        folders.extend(found.into_iter().map(|(_, folder)| folder));
    }
    folders
}

/// Runs the program with `--version`, as `user`, so that one which that user cannot reach does not count.
pub(super) fn version_of(program: &Path, user: Option<User>) -> Option<Version> {
    let mut command = Command::new(program);
    command.arg("--version").current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    let output = command.output().ok().filter(|output| output.status.success())?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// The first number with a dot, or the first number: `nats-server: v2.15.1`, `postgres (PostgreSQL) 18beta1`.
fn parse_version(text: &str) -> Option<Version> {
    let word = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    Some(Version(numbers.next()?, numbers.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some(Version(2, 15)));
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(Version(15, 18)));
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta2"), Some(Version(19, 0)));
        assert_eq!(parse_version("no number"), None);
    }
}
