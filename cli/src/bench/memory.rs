//! Identity's contract answered from memory, on the kernel and under identity's name: what the hop through gateway,
//! broker and kernel costs, without a database behind it.

use kernel::endpoint::Routes;
use kernel::settings::NoSettings;
use kernel::{Context, Error, Parts, Result, Service, StartError};
use subjects::ServiceContract;
use subjects::identity::v1::{
    CONTRACT, CreateUserRequest, GetMeRequest, GetUserRequest, GetUserRolesReply, GetUserRolesRequest, IdentityService,
    ListUsersReply, ListUsersRequest, RegisterReply, RegisterRequest, User, VerifyCredentialsReply,
    VerifyCredentialsRequest, register, user,
};

/// One user, who is everybody.
#[derive(Debug)]
pub(super) struct Identity;

impl Service for Identity {
    type Settings = NoSettings;

    const DATABASE: bool = false;

    fn contract() -> &'static ServiceContract {
        &CONTRACT
    }

    async fn build(_parts: Parts<NoSettings>) -> Result<Self, StartError> {
        Ok(Self)
    }

    fn routes(routes: &mut Routes<Self>) {
        register(routes);
    }
}

impl IdentityService<Context> for Identity {
    type Error = Error;

    async fn register(&self, _cx: &Context, _request: RegisterRequest) -> Result<RegisterReply> {
        Err(only_me())
    }

    async fn create_user(&self, _cx: &Context, _request: CreateUserRequest) -> Result<User> {
        Err(only_me())
    }

    async fn get_user(&self, _cx: &Context, _request: GetUserRequest) -> Result<User> {
        Err(only_me())
    }

    async fn get_me(&self, cx: &Context, _request: GetMeRequest) -> Result<User> {
        cx.user_id()?;
        Ok(me())
    }

    async fn list_users(&self, _cx: &Context, _request: ListUsersRequest) -> Result<ListUsersReply> {
        Err(only_me())
    }

    async fn verify_credentials(
        &self,
        _cx: &Context,
        _request: VerifyCredentialsRequest,
    ) -> Result<VerifyCredentialsReply> {
        Err(only_me())
    }

    async fn get_user_roles(&self, _cx: &Context, _request: GetUserRolesRequest) -> Result<GetUserRolesReply> {
        Err(only_me())
    }
}

fn only_me() -> Error {
    Error::not_found("The benchmark's service answers GetMe alone.")
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
    }
}

/// The reply's body, for who does not encode it anew each time.
pub(super) fn me_as_json() -> Vec<u8> {
    subjects::json::encode(&me())
}
