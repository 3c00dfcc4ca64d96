//! What may be submitted.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use kernel::FieldError;
use kernel::jobs::Submission;
use subjects::Timestamp;
use subjects::job::{self, Lane, Place, header};
use subjects::jobs::v1::{Priority, SubmitRequest};
use subjects::json::DecodeError;
use subjects::subject::Token;

use super::job::is_made_of_place;

/// From when on a time counts as a mistake.
const PAST_MAX: TimeDelta = TimeDelta::days(1);
const AHEAD_MAX: TimeDelta = TimeDelta::days(3_653);

/// A submission that holds what it must.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// For the broker.
    pub submission: Submission,
    /// As the history shows it; the queue's own number may differ where the request gives none.
    pub max_attempts: u32,
    /// Whether its id is the caller's, who may have used it before.
    pub has_key: bool,
}

/// Checks a request whole. `id` is the job's where the request gives none.
pub fn accept(request: SubmitRequest, id: &str, now: DateTime<Utc>) -> Result<Accepted, Vec<FieldError>> {
    let mut faults = Vec::new();
    let has_key = !request.idempotency_key.is_empty();
    let queue = check_queue(&request.queue).map_err(|fault| faults.push(fault)).ok();
    let mut token = |pointer: &str, text: &str| {
        Token::parse(text).or_else(|| {
            faults.push(FieldError::new(pointer, "invalid", "must be 1 to 64 of [A-Za-z0-9_-]"));
            None
        })
    };
    let kind = token("/kind", &request.kind);
    let id = token("/idempotencyKey", if has_key { &request.idempotency_key } else { id });
    if has_key && is_made_of_place(&request.idempotency_key) {
        faults.push(FieldError::new("/idempotencyKey", "reserved", "is the id of a job that has no key"));
    }
    let lane = match request.priority() {
        Priority::Unspecified | Priority::Normal => Lane::Normal,
        Priority::High => Lane::High,
        Priority::Low => Lane::Low,
    };

    let arguments = request.args.map_or_else(|| "{}".to_owned(), |args| args.text);
    if arguments.len() > job::ARGUMENTS_BYTES_MAX {
        let detail = format!("must have at most {} bytes", job::ARGUMENTS_BYTES_MAX);
        faults.push(FieldError::new("/args", "too_large", detail));
    } else {
        faults.extend(fault_of_arguments(&request.queue, &request.kind, &arguments));
    }

    let mut headers = Vec::new();
    let mut number = |pointer: &str, name: &str, value: u32, max: u32| {
        if value > max {
            faults.push(FieldError::new(pointer, "out_of_range", format!("must be 1 to {max}")));
        } else if value > 0 {
            headers.push((name.to_owned(), value.to_string()));
        }
    };
    number("/maxAttempts", header::MAX_ATTEMPTS, request.max_attempts, job::ATTEMPTS_MAX);
    number("/timeoutMs", header::TIMEOUT_MS, request.timeout_ms, job::DURATION_MS_MAX);
    number("/backoffBaseMs", header::BACKOFF_BASE_MS, request.backoff_base_ms, job::DURATION_MS_MAX);

    if job::is_concurrency_key(&request.concurrency_key) {
        headers.push((header::CONCURRENCY_KEY.to_owned(), request.concurrency_key));
    } else if !request.concurrency_key.is_empty() {
        let detail = "must be 1 to 128 visible characters of ASCII";
        faults.push(FieldError::new("/concurrencyKey", "invalid", detail));
    }

    let run_at = time("/runAt", request.run_at, now).map_err(|fault| faults.push(fault)).ok().flatten();
    let expires_at = time("/expiresAt", request.expires_at, now).map_err(|fault| faults.push(fault)).ok().flatten();
    if let Some(expires_at) = expires_at {
        if expires_at <= run_at.unwrap_or(now) {
            faults.push(FieldError::new("/expiresAt", "out_of_range", "must be later than the job can begin"));
        }
        headers.push((header::EXPIRES_AT.to_owned(), expires_at.to_rfc3339_opts(SecondsFormat::Micros, true)));
    }

    match (queue, kind, id) {
        (Some(queue), Some(kind), Some(id)) if faults.is_empty() => {
            let declared = job::find(&request.queue, &request.kind).map_or(10, |contract| contract.attempts_max);
            let max_attempts = if request.max_attempts > 0 { request.max_attempts } else { declared };
            let place = Place { queue, kind, lane };
            let run_at = run_at.filter(|run_at| *run_at > now);
            let submission = Submission { place, id, arguments: Bytes::from(arguments), run_at, headers };
            Ok(Accepted { submission, max_attempts, has_key })
        }
        _ => Err(faults),
    }
}

/// A queue that anybody who may submit may submit to.
pub fn check_queue(queue: &str) -> Result<Token, FieldError> {
    let token =
        Token::parse(queue).ok_or_else(|| FieldError::new("/queue", "invalid", "must be 1 to 64 of [A-Za-z0-9_-]"))?;
    if job::is_open(queue) {
        return Ok(token);
    }
    Err(FieldError::new("/queue", "reserved", "is the platform's own"))
}

