//! What users are told by mail: plain text, without a link or a credential.

/// Why somebody is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An administrator made an account for them.
    AccountCreated,
    /// An administrator changed which roles they hold.
    RolesChanged,
    /// An administrator gave them another password.
    PasswordSet,
    /// They changed their password, or somebody who knew it.
    PasswordChanged,
}

/// A letter without its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// One line.
    pub subject: &'static str,
    /// Lines of text.
    pub text: String,
}

impl Notice {
    /// The letter to a user of this name and address, who holds these roles.
    pub fn compose(purpose: Purpose, name: &str, email: &str, roles: &[String]) -> Self {
        let held = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
        let (subject, told) = match purpose {
            Purpose::AccountCreated => (
                "An account was made for you",
                format!(
                    "An administrator made an account for you. You sign in with the address {email} and the password that the \
                     administrator tells you.\n\nYour roles: {held}"
                ),
            ),
            Purpose::RolesChanged => (
                "Your roles were changed",
                format!("An administrator changed which roles you hold.\n\nYour roles now: {held}"),
            ),
            Purpose::PasswordSet => (
                "You have another password",
                "An administrator gave you another password. Wherever you were signed in you are asked to sign in again, with the \
                 password that the administrator tells you."
                    .to_owned(),
            ),
            Purpose::PasswordChanged => (
                "Your password was changed",
                "Your password was changed by somebody who knew the one before. Wherever else you were signed in you are asked to \
                 sign in again."
                    .to_owned(),
            ),
        };
        let name = one_line(name);
        let text = format!("Hello {name},\n\n{told}\n\nIf this is not what you expect, ask your administrator.\n");
        Self { subject, text }
    }
}

/// Text that cannot end a line, whatever it holds.
pub fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() || is_separator(c) { ' ' } else { c }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Line and paragraph separators, which are no control characters.
fn is_separator(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_says_what_was_changed_and_what_holds_now() {
        let roles = ["auditor".to_owned(), "clerk".to_owned()];

        let created = Notice::compose(Purpose::AccountCreated, "Ann", "ann@example.org", &roles);
        let changed = Notice::compose(Purpose::RolesChanged, "Ann", "ann@example.org", &[]);

        assert!(created.text.starts_with("Hello Ann,\n") && created.text.contains("ann@example.org"));
        assert!(created.text.contains("Your roles: auditor, clerk\n"));
        assert!(changed.text.contains("Your roles now: none\n"));
    }

    #[test]
    fn a_name_stays_on_its_line() {
        for name in ["Ann\r\nBcc: all@example.org", "Ann\nBcc: all@example.org", "Ann\u{2028}Bcc: all@example.org"] {
            assert_eq!(one_line(name), "Ann Bcc: all@example.org");
        }
        assert_eq!(one_line("  李小龍 \t"), "李小龍");
    }
}
