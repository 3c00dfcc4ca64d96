//! The programs that tests run: built by the step that `up` takes in a repository, with the profile of the tests
//! themselves, which does nothing when they are fresh.

use std::path::{Path, PathBuf};

use tokio::{process::Command, sync::OnceCell};
use trunkline::platform::{programs::Programs, terminal::Terminal};

static PROGRAMS: OnceCell<Programs> = OnceCell::const_new();
static COMMAND: OnceCell<PathBuf> = OnceCell::const_new();

/// The services and the gateway, built once a process.
pub async fn programs() -> Programs {
    let build = || Programs::find_or_build(Terminal::Silent);
    PROGRAMS.get_or_try_init(build).await.unwrap_or_else(|error| panic!("{error:#}")).clone()
}

/// The `trunkline` command, built once a process beside the services.
pub async fn command() -> &'static Path {
    COMMAND
        .get_or_init(|| async {
            let program = programs().await.path("trunkline");
            let mut folders = program.ancestors().skip(1);
            let (profile, target) = (folders.next().expect("<target>/<profile>/trunkline"), folders.next());
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--package", "trunkline", "--bin", "trunkline", "--target-dir"]);
            build.arg(target.expect("<target>/<profile>/trunkline"));
            if profile.ends_with("release") {
                build.arg("--release");
            }
            let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).kill_on_drop(true).status().await;
            assert!(status.expect("cargo runs").success(), "trunkline is built");
            program
        })
        .await
}
