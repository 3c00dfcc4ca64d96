//! Users.

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use uuid::Uuid;

use super::fault::collect;
use super::{DisplayName, Email, Fault, NewPassword, RoleName};

/// A user's id: a UUIDv7, so that its order is the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub Uuid);

impl UserId {
    /// Takes the hyphenated form only, in any case.
    pub fn parse(given: &str) -> Result<Self, Fault> {
        const INVALID: Fault = Fault::new("/userId", "invalid_id", "Give the id of a user, a UUID.");
        if given.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(INVALID);
        }
        Uuid::try_parse(given).map(Self).map_err(|_| INVALID)
    }
}

impl std::fmt::Display for UserId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a user may sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// May.
    Active,
    /// May; has not yet shown that the address is theirs.
    Unverified,
    /// May not.
    Disabled,
}

impl State {
    /// Whether a user in this state may sign in.
    pub fn may_sign_in(self) -> bool {
        self != Self::Disabled
    }
}

/// A user as kept.
#[derive(Clone, Debug)]
pub struct User {
    /// See [`UserId`].
    pub id: UserId,
    /// As given.
    pub email: String,
    /// 1 to 200 characters.
    pub display_name: String,
    /// Whether the user may sign in.
    pub state: State,
    /// Whether the address has been shown to be the user's.
    pub email_verified: bool,
    /// To the microsecond.
    pub created_at: DateTime<Utc>,
    /// To the microsecond; the time of creation at first.
    pub updated_at: DateTime<Utc>,
    /// Another one after each edit.
    pub revision: i64,
}

impl User {
    /// Another password for this user, and another name where one is given. Tells all faults at once. May take milliseconds.
    pub fn parse_password(
        &self,
        password: SecretString,
        display_name: Option<&str>,
    ) -> Result<(Option<DisplayName>, NewPassword), Vec<Fault>> {
        let mut faults = Vec::new();
        let email = Email::parse(&self.email).ok();
        let local_part = email.as_ref().map_or("", Email::local_part);
        let normalised = email.as_ref().map_or("", Email::normalised);
        let about = [normalised, local_part, &self.display_name, display_name.unwrap_or_default()];
        let password = collect(&mut faults, NewPassword::parse(password, &about));
        let display_name = collect(&mut faults, display_name.map(DisplayName::parse).transpose());
        match (display_name, password) {
            (Some(display_name), Some(password)) => Ok((display_name, password)),
            _ => Err(faults),
        }
    }
}

/// Which of a user's passwords counts, and so which sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PasswordMark {
    /// Counts the passwords, the first being 1, and how often the user was disabled; 0 for who has none.
    pub version: u32,
    /// The session by which the user changed it; none where somebody else did.
    pub kept_session: Option<Uuid>,
}

/// A user to be made, with everything checked that can be checked without asking the database.
#[derive(Debug)]
pub struct NewUser {
    /// Not yet known to be free.
    pub email: Email,
    /// The name.
    pub display_name: DisplayName,
    /// In order, each once; empty for none.
    pub roles: Vec<RoleName>,
}

impl NewUser {
    /// Besides gives the password. Tells all faults at once. May take milliseconds, which the estimate of the password's
    /// strength needs.
    pub fn parse(
        email: &str,
        password: SecretString,
        display_name: &str,
        roles: &[String],
    ) -> Result<(Self, NewPassword), Vec<Fault>> {
        let mut faults = Vec::new();
        let email = collect(&mut faults, Email::parse(email));
        let local_part = email.as_ref().map_or("", Email::local_part);
        let normalised = email.as_ref().map_or("", Email::normalised);
        let password = collect(&mut faults, NewPassword::parse(password, &[normalised, local_part, display_name]));
        let display_name = collect(&mut faults, DisplayName::parse(display_name));
        let roles = collect(&mut faults, RoleName::parse_all(roles));
        match (email, password, display_name, roles) {
            (Some(email), Some(password), Some(display_name), Some(roles)) => {
                Ok((Self { email, display_name, roles }, password))
            }
            _ => Err(faults),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        let faults = NewUser::parse("nobody", "short".into(), "", &["No Role".to_owned()]).unwrap_err();

        let told: Vec<_> = faults.iter().map(|fault| (fault.pointer, fault.code)).collect();
        assert_eq!(
            told,
            [
                ("/email", "invalid_email"),
                ("/password", "password_too_short"),
                ("/displayName", "required"),
                ("/roles", "invalid_role")
            ]
        );
    }

    #[test]
    fn other_password_is_judged_by_what_is_known_of_its_user() {
        const COMMON: (&str, &str) = ("/password", "password_too_common");
        let now = DateTime::UNIX_EPOCH;
        let user = User {
            id: UserId(Uuid::nil()),
            email: "ann.example@example.org".to_owned(),
            display_name: "Quentin Oppenheim".to_owned(),
            state: State::Active,
            email_verified: false,
            created_at: now,
            updated_at: now,
            revision: 1,
        };
        let faults = |password: &str, name: Option<&str>| -> Vec<(&str, &str)> {
            let faults = user.parse_password(password.into(), name).err().unwrap_or_default();
            faults.iter().map(|fault| (fault.pointer, fault.code)).collect()
        };

        assert_eq!(faults("correct horse battery staple", None), []);
        assert_eq!(faults("ann.example@example.org", None), [COMMON]);
        assert_eq!(faults("Quentin Oppenheim", None), [COMMON]);
        assert_eq!(faults("Wilhelmina Zyskowski", None), []);
        assert_eq!(faults("Wilhelmina Zyskowski", Some("Wilhelmina Zyskowski")), [COMMON]);
        assert_eq!(faults("short", Some("")), [("/password", "password_too_short"), ("/displayName", "required")]);
    }

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = "01932c07-20c3-7c31-a3f5-000000000001";

        assert_eq!(UserId::parse(id).unwrap().to_string(), id);
        for wrong in
            ["", "1", "01932c0720c37c31a3f5000000000001", "{01932c07-20c3-7c31-a3f5-000000000001}", "' OR 1=1 --"]
        {
            assert_eq!(UserId::parse(wrong).unwrap_err().code, "invalid_id");
        }
    }
}
