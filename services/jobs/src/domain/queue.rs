//! How a queue is run.

use kernel::FieldError;
use kernel::jobs::Rate;
use subjects::job;

/// Jobs of a queue that run at once at most.
const CONCURRENCY_MAX: u32 = 10_000;

/// How often jobs of a queue may begin, at least and at most.
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 10_000.0;

/// Jobs that may begin at once after a rest, at most.
const BURST_MAX: u32 = 10_000;

/// What can be said of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSettings {
    /// Jobs that run at once.
    pub concurrency: u32,
    /// Whether that was asked for: then over all instances and lanes together. What a queue has without having been asked is for
    /// each lane by itself, so that nothing but the broker has to be asked for such a queue.
    pub is_exact: bool,
    /// The first pause before another attempt.
    pub backoff_base_ms: u32,
    /// The longest pause.
    pub backoff_max_ms: u32,
    /// How often a job is tried that does not say it.
    pub max_attempts: u32,
    /// How long an attempt may take.
    pub timeout_ms: u32,
    /// How often jobs may begin, over all instances.
    pub rate: Option<Rate>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            concurrency: 50,
            is_exact: false,
            backoff_base_ms: 1_000,
            backoff_max_ms: 300_000,
            max_attempts: 10,
            timeout_ms: 60_000,
            rate: None,
        }
    }
}

impl QueueSettings {
    /// Takes what is given, and the default for what is 0; or says what is out of range.
    pub fn parse(given: &Self) -> Result<Self, Vec<FieldError>> {
        let default = Self::default();
        let mut faults = Vec::new();
        let mut value = |pointer: &str, given: u32, default: u32, max: u32| match given {
            0 => default,
            given if given <= max => given,
            _ => {
                faults.push(FieldError::new(pointer, "out_of_range", format!("must be 1 to {max}")));
                default
            }
        };
        let day = job::DURATION_MS_MAX;
        let settings = Self {
            concurrency: value("/concurrency", given.concurrency, default.concurrency, CONCURRENCY_MAX),
            is_exact: given.concurrency > 0,
            backoff_base_ms: value("/backoffBaseMs", given.backoff_base_ms, default.backoff_base_ms, day),
            backoff_max_ms: value("/backoffMaxMs", given.backoff_max_ms, default.backoff_max_ms, day),
            max_attempts: value("/maxAttempts", given.max_attempts, default.max_attempts, job::ATTEMPTS_MAX),
            timeout_ms: value("/timeoutMs", given.timeout_ms, default.timeout_ms, day),
            rate: given
                .rate
                .map(|rate| Rate { burst: value("/rateBurst", rate.burst, burst(rate), BURST_MAX), ..rate }),
        };
        if let Some(rate) = given.rate {
            if rate.per_second == 0.0 {
                faults.push(FieldError::new("/ratePerSecond", "required", "must be given where a burst is"));
            } else if !(RATE_MIN..=RATE_MAX).contains(&rate.per_second) {
                let detail = format!("must be {RATE_MIN} to {RATE_MAX}");
                faults.push(FieldError::new("/ratePerSecond", "out_of_range", detail));
            }
        }
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }
}

/// What a second brings, one at least.
fn burst(rate: Rate) -> u32 {
    #[expect(clippy::cast_sign_loss, reason = "what is negative becomes 0, and is refused")]
    let burst = rate.per_second.ceil() as u32;
    burst.clamp(1, BURST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_gets_its_default_and_what_is_out_of_range_is_named() {
        let none = QueueSettings {
            concurrency: 0,
            is_exact: false,
            backoff_base_ms: 0,
            backoff_max_ms: 0,
            max_attempts: 0,
            timeout_ms: 0,
            rate: None,
        };
        assert_eq!(QueueSettings::parse(&none).unwrap(), QueueSettings::default());

        let asked = QueueSettings::parse(&QueueSettings { concurrency: 50, ..none }).unwrap();
        assert!(asked.is_exact);

        let wrong = QueueSettings { concurrency: 10_001, max_attempts: 1_001, ..QueueSettings::default() };
        let pointers: Vec<_> =
            QueueSettings::parse(&wrong).unwrap_err().into_iter().map(|fault| fault.pointer).collect();
        assert_eq!(pointers, ["/concurrency", "/maxAttempts"]);
    }

    #[test]
    fn a_rate_has_a_burst_of_one_second_unless_it_is_said() {
        let with =
            |per_second, burst| QueueSettings { rate: Some(Rate { per_second, burst }), ..QueueSettings::default() };
        let rate = |given| QueueSettings::parse(&given).unwrap().rate.unwrap().burst;
        assert_eq!([rate(with(0.1, 0)), rate(with(2.5, 0)), rate(with(5.0, 1))], [1, 3, 1]);

        for (given, pointer) in [
            (with(0.0, 5), "/ratePerSecond"),
            (with(-1.0, 1), "/ratePerSecond"),
            (with(f64::NAN, 1), "/ratePerSecond"),
            (with(f64::INFINITY, 1), "/ratePerSecond"),
            (with(10_001.0, 1), "/ratePerSecond"),
            (with(1.0, 10_001), "/rateBurst"),
        ] {
            let faults = QueueSettings::parse(&given).unwrap_err();
            assert_eq!(faults.iter().map(|fault| fault.pointer.as_str()).collect::<Vec<_>>(), [pointer], "{given:?}");
        }
    }
}
