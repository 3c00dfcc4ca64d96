//! Access tokens: signed JWTs after RFC 9068.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde::Serialize;
use uuid::Uuid;

use super::{Session, SigningKey};

/// The one client there is: whoever signs in with a password.
pub const CLIENT_ID: &str = "trunkline";

/// What an access token says.
#[derive(Debug, Serialize)]
pub struct AccessToken<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: Uuid,
    client_id: &'a str,
    iat: i64,
    exp: i64,
    jti: Uuid,
    sid: Uuid,
    roles: &'a [String],
    auth_time: i64,
}

impl<'a> AccessToken<'a> {
    /// A token for `session` that counts for `ttl` from `now`, both rounded down to the second. `jti` is new each time.
    pub fn new(
        issuer: &'a str,
        audience: &'a str,
        session: &Session,
        roles: &'a [String],
        jti: Uuid,
        now: DateTime<Utc>,
        ttl: TimeDelta,
    ) -> Self {
        let iat = now.timestamp();
        Self {
            iss: issuer,
            aud: audience,
            sub: session.user_id.0,
            client_id: CLIENT_ID,
            iat,
            exp: iat + ttl.num_seconds(),
            jti,
            sid: session.id.0,
            roles,
            auth_time: session.authenticated_at.timestamp(),
        }
    }

    /// The token in its compact form (RFC 7515 §7.1).
    pub fn sign(&self, key: &SigningKey) -> SecretString {
        let header = format!(r#"{{"typ":"at+jwt","alg":"EdDSA","kid":"{}"}}"#, key.id().as_str());
        let claims = serde_json::to_vec(self).expect("claims are plain values");
        // Room for the signature too: 64 bytes are 86 characters.
        let mut token = String::with_capacity((header.len() + claims.len()) * 4 / 3 + 96);
        URL_SAFE_NO_PAD.encode_string(header, &mut token);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = key.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token.into()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    use secrecy::ExposeSecret as _;
    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::{Lifetimes, MasterKey, SessionId, UserId};

    #[test]
    fn token_is_what_another_implementation_verifies() {
        let sealing = MasterKey::parse(&"0123456789abcdef".repeat(4).into()).unwrap().sealing_key();
        let (key, _) = SigningKey::make(&Zeroizing::new([5; 32]), &sealing);
        let signed_in = DateTime::from_timestamp(1_700_000_000, 999_000_000).unwrap();
        let lifetimes =
            Lifetimes { idle: TimeDelta::days(7), absolute: TimeDelta::days(30), repeat: TimeDelta::seconds(10) };
        let session =
            Session::begin(SessionId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)), 1, signed_in, lifetimes);
        let roles = ["admin".to_owned()];
        let now = signed_in + TimeDelta::hours(1);

        let token = AccessToken::new(
            "trunkline",
            "trunkline",
            &session,
            &roles,
            Uuid::from_u128(3),
            now,
            TimeDelta::minutes(5),
        )
        .sign(&key);

        let header = decode_header(token.expose_secret()).unwrap();
        assert_eq!((header.typ.as_deref(), header.kid.as_deref()), (Some("at+jwt"), Some(key.id().as_str())));
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&["trunkline"]);
        validation.validate_exp = false;
        let public_key = DecodingKey::from_ed_components(&URL_SAFE_NO_PAD.encode(key.public_key())).unwrap();
        let claims = decode::<serde_json::Value>(token.expose_secret(), &public_key, &validation).unwrap().claims;
        let expected = serde_json::json!({
            "iss": "trunkline", "aud": "trunkline", "client_id": "trunkline",
            "sub": "00000000-0000-0000-0000-000000000002",
            "sid": "00000000-0000-0000-0000-000000000001",
            "jti": "00000000-0000-0000-0000-000000000003",
            "iat": 1_700_003_600, "exp": 1_700_003_900, "auth_time": 1_700_000_000,
            "roles": ["admin"],
        });
        assert_eq!(claims, expected);
    }
}
