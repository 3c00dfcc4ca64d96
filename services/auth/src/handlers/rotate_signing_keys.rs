//! Somebody wants another key to sign.

use kernel::{Context, Result};
use subjects::auth::v1::RotateSigningKeysReply;

use crate::Auth;

pub(crate) async fn rotate_signing_keys(auth: &Auth, cx: &Context) -> Result<RotateSigningKeysReply> {
    let mut tx = auth.database.begin(cx).await?;
    let rotated = auth.keyring.rotate(&mut tx, cx, |_| true).await?;
    let (key_id, times) = rotated.expect("it is due, always");
    tx.commit().await?;
    Ok(RotateSigningKeysReply {
        key_id,
        created_at: Some(times.created_at.into()),
        activates_at: Some(times.activates_at.into()),
    })
}