/// Where a service has declared the queue, kind and arguments must be those of its contract.
fn fault_of_arguments(queue: &str, kind: &str, arguments: &str) -> Option<FieldError> {
    let refused = |pointer: &str, code: &str, detail: String| Some(FieldError::new(pointer, code, detail));
    let error = match (job::runner_of(queue), job::find(queue, kind)) {
        (Some(_), None) => return refused("/kind", "unknown", format!("is no kind of the queue {queue}")),
        (Some(_), Some(contract)) => (contract.check)(arguments.as_bytes()).err()?,
        (None, _) => subjects::json::check_any(arguments.as_bytes()).err()?,
    };
    match error {
        DecodeError::Malformed(what) => refused("/args", "malformed", what),
        DecodeError::Invalid(fault) | DecodeError::Bound(fault) => {
            refused(&format!("/args{}", fault.pointer), &fault.code, fault.detail)
        }
    }
}

fn time(pointer: &str, given: Option<Timestamp>, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, FieldError> {
    let Some(given) = given else { return Ok(None) };
    let time = DateTime::<Utc>::try_from(given).ok().filter(|time| (now - PAST_MAX..=now + AHEAD_MAX).contains(time));
    time.map(Some).ok_or_else(|| FieldError::new(pointer, "out_of_range", "must be from a day ago to ten years ahead"))
}

#[cfg(test)]
mod tests {
    use subjects::free::v1::RawJson;

    use super::*;

    fn request(queue: &str, kind: &str) -> SubmitRequest {
        SubmitRequest { queue: queue.to_owned(), kind: kind.to_owned(), ..SubmitRequest::default() }
    }

    fn faults(request: SubmitRequest) -> Vec<(String, String)> {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let faults = accept(request, "0198", now).err().unwrap_or_default();
        faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    fn args(text: &str) -> RawJson {
        RawJson { text: text.to_owned() }
    }

    #[test]
    fn a_job_of_any_queue_may_have_any_arguments() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let request = SubmitRequest { args: Some(args("[1.50]")), max_attempts: 3, ..request("shop", "order") };

        let accepted = accept(request, "0198", now).unwrap();

        assert_eq!(accepted.submission.place.subject(), "jobs.shop.order");
        assert_eq!((accepted.submission.arguments.as_ref(), accepted.max_attempts), (&b"[1.50]"[..], 3));
        assert_eq!(accepted.submission.headers, [("Job-Max-Attempts".to_owned(), "3".to_owned())]);
    }

    #[test]
    fn each_fault_is_named_by_its_field() {
        let fault = |pointer: &str, code: &str| vec![(pointer.to_owned(), code.to_owned())];
        for reserved in ["schedules", "due", "dlq", "work"] {
            assert_eq!(faults(request(reserved, "k")), fault("/queue", "reserved"));
        }
        for wrong in ["", "a.b", "*", ">", "a b", "ü", &"a".repeat(65)] {
            assert_eq!(faults(request(wrong, "k")), fault("/queue", "invalid"), "{wrong}");
            assert_eq!(faults(request("q", wrong)), fault("/kind", "invalid"), "{wrong}");
        }
        assert_eq!(faults(request("diagnostics", "unknown")), fault("/kind", "unknown"));
        let sleep = |text| SubmitRequest { args: Some(args(text)), ..request("diagnostics", "sleep") };
        assert_eq!(faults(sleep(r#"{"ms":"long"}"#)), fault("/args/ms", "invalid"));
        assert_eq!(faults(sleep(r#"{"minutes":1}"#)), fault("/args/minutes", "unknown_field"));
        let large = format!("\"{}\"", "x".repeat(job::ARGUMENTS_BYTES_MAX));
        assert_eq!(
            faults(SubmitRequest { args: Some(args(&large)), ..request("q", "k") }),
            fault("/args", "too_large")
        );
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(faults(SubmitRequest { args: Some(args(&deep)), ..request("q", "k") }), fault("/args", "malformed"));
        for time in [0, 253_402_300_799] {
            assert_eq!(
                faults(SubmitRequest { run_at: Some(at(time)), ..request("q", "k") }),
                fault("/runAt", "out_of_range")
            );
        }
        let expired = SubmitRequest { expires_at: Some(at(1_799_999_999)), ..request("q", "k") };
        assert_eq!(faults(expired), fault("/expiresAt", "out_of_range"));
        let often = SubmitRequest { max_attempts: 1_001, timeout_ms: u32::MAX, ..request("q", "k") };
        assert_eq!(faults(often).len(), 2);
        let key = SubmitRequest { idempotency_key: "a b".to_owned(), ..request("q", "k") };
        assert_eq!(faults(key), fault("/idempotencyKey", "invalid"));
        let key = SubmitRequest { idempotency_key: "JOBS-7".to_owned(), ..request("q", "k") };
        assert_eq!(faults(key), fault("/idempotencyKey", "reserved"));
        for wrong in ["a b", "\n", "\u{fc}", &"k".repeat(129)] {
            let key = SubmitRequest { concurrency_key: wrong.to_owned(), ..request("q", "k") };
            assert_eq!(faults(key), fault("/concurrencyKey", "invalid"), "{wrong}");
        }
    }
}
