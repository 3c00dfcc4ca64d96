//! The claims of an access token (RFC 9068 §2.2) and which values of them count.

use serde_json::{Map, Value};

use super::strict;

/// Seconds by which the clocks of issuer and verifier may differ (S23 allows ten).
const LEEWAY_S: i64 = 5;

/// The last second that RFC 3339 can write; a time beyond it is nobody's.
const TIME_MAX_S: i64 = 253_402_300_799;

/// Longest text of one claim, in bytes.
const TEXT_MAX: usize = 256;

/// Roles that one token may name.
const ROLES_MAX: usize = 256;

/// The claims of a verified access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The user's id.
    pub sub: String,
    /// The session's id.
    pub sid: String,
    /// The token's id.
    pub jti: String,
    /// The client that asked for the token.
    pub client_id: String,
    /// Names of the roles that the user had when the token was made.
    pub roles: Vec<String>,
    /// Seconds since 1970 at which the token was made.
    pub iat: i64,
    /// Seconds since 1970 from which on the token does not count.
    pub exp: i64,
    /// Seconds since 1970 before which the token does not count.
    pub nbf: Option<i64>,
}

/// What must stand in every token.
pub(super) struct Expectation {
    pub(super) issuer: String,
    pub(super) audience: String,
}

impl Claims {
    /// Reads a verified payload. `None` where a claim is missing, of another type, or not what is expected. The
    /// audience is one text: a token that is meant for others too does not count.
    pub(super) fn read(payload: &str, expectation: &Expectation) -> Option<Self> {
        let members = strict::object(&strict::decode(payload)?)?;
        let is_ours = members.get("iss")?.as_str()? == expectation.issuer
            && members.get("aud")?.as_str()? == expectation.audience;
        if !is_ours {
            return None;
        }
        let claims = Self {
            sub: text(&members, "sub")?,
            sid: text(&members, "sid")?,
            jti: text(&members, "jti")?,
            client_id: text(&members, "client_id")?,
            roles: roles(members.get("roles"))?,
            iat: time(members.get("iat")?)?,
            exp: time(members.get("exp")?)?,
            nbf: members.get("nbf").map(|nbf| time(nbf).ok_or(())).transpose().ok()?,
        };
        (claims.iat < claims.exp).then_some(claims)
    }

    /// Whether the token counts at `now`, in seconds since 1970.
    pub(super) fn is_current(&self, now: i64) -> bool {
        let begun = self.iat.max(self.nbf.unwrap_or(self.iat));
        begun <= now + LEEWAY_S && now < self.exp + LEEWAY_S
    }
}

fn text(members: &Map<String, Value>, name: &str) -> Option<String> {
    let text = members.get(name)?.as_str()?;
    ((1..=TEXT_MAX).contains(&text.len()) && !text.contains(char::is_control)).then(|| text.to_owned())
}

fn roles(roles: Option<&Value>) -> Option<Vec<String>> {
    let Some(roles) = roles else { return Some(Vec::new()) };
    let roles = roles.as_array().filter(|roles| roles.len() <= ROLES_MAX)?;
    roles.iter().map(|role| role.as_str().filter(|role| role.len() <= TEXT_MAX).map(str::to_owned)).collect()
}

/// Whole seconds only: `1.0`, `1e9` and `"1"` are no times (CVE-2026-25537).
fn time(value: &Value) -> Option<i64> {
    value.as_i64().filter(|time| (0..=TIME_MAX_S).contains(time))
}
