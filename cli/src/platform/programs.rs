//! The services' executables: built by cargo in a repository, else found beside this one.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::process::run_to_end;
use super::terminal::Terminal;

/// Every process of ours, in the order in which they are listed: the services, then the gateway.
pub fn names() -> Vec<&'static str> {
    subjects::SERVICES.iter().map(|service| service.name).chain([subjects::GATEWAY.name]).collect()
}

/// Where the executables lie.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Those in `folder`.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Builds them with cargo where this program was itself built in a repository, with the same profile into the same folder; else
    /// expects them beside this program. Waits for cargo: minutes the first time.
    ///
    /// # Errors
    /// When the build fails, or they are not where they should be.
    pub async fn find_or_build(terminal: Terminal) -> Result<Self> {
        let executable = std::env::current_exe().context("finding this program's own file")?;
        let programs = match Repository::of(&executable) {
            Some(repository) => repository.build(terminal).await?,
            None => Self { folder: executable.parent().context("an executable lies in a folder")?.to_owned() },
        };
        for name in names() {
            let program = programs.path(name);
            if !program.is_file() {
                bail!(
                    "{} is missing; install the services beside this program, or run it in a clone of the repository",
                    program.display()
                );
            }
        }
        Ok(programs)
    }

    /// The executable of a service or the gateway.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A clone, and how this program was built in it.
struct Repository {
    manifest: PathBuf,
    target: PathBuf,
    profile: String,
}

impl Repository {
    fn of(executable: &Path) -> Option<Self> {
        // …/<target>/<profile>/trunkline, or …/<target>/<profile>/deps/<test>
        let mut folder = executable.parent()?;
        if folder.ends_with("deps") {
            folder = folder.parent()?;
        }
        let (target, profile) = (folder.parent()?, folder.file_name()?.to_str()?);
        // Cargo marks its folders so; an installed program lies in none.
        if !target.join("CACHEDIR.TAG").exists() {
            return None;
        }
        // `cargo run` and `cargo test` say where the package is; a program started by hand lies in the repository by default.
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let root = package.iter().flat_map(|package| package.ancestors()).chain(target.ancestors()).find(|folder| {
            folder.join("Cargo.toml").is_file()
                && folder.join("cli/Cargo.toml").is_file()
                && folder.join("services").is_dir()
        })?;
        Some(Self { manifest: root.join("Cargo.toml"), target: target.to_owned(), profile: profile.to_owned() })
    }

    async fn build(&self, terminal: Terminal) -> Result<Programs> {
        // Cargo's name of the profile whose folder is `debug`.
        let profile = if self.profile == "debug" { "dev" } else { &self.profile };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(&cargo);
        command.arg("build").args(["--profile", profile]).arg("--manifest-path").arg(&self.manifest);
        command.arg("--target-dir").arg(&self.target);
        // The whole workspace: a selection of packages would be built with other features, and everything below them twice.
        command.args(["--workspace", "--bins"]);
        command.stdout(Stdio::null());
        if terminal == Terminal::Silent {
            command.arg("--quiet").stderr(Stdio::piped());
        }
        let output = run_to_end(command).await.with_context(|| format!("running {}", cargo.display()))?;
        if !output.status.success() {
            bail!("the services could not be built\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(Programs { folder: self.target.join(&self.profile) })
    }
}
