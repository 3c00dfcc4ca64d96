//! The public keys that verify access tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kernel::{Context, Result};
use subjects::auth::v1::{Jwk, Jwks};

use crate::Auth;
use crate::storage::{self, PublicKey};

/// Read from the database each time, so that every instance gives the same answer; callers keep it.
pub(crate) async fn get_jwks(auth: &Auth, cx: &Context) -> Result<Jwks> {
    let mut connection = auth.database.pool().acquire().await?;
    let keys = storage::list_public_keys(&mut connection, cx.now()).await?;
    Ok(Jwks { keys: keys.iter().map(to_jwk).collect() })
}

/// RFC 8037 §2.
fn to_jwk(key: &PublicKey) -> Jwk {
    Jwk {
        kty: "OKP".to_owned(),
        crv: "Ed25519".to_owned(),
        x: URL_SAFE_NO_PAD.encode(&key.bytes),
        kid: key.id.as_str().to_owned(),
        r#use: "sig".to_owned(),
        alg: "EdDSA".to_owned(),
    }
}
