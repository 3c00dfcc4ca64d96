//! The access token in `Authorization` (RFC 6750 §2.1), where it is one at all. Whether it counts is not decided here.

use http::HeaderValue;

/// Longest token looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The token, or `None` for another scheme, no token, more than one, or characters that no token has.
pub(crate) fn token(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    let characters = token.trim_end_matches('=');
    let is_token = !characters.is_empty()
        && token.len() <= TOKEN_BYTES_MAX
        && characters.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then_some(token)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    fn token(value: &str) -> Option<String> {
        super::token(&HeaderValue::from_str(value).unwrap()).map(str::to_owned)
    }

    #[test]
    fn tokens_are_taken_out_of_their_header() {
        for good in ["Bearer abc.def-1_2~3+4/5=", "bearer abc.def-1_2~3+4/5=", "BEARER  abc.def-1_2~3+4/5="] {
            assert_eq!(token(good).as_deref(), Some("abc.def-1_2~3+4/5="), "{good}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        let long = format!("Bearer {}", "x".repeat(9_000));
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer\tabc",
            "Bearer a,b",
            "Bearer a b",
            "Bearer, abc",
            "Basic abc",
            "abc",
            "Bearer =",
            &long,
        ] {
            assert_eq!(token(bad), None, "{bad}");
        }
    }
}
