//! The one error that crosses a boundary: an HTTP-like number, a stable code, a message for the caller, field pointers,
//! and a private source that is logged once and never sent.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use subjects::{FieldError, Problem};

/// What an endpoint answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// A refusal or failure as the caller sees it.
///
/// `Display` is for logs: status, code and detail, without the source. The detail must never hold a secret: it is sent.
/// Cloned where several wait for one outcome.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    status: u16,
    code: Cow<'static, str>,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// `status` is 400 to 599, `code` a stable snake_case word, `detail` a sentence that says what the caller can do.
    pub fn new(status: u16, code: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        debug_assert!((400..600).contains(&status), "{status} is not an error");
        Self(Box::new(Inner {
            status,
            code: code.into(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// 400: the request cannot be read.
    pub fn malformed(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, code, detail)
    }

    /// 401: no credential, or one that does not count.
    pub fn unauthenticated(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(401, code, detail)
    }

    /// 403 `permission_denied`.
    pub fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(403, "permission_denied", detail)
    }

    /// 404 `not_found`.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, "not_found", detail)
    }

    /// 409: the present state does not allow it.
    pub fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(409, code, detail)
    }

    /// 422 `validation_failed` with what is wrong where.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let mut error = Self::new(422, "validation_failed", "One or more fields are not valid.");
        error.0.errors = errors;
        error
    }

    /// 422 `validation_failed` for one field. `pointer` is a JSON pointer such as `/email`.
    pub fn field(pointer: impl Into<String>, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(pointer, code, detail)])
    }

    /// 503 `unavailable`: trying again later may help.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(503, "unavailable", detail)
    }

    /// 504 `deadline_exceeded`: whether anything was done is unknown.
    pub fn deadline_exceeded() -> Self {
        Self::new(504, "deadline_exceeded", "The request took longer than its deadline; its outcome is unknown.")
    }

    /// 500 `internal`. The cause belongs in [`Error::with_source`].
    pub fn internal() -> Self {
        Self::new(500, "internal", "Something went wrong on our side. Quote the request id when you report it.")
    }

    /// Says which fields are at fault.
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// Keeps the cause for the log. It is never sent.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Tells the caller when to try again; rounded up to whole seconds on the wire.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// What another service answered, as one's own answer.
    pub fn from_problem(problem: Problem) -> Self {
        let status = if (400..600).contains(&problem.status) { problem.status } else { 500 };
        let mut error = Self::new(status, problem.code, problem.detail);
        error.0.errors = problem.errors;
        error
    }

    /// The body that the caller reads.
    pub fn to_problem(&self, request_id: &str) -> Problem {
        let mut problem = Problem::new(self.0.status, &self.0.code, self.0.detail.as_ref());
        request_id.clone_into(&mut problem.request_id);
        problem.errors.clone_from(&self.0.errors);
        problem
    }

    /// HTTP-like number.
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// Stable word.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// Sentence for the caller.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What is wrong with which field; mostly empty.
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// When to try again, where that is known.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.status, self.0.code, self.0.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        for field in &self.0.errors {
            write!(f, " [{} {}]", field.pointer, field.code)?;
        }
        match &self.0.source {
            Some(source) => write!(f, ", caused by {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// A database that cannot be reached, is starting, is full or is too slow is 503; everything else is our fault. A broken
/// constraint is made a domain error next to its query, before it comes here.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let passing = match &error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => true,
            sqlx::Error::Database(database) => database.code().is_some_and(|code| is_passing(&code)),
            _ => false,
        };
        if passing {
            Self::unavailable("The database cannot answer just now.")
                .retry_after(Duration::from_secs(1))
                .with_source(error)
        } else {
            Self::internal().with_source(error)
        }
    }
}

/// SQLSTATE codes (PostgreSQL manual, appendix A) of conditions that end by themselves or by an operator: connection
/// lost, resources short, serialisation, lock and statement time-outs, shutdown, read-only while switching over.
fn is_passing(code: &str) -> bool {
    code.starts_with("08")
        || code.starts_with("53")
        || matches!(code, "40001" | "40P01" | "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "25006")
}

/// Why a process did not start or had to end.
pub struct StartError {
    message: String,
    source: Option<Source>,
}

impl StartError {
    /// `message` says what failed, without its cause.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// Adds the cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for StartError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::new("a step of the start failed").with_source(error)
    }
}

impl From<sqlx::Error> for StartError {
    fn from(error: sqlx::Error) -> Self {
        Self::new("the database refused a step of the start").with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_logged_and_not_shown() {
        let error = Error::internal().with_source("password=hunter2");

        assert!(!error.to_string().contains("hunter2"));
        assert!(format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn exhausted_pool_is_503_and_a_missing_row_is_500() {
        assert_eq!(Error::from(sqlx::Error::PoolTimedOut).status(), 503);
        assert_eq!(Error::from(sqlx::Error::RowNotFound).status(), 500);
    }
}
