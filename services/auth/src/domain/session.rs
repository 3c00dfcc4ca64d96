//! Sessions and what becomes of a refresh token that is presented.
//!
//! ```text
//!            first use: rotate                   again within the repeat time: the same successor
//! [issued] ---------------------> [exchanged] ------------------------------------------------->
//!    | idle or absolute end            | again later: reuse
//!    v                                 v
//! refused                       session revoked
//! ```

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// A session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub Uuid);

/// A user's id. Auth knows nothing else about users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserId(pub Uuid);

impl SessionId {
    /// Reads the id from a token's claim; `None` for what is no id.
    pub fn parse(given: &str) -> Option<Self> {
        Uuid::try_parse(given).ok().map(Self)
    }
}

impl UserId {
    /// Reads the id from identity's answer; `None` for what is no id.
    pub fn parse(given: &str) -> Option<Self> {
        Uuid::try_parse(given).ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a session ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokedReason {
    /// The user signed out.
    Logout,
    /// A token that had been exchanged was presented again.
    RefreshTokenReused,
    /// The user was disabled or deleted.
    UserGone,
    /// The user has another password than the one that began it, or was disabled and enabled since.
    PasswordChanged,
}

/// Which password of a user counts, and so which sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordMark {
    /// Counts the user's passwords, the first being 1, and how often they were disabled; 0 where that is not told.
    pub version: u32,
    /// The session by which the user changed it; it goes on.
    pub kept_session: Option<SessionId>,
}

/// How long refresh tokens count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// From one exchange to the next.
    pub idle: TimeDelta,
    /// From the sign-in, however often tokens are exchanged.
    pub absolute: TimeDelta,
    /// After an exchange, for a client that did not hear its answer (FAPI 2.0 wants a rotation to be repeatable).
    pub repeat: TimeDelta,
}

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    /// UUIDv7.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// When the password was last given.
    pub authenticated_at: DateTime<Utc>,
    /// Which of the user's passwords that was, see [`PasswordMark`].
    pub password_version: u32,
    /// When no token of it counts any more.
    pub expires_at: DateTime<Utc>,
    /// Whether it ended before its time.
    pub is_revoked: bool,
}

impl Session {
    /// A session that begins now.
    pub fn begin(
        id: SessionId,
        user_id: UserId,
        password_version: u32,
        now: DateTime<Utc>,
        lifetimes: Lifetimes,
    ) -> Self {
        let expires_at = now + lifetimes.absolute;
        Self { id, user_id, authenticated_at: now, password_version, expires_at, is_revoked: false }
    }

    /// Whether it goes on under the password that its user has now.
    pub fn counts_under(&self, password: PasswordMark) -> bool {
        password.version == 0 || self.password_version >= password.version || password.kept_session == Some(self.id)
    }

    /// Until when a token that is issued now counts: never beyond the session.
    pub fn token_expires_at(&self, now: DateTime<Utc>, lifetimes: Lifetimes) -> DateTime<Utc> {
        self.expires_at.min(now + lifetimes.idle)
    }

    /// What becomes of `token`, whose kept state is `kept`, now. Decided under the lock of the session.
    pub fn exchange(&self, kept: &KeptToken, now: DateTime<Utc>, lifetimes: Lifetimes) -> Exchange {
        if self.is_revoked || now >= self.expires_at {
            return Exchange::Refuse;
        }
        match kept.used_at {
            Some(used_at) if now < used_at + lifetimes.repeat => Exchange::Repeat,
            Some(_) => Exchange::Revoke,
            None if now >= kept.expires_at => Exchange::Refuse,
            None => Exchange::Rotate,
        }
    }
}

/// A refresh token as kept.
#[derive(Clone, Copy, Debug)]
pub struct KeptToken {
    /// From when on it does not count, if it was not used.
    pub expires_at: DateTime<Utc>,
    /// When it was exchanged.
    pub used_at: Option<DateTime<Utc>>,
}

/// What becomes of a presented refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Its first use: its successor replaces it.
    Rotate,
    /// The client asks again: it gets the same successor.
    Repeat,
    /// It has been stolen, or its owner's has: the session ends (RFC 9700 §4.14.2).
    Revoke,
    /// It does not count.
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes =
        Lifetimes { idle: TimeDelta::days(7), absolute: TimeDelta::days(30), repeat: TimeDelta::seconds(10) };

    fn start() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn session() -> Session {
        Session::begin(SessionId(Uuid::nil()), UserId(Uuid::nil()), 2, start(), LIFETIMES)
    }

    fn token(issued_at: DateTime<Utc>, used_at: Option<DateTime<Utc>>) -> KeptToken {
        KeptToken { expires_at: session().token_expires_at(issued_at, LIFETIMES), used_at }
    }

    fn outcome(session: &Session, token: &KeptToken, now: DateTime<Utc>) -> Exchange {
        session.exchange(token, now, LIFETIMES)
    }

    #[test]
    fn token_is_exchanged_once_and_repeated_for_ten_seconds() {
        let used_at = start() + TimeDelta::minutes(5);
        let used = token(start(), Some(used_at));

        assert_eq!(outcome(&session(), &token(start(), None), used_at), Exchange::Rotate);
        assert_eq!(outcome(&session(), &used, used_at), Exchange::Repeat);
        assert_eq!(outcome(&session(), &used, used_at + TimeDelta::milliseconds(9_999)), Exchange::Repeat);
        assert_eq!(outcome(&session(), &used, used_at + TimeDelta::seconds(10)), Exchange::Revoke);
        assert_eq!(outcome(&session(), &used, used_at + TimeDelta::days(8)), Exchange::Revoke);
    }

    #[test]
    fn token_ends_after_seven_idle_days_and_the_session_after_thirty() {
        let last = start() + TimeDelta::days(28);

        assert_eq!(outcome(&session(), &token(start(), None), start() + TimeDelta::days(7)), Exchange::Refuse);
        assert_eq!(
            outcome(&session(), &token(last, None), start() + TimeDelta::days(30) - TimeDelta::seconds(1)),
            Exchange::Rotate
        );
        assert_eq!(outcome(&session(), &token(last, None), start() + TimeDelta::days(30)), Exchange::Refuse);
        assert_eq!(token(last, None).expires_at, session().expires_at);
    }

    #[test]
    fn session_counts_under_its_own_password_and_the_one_that_was_set_by_it() {
        let counts = |version, kept: Option<u128>| {
            let kept_session = kept.map(|id| SessionId(Uuid::from_u128(id)));
            session().counts_under(PasswordMark { version, kept_session })
        };

        assert!(counts(2, None) && counts(2, Some(1)));
        assert!(!counts(3, None) && !counts(3, Some(1)));
        assert!(counts(3, Some(0)));
        // Begun with a password that is newer than what was asked for before.
        assert!(counts(1, None));
        assert!(counts(0, None), "not told");
    }

    #[test]
    fn revoked_session_exchanges_nothing() {
        let revoked = Session { is_revoked: true, ..session() };

        assert_eq!(outcome(&revoked, &token(start(), None), start()), Exchange::Refuse);
        assert_eq!(outcome(&revoked, &token(start(), Some(start())), start() + TimeDelta::hours(1)), Exchange::Refuse);
    }
}
