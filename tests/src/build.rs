//! The programs that tests run: built by the step that `up` takes in a repository, with the profile of the tests
//! themselves, which does nothing when they are fresh.

use std::path::PathBuf;

use tokio::sync::OnceCell;
use trunkline::platform::{programs::Programs, terminal::Terminal};

static PROGRAMS: OnceCell<Programs> = OnceCell::const_new();

/// The services and the gateway, built once a process.
pub async fn programs() -> Programs {
    let build = || Programs::find_or_build(Terminal::Silent);
    PROGRAMS.get_or_try_init(build).await.unwrap_or_else(|error| panic!("{error:#}")).clone()
}

/// The `trunkline` command, built beside the services.
pub async fn command() -> PathBuf {
    programs().await.path("trunkline")
}
