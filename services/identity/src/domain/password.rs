//! Passwords: which new ones are taken, and the one form in which every password is hashed.
//!
//! No rules of composition and no expiry (NIST SP 800-63B-4 §3.1.1.2): length, and not being among what attackers try.
//! Every password is brought to NFKC before it is counted, judged or hashed, so that one that is typed on two keyboards
//! stays one password.

use secrecy::{ExposeSecret as _, SecretString};
use unicode_normalization::UnicodeNormalization as _;
use zxcvbn::Score;

use super::Fault;

/// Shortest password, in code points after NFKC, where it is the only factor (NIST SP 800-63B-4 §3.1.1.2).
const CODE_POINTS_MIN: usize = 15;

/// Longest password, in bytes of UTF-8, before and after NFKC. Bounds what one request can make us hash.
const BYTES_MAX: usize = 1_024;

/// Longest password whose guesses are estimated, in code points: the estimate's cost grows with the square, and no list
/// of common passwords reaches so far.
const ESTIMATED_CODE_POINTS_MAX: usize = 100;

/// Words that an attacker of this platform tries first.
const PRODUCT_WORDS: [&str; 2] = ["trunkline", "admin"];

/// A password that somebody signs in with: anything at all may come, and most of what may come can be no password.
#[derive(Debug)]
pub struct GivenPassword(Option<SecretString>);

impl GivenPassword {
    /// Brings the password to the form in which it was hashed.
    #[expect(clippy::needless_pass_by_value, reason = "taken, so that the plain text is wiped when it has been read")]
    pub fn new(given: SecretString) -> Self {
        let given = given.expose_secret();
        Self(
            (!given.is_empty() && given.len() <= BYTES_MAX)
                .then(|| normalise(given))
                .filter(|normalised| normalised.expose_secret().len() <= BYTES_MAX),
        )
    }

    /// The bytes to hash; `None` when no user can have this password because it is empty or too long.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|password| password.expose_secret().as_bytes())
    }
}

/// A password that somebody wants to have: long enough, not too long, no control characters, not easily guessed.
#[derive(Debug)]
pub struct NewPassword(SecretString);

impl NewPassword {
    /// `about` is what is known of the user: what an attacker tries too. May take milliseconds.
    #[expect(clippy::needless_pass_by_value, reason = "taken, so that the plain text is wiped when it has been read")]
    pub fn parse(given: SecretString, about: &[&str]) -> Result<Self, Fault> {
        let fault = |code, detail| Err(Fault::new("/password", code, detail));
        let given = given.expose_secret();
        if given.len() > BYTES_MAX {
            return fault("password_too_long", "Give at most 1,024 bytes.");
        }
        let normalised = normalise(given);
        let password = normalised.expose_secret();
        if password.len() > BYTES_MAX {
            return fault("password_too_long", "Give at most 1,024 bytes.");
        }
        if password.contains(char::is_control) {
            return fault("invalid_characters", "Leave out control characters.");
        }
        let code_points = password.chars().count();
        if code_points < CODE_POINTS_MIN {
            return fault("password_too_short", "Give at least 15 characters; a few words will do.");
        }
        if code_points <= ESTIMATED_CODE_POINTS_MAX && is_guessable(password, about) {
            return fault(
                "password_too_common",
                "This password is among the first that attackers try. Give another one.",
            );
        }
        Ok(Self(normalised))
    }

    /// The bytes to hash.
    pub fn bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

/// Whether fewer than 10^8 guesses find it, by lists of 30,000 common passwords, of names and of words, and by the ways
/// in which people alter and repeat them. A plain list would be blind here: hardly a listed password has 15 characters.
fn is_guessable(password: &str, about: &[&str]) -> bool {
    let known: Vec<&str> = about.iter().chain(&PRODUCT_WORDS).copied().collect();
    zxcvbn::zxcvbn(password, &known).score() < Score::Three
}

fn normalise(given: &str) -> SecretString {
    // The capacity is enough for all but compatibility characters, so that no copy is left behind by growing.
    let mut normalised = String::with_capacity(given.len().saturating_mul(2));
    normalised.extend(given.nfkc());
    SecretString::from(normalised)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: [&str; 3] = ["ann.example@example.org", "ann.example", "Ann Example"];

    fn code(password: &str) -> &'static str {
        NewPassword::parse(password.into(), &ABOUT).map_or_else(|fault| fault.code, |_| "ok")
    }

    #[test]
    fn length_alone_makes_a_password() {
        for password in [
            "correct horse battery staple",
            "   many spaces are fine   ",
            "лошадь батарея скрепка",
            "fünfzehn-zeichen",
            "wzkfhqtmxbnvpdr",
            "gravel otter window",
        ] {
            assert_eq!(code(password), "ok", "{password}");
        }
    }

    #[test]
    fn length_is_counted_in_code_points_after_nfkc_and_bounded_in_bytes() {
        assert_eq!(code("wzkfhqtmxbnvpd"), "password_too_short");
        assert_eq!(code(&"é".repeat(512)), "ok");
        assert_eq!(code(&"é".repeat(513)), "password_too_long");
        // U+FDFA is 3 bytes and becomes 33.
        assert_eq!(code(&"\u{fdfa}".repeat(300)), "password_too_long");
        // Eight letters with eight combining accents are eight code points.
        assert_eq!(code("e\u{301}a\u{301}o\u{301}u\u{301}i\u{301}e\u{301}o\u{301}a\u{301}"), "password_too_short");
    }

    #[test]
    fn what_attackers_try_first_is_refused() {
        for password in [
            "passwordpassword",
            "password1234567890",
            "123456789012345",
            "qwertyuiopasdfgh",
            "aaaaaaaaaaaaaaaa",
            "iloveyouiloveyou",
            "Password123456!",
            "trunklinetrunkline",
            "ann.example@example.org",
            "Ann Example 2024",
        ] {
            assert_eq!(code(password), "password_too_common", "{password}");
        }
    }

    #[test]
    fn control_characters_are_refused() {
        for password in
            ["correct horse\0battery staple", "correct horse\nbattery staple", "correct horse\u{1b}battery staple"]
        {
            assert_eq!(code(password), "invalid_characters");
        }
    }

    #[test]
    fn two_normal_forms_are_one_password() {
        let composed = NewPassword::parse("pr\u{e9}cieux-tr\u{e9}sor-cach\u{e9}".into(), &[]).unwrap();
        let decomposed = GivenPassword::new("pre\u{301}cieux-tre\u{301}sor-cache\u{301}".into());

        assert_eq!(Some(composed.bytes()), decomposed.bytes());
    }

    #[test]
    fn what_can_be_nobodys_password_is_never_hashed() {
        assert_eq!(GivenPassword::new("".into()).bytes(), None);
        assert_eq!(GivenPassword::new("x".repeat(1_025).into()).bytes(), None);
        assert!(GivenPassword::new("x".repeat(1_024).into()).bytes().is_some());
    }

    #[test]
    fn passwords_do_not_print() {
        let password = NewPassword::parse("correct horse battery staple".into(), &[]).unwrap();

        assert!(!format!("{password:?}").contains("horse"));
    }
}
