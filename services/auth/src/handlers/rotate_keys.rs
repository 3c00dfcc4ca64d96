//! Makes the next signing key when the present one has signed for long enough.

use kernel::jobs::{Outcome, Run};
use kernel::{Context, Result};

use crate::Auth;

/// Run again, it finds the key that it made, which is not due.
pub(crate) async fn rotate_keys(auth: &Auth, run: &Run) -> Outcome {
    match rotate_if_due(auth, &run.cx).await {
        Ok(Some(key_id)) => Outcome::Done(format!(r#"{{"keyId":"{key_id}"}}"#)),
        Ok(None) => Outcome::Done(String::new()),
        Err(error) => error.into(),
    }
}

async fn rotate_if_due(auth: &Auth, cx: &Context) -> Result<Option<String>> {
    let oldest = cx.now() - auth.settings.key_rotation();
    let mut tx = auth.database.begin(cx).await?;
    let Some((key_id, times)) = auth.keyring.rotate(&mut tx, cx, |activates_at| activates_at <= oldest).await? else {
        return Ok(None);
    };
    tx.commit().await?;
    tracing::info!(key.id = key_id, activates_at = %times.activates_at, "Made the next signing key.");
    Ok(Some(key_id))
}
