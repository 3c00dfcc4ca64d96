//! E-mail addresses: how they are written, and when two of them are the same.

use std::str::FromStr as _;

use email_address::{EmailAddress, Options};
use unicode_normalization::UnicodeNormalization as _;

use super::Fault;

/// Longest address in bytes (RFC 5321 §4.5.3.1.3, less the angle brackets).
const BYTES_MAX: usize = 254;

/// No display name, no `user@[127.0.0.1]`, and a dot in the domain (RFC 7085: a domain without one gets no mail).
const SYNTAX: Options = Options { minimum_sub_domains: 2, allow_domain_literal: false, allow_display_text: false };

/// An address that mail could be sent to.
///
/// Two addresses are the same when they agree after NFKC and lower-casing, the local part too: RFC 5321 §2.4 lets a
/// host tell `Ann@` from `ann@`, no mailbox provider does, and two accounts for one person are the greater harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    given: String,
    normalised: String,
}

impl Email {
    /// Checks the syntax of RFC 5321 and RFC 6531 (international addresses).
    pub fn parse(given: &str) -> Result<Self, Fault> {
        const INVALID: Fault = Fault::new("/email", "invalid_email", "Give an e-mail address such as ann@example.org.");
        if given.len() > BYTES_MAX || !is_address(given) {
            return Err(INVALID);
        }
        let normalised = normalise(given);
        // A compatibility character may turn into `@` or a dot: then it is another address than it looks.
        if normalised.len() > BYTES_MAX || !is_address(&normalised) {
            return Err(INVALID);
        }
        Ok(Self { given: given.to_owned(), normalised })
    }

    /// As it was given, for showing it and for sending mail.
    pub fn as_given(&self) -> &str {
        &self.given
    }

    /// As it is compared and found.
    pub fn normalised(&self) -> &str {
        &self.normalised
    }

    /// What stands before the `@`, normalised.
    pub fn local_part(&self) -> &str {
        self.normalised.rsplit_once('@').map_or("", |(local, _)| local)
    }
}

fn is_address(text: &str) -> bool {
    !text.contains(char::is_control)
        && EmailAddress::parse_with_options(text, SYNTAX).is_ok()
        && EmailAddress::from_str(text).is_ok()
}

/// NFKC twice, since lower-casing can leave that form.
fn normalise(given: &str) -> String {
    given.nfkc().collect::<String>().to_lowercase().nfkc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_compatibility_forms_are_one_address() {
        let plain = Email::parse("ann@example.org").unwrap();

        for same in ["Ann@Example.ORG", "ＡＮＮ@example.org", "ann@ｅxample.org"] {
            assert_eq!(Email::parse(same).unwrap().normalised(), plain.normalised(), "{same}");
        }
    }

    #[test]
    fn address_is_kept_as_given() {
        let email = Email::parse("Ann.Example+news@Example.org").unwrap();

        assert_eq!(email.as_given(), "Ann.Example+news@Example.org");
        assert_eq!(email.local_part(), "ann.example+news");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@{}.example.org", "a".repeat(64), "b".repeat(60).repeat(4));
        let wrong = [
            "",
            " ",
            "ann",
            "@example.org",
            "ann@",
            "ann@example",
            "ann@localhost",
            "ann@[127.0.0.1]",
            "a b@example.org",
            "Ann <ann@example.org>",
            "ann@@example.org",
            "ann@example..org",
            " ann@example.org",
            "ann@example.org\n",
            "ann\0@example.org",
            "ann﹫x@example.org",
            "ann@-example.org",
            long.as_str(),
        ];

        for address in wrong {
            assert_eq!(Email::parse(address).map_err(|fault| fault.code), Err("invalid_email"), "{address:?}");
        }
    }
}
