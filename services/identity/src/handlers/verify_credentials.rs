//! Whether a password is right. For auth.

use std::sync::Arc;

use kernel::{Context, Result};
use subjects::identity::v1::{VerifyCredentialsReply, VerifyCredentialsRequest};

use crate::Identity;
use crate::domain::{Email, GivenPassword, Verdict};
use crate::storage::{self, SignIn};

/// Nobody with the address, a wrong, empty or overlong password and a disabled user all come to "not valid", after the
/// same work.
pub(crate) async fn verify_credentials(
    identity: &Identity,
    cx: &Context,
    request: VerifyCredentialsRequest,
) -> Result<VerifyCredentialsReply> {
    let password = Arc::new(GivenPassword::new(request.password.into()));
    let known = match Email::parse(&request.email) {
        Ok(email) => storage::find_sign_in(&mut *identity.database.pool().acquire().await?, &email).await?,
        Err(_) => None,
    };
    let stored = known.as_ref().map(|known| known.password_hash.clone());
    let verdict = identity.hashing.check(cx, Arc::clone(&password), stored).await?;

    let Some(known) = known else { return Ok(VerifyCredentialsReply::default()) };
    let user_id = known.user_id.to_string();
    if verdict == Verdict::Wrong || !known.state.may_sign_in() {
        return Ok(VerifyCredentialsReply { user_id, ..VerifyCredentialsReply::default() });
    }
    if verdict == Verdict::RightButOutdated {
        renew_hash(identity, cx, password, &known).await;
    }
    Ok(VerifyCredentialsReply { valid: true, user_id, roles: known.roles, password_version: known.password_version })
}

/// Now that the password is at hand, its hash is made again with the parameters in force. A failure keeps nobody out: the
/// next sign-in tries again.
async fn renew_hash(identity: &Identity, cx: &Context, password: Arc<GivenPassword>, known: &SignIn) {
    let renewing = async {
        if let Some(hash) = identity.hashing.renew(cx, password).await? {
            let mut connection = identity.database.pool().acquire().await?;
            storage::replace_hash(&mut connection, known.user_id, &known.password_hash, &hash, cx.now()).await?;
        }
        Ok::<_, kernel::Error>(())
    };
    if let Err(error) = renewing.await {
        tracing::warn!(?error, user.id = %known.user_id, "Could not replace an outdated password hash.");
    }
}
