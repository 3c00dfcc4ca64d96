//! `trunkline token`: an access token for scripts.

use anyhow::Result;

use super::api::Session;
use super::options::Data;
use super::output::print;

pub(super) async fn run(data: &Data) -> Result<()> {
    print(Session::open(data).await?.token())
}
