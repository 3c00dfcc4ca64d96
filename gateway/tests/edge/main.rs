//! What the edge promises, observed from outside on real parts. How endpoints behave behind it is their services' and
//! the scenarios' to test.
#![expect(clippy::unwrap_used, unreachable_pub, reason = "a test binary")]

mod answers;
mod events;
mod framing;
mod http2;
mod limits;
mod pages;
mod raw;
mod routing;

use platform_tests::{Platform, Setup};
use tokio::sync::OnceCell;

/// The platform of the tests that change nothing of it. It ends with the process, as its servers do.
async fn shared() -> &'static Platform {
    static SHARED: OnceCell<Platform> = OnceCell::const_new();
    SHARED.get_or_init(|| edge().start()).await
}

/// A platform for tests that ask nothing of the audit log.
fn edge() -> Setup {
    Setup::new().instances("audit", 0)
}
