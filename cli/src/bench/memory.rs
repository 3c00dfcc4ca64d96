//! Identity's `GetMe` answered from memory, on the kernel and under identity's name: what the hop through gateway,
//! broker and kernel costs, without a database behind it.

use std::sync::Arc;

use kernel::endpoint::Routes;
use kernel::settings::NoSettings;
use kernel::{Context, Parts, Service, StartError};
use subjects::identity::v1::{CONTRACT, GET_ME, GetMeRequest, User, user};
use subjects::{Register as _, ServiceContract};

/// Identity's contract as far as the benchmark needs it.
static ONLY_ME: ServiceContract = ServiceContract {
    name: CONTRACT.name,
    version: CONTRACT.version,
    description: CONTRACT.description,
    endpoints: &[&GET_ME],
    events: &[],
    calls: CONTRACT.calls,
    consumers: &[],
    watches: &[],
    buckets: &[],
    enqueues: &[],
    jobs: &[],
};

/// One user, who is everybody.
#[derive(Debug)]
pub(super) struct Identity;

impl Service for Identity {
    type Settings = NoSettings;

    const DATABASE: bool = false;

    fn contract() -> &'static ServiceContract {
        &ONLY_ME
    }

    async fn build(_parts: Parts<NoSettings>) -> Result<Self, StartError> {
        Ok(Self)
    }

    fn routes(routes: &mut Routes<Self>) {
        routes.register(&GET_ME, |_: Arc<Self>, cx: Arc<Context>, _: GetMeRequest| async move {
            cx.user_id()?;
            Ok(me())
        });
    }
}

/// The size of a real user.
fn me() -> User {
    let time = subjects::Timestamp::parse("2026-01-02T03:04:05.678901Z");
    User {
        id: "0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b".to_owned(),
        email: "ada.lovelace@example.org".to_owned(),
        display_name: "Ada Lovelace".to_owned(),
        state: user::State::Active.into(),
        email_verified: true,
        created_at: time,
        updated_at: time,
        consistency_token: String::new(),
        revision: "17".to_owned(),
    }
}

/// The reply's body, for who does not encode it anew each time.
pub(super) fn me_as_json() -> Vec<u8> {
    subjects::json::encode(&me())
}
