//! When a schedule is due, and what is done then. What an expression means, and when it is due next in its zone, is `croner`'s
//! and `chrono-tz`'s alone.
//!
//! Where clocks are set forward, an expression that names one time of the day is due at the first moment behind the gap that
//! holds it; any other passes over what the clock passes over. Where they are set back, one that names one time of the day is
//! due at the first of both; any other is due whenever the clock shows a time that it names.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use kernel::FieldError;
use subjects::JobContract;
use subjects::free::v1::RawJson;
use subjects::jobs::v1 as wire;
use subjects::subject::Token;

use super::submission::accept;

/// Characters of an expression.
const CRON_CHARACTERS_MAX: usize = 256;

/// Characters of a name.
const NAME_CHARACTERS_MAX: usize = 128;

/// What the names of declared schedules begin with, and no other.
const DECLARED: char = '@';

/// Times that are caught up at most, and where it is not said how many.
pub const CATCH_UP_MAX: u32 = 1_000;
const CATCH_UP_DEFAULT: u32 = 100;

/// The longest that a job may be later than due by chance: an hour.
const JITTER_MS_MAX: u32 = 3_600_000;

/// How far ahead the first time must be found.
const AHEAD_MAX: TimeDelta = TimeDelta::days(10 * 366);

/// At which times a schedule is due.
#[derive(Clone, Debug)]
pub struct Timing {
    cron: Cron,
    zone: Tz,
}

impl Timing {
    /// Reads an expression and a zone; an empty one is UTC. Names what is wrong by `/cron` and `/timeZone`.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, Vec<FieldError>> {
        let mut faults = Vec::new();
        let zone = if zone.is_empty() { "UTC" } else { zone };
        let zone = zone.parse::<Tz>().map_err(|_| {
            faults.push(FieldError::new("/timeZone", "invalid", "must be a name of the IANA time zone database"));
        });
        let cron = parse_cron(cron).map_err(|fault| faults.push(fault));
        match (cron, zone) {
            (Ok(cron), Ok(zone)) => Ok(Self { cron, zone }),
            _ => Err(faults),
        }
    }

    /// The same for a schedule that is to be made: it must be due once in the next ten years.
    pub fn parse_new(cron: &str, zone: &str, now: DateTime<Utc>) -> Result<Self, Vec<FieldError>> {
        let timing = Self::parse(cron, zone)?;
        if timing.after(now).next().is_some_and(|next| next <= now + AHEAD_MAX) {
            return Ok(timing);
        }
        Err(vec![FieldError::new("/cron", "never", "names no time in the next ten years")])
    }

    /// Its times behind this one, the earliest first.
    pub fn after(&self, time: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        self.cron.iter_after(time.with_timezone(&self.zone)).map(|due| due.to_utc())
    }

    /// Its times behind `after` and not behind `until`, the last `max` of them, the earliest first.
    pub fn last_between(&self, after: DateTime<Utc>, until: DateTime<Utc>, max: usize) -> Vec<DateTime<Utc>> {
        let end = (until + TimeDelta::seconds(1)).with_timezone(&self.zone);
        let back = self.cron.iter_before(end).map(|due| due.to_utc()).skip_while(|due| *due > until);
        let mut due: Vec<_> = back.take_while(|due| *due > after).take(max).collect();
        due.reverse();
        due
    }

    /// Whether it is due at exactly this time.
    pub fn is_due(&self, time: DateTime<Utc>) -> bool {
        self.after(time - TimeDelta::seconds(1)).next() == Some(time)
    }
}

fn parse_cron(text: &str) -> Result<Cron, FieldError> {
    let fault = |detail: String| FieldError::new("/cron", "invalid", detail);
    // Shortcuts like @daily are no fields.
    if !(5..=6).contains(&text.split_whitespace().count()) || text.chars().count() > CRON_CHARACTERS_MAX {
        return Err(fault(format!("must be five or six fields, {CRON_CHARACTERS_MAX} characters at most")));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(text).map_err(|error| fault(error.to_string()))
}

/// Times between which to decide what was slept through.
#[derive(Clone, Copy, Debug)]
pub struct Firing {
    /// The time that is meant.
    pub due_at: DateTime<Utc>,
    /// When the broker gave it out.
    pub fired_at: DateTime<Utc>,
    /// How much later than due it may give one out that it did not sleep through.
    pub late_after: TimeDelta,
}

/// What becomes of times through which the broker slept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "told in the contract")]
pub enum CatchUp {
    Skip,
    Last,
    All,
}

/// What becomes of a time at which a job of the schedule has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "told in the contract")]
pub enum Overlap {
    Allow,
    Skip,
    QueueOne,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "told in the contract")]
pub enum Outcome {
    Started,
    Overlapped,
    Queued,
    Missed,
}

/// The words of the database, which are those of the API.
macro_rules! words {
    ($name:ident, $wire:ident, $($variant:ident = $word:literal),+) => {
        impl $name {
            /// As the database has it, and the API.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The one of this word.
            pub fn parse(word: &str) -> Option<Self> {
                [$(Self::$variant),+].into_iter().find(|known| known.as_str() == word)
            }

            /// From the contract; none for what says nothing.
            pub fn from_wire(wire: wire::$wire) -> Option<Self> {
                Self::parse(wire.as_str_name())
            }

            /// In the contract.
            pub fn to_wire(self) -> wire::$wire {
                wire::$wire::from_str_name(self.as_str()).unwrap_or_default()
            }
        }
    };
}

words!(CatchUp, CatchUpPolicy, Skip = "SKIP", Last = "LAST", All = "ALL");
words!(Overlap, OverlapPolicy, Allow = "ALLOW", Skip = "SKIP", QueueOne = "QUEUE_ONE");
words!(Outcome, TickOutcome, Started = "STARTED", Overlapped = "OVERLAPPED", Queued = "QUEUED", Missed = "MISSED");

/// What may be said of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "told in the contract")]
pub struct Plan {
    pub name: String,
    pub cron: String,
    pub time_zone: String,
    pub queue: String,
    pub kind: String,
    pub args: String,
    pub overlap: Overlap,
    pub catch_up: CatchUp,
    pub catch_up_max: u32,
    pub jitter_ms: u32,
    pub max_attempts: u32,
    pub timeout_ms: u32,
}

impl Plan {
    /// Checks what is asked for whole.
    pub fn parse(given: wire::CreateScheduleRequest, now: DateTime<Utc>) -> Result<Self, Vec<FieldError>> {
        let mut faults = Timing::parse_new(&given.cron, &given.time_zone, now).err().unwrap_or_default();
        if given.name.trim() != given.name || !(1..=NAME_CHARACTERS_MAX).contains(&given.name.chars().count()) {
            let detail = format!("must be 1 to {NAME_CHARACTERS_MAX} characters, without spaces around them");
            faults.push(FieldError::new("/name", "invalid", detail));
        }
        if given.name.starts_with(DECLARED) || given.name.chars().any(char::is_control) {
            let detail = format!("must not begin with {DECLARED} or hold control characters");
            faults.push(FieldError::new("/name", "invalid", detail));
        }
        let (overlap, catch_up) = (given.overlap(), given.catch_up());
        let args = given.args.map_or_else(|| "{}".to_owned(), |args| args.text);
        let job = wire::SubmitRequest {
            queue: given.queue.clone(),
            kind: given.kind.clone(),
            args: Some(RawJson { text: args.clone() }),
            max_attempts: given.max_attempts,
            timeout_ms: given.timeout_ms,
            ..wire::SubmitRequest::default()
        };
        faults.extend(accept(job, "any", now).err().unwrap_or_default());
        for (pointer, value, max) in
            [("/catchUpMax", given.catch_up_max, CATCH_UP_MAX), ("/jitterMs", given.jitter_ms, JITTER_MS_MAX)]
        {
            if value > max {
                faults.push(FieldError::new(pointer, "out_of_range", format!("must be at most {max}")));
            }
        }
        if wire::OverlapPolicy::try_from(given.overlap).is_err() {
            faults.push(FieldError::new("/overlap", "invalid", "is no policy"));
        }
        if wire::CatchUpPolicy::try_from(given.catch_up).is_err() {
            faults.push(FieldError::new("/catchUp", "invalid", "is no policy"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            name: given.name,
            cron: given.cron,
            time_zone: if given.time_zone.is_empty() { "UTC".to_owned() } else { given.time_zone },
            queue: given.queue,
            kind: given.kind,
            args,
            overlap: Overlap::from_wire(overlap).unwrap_or(Overlap::Allow),
            catch_up: CatchUp::from_wire(catch_up).unwrap_or(CatchUp::Last),
            catch_up_max: if given.catch_up_max == 0 { CATCH_UP_DEFAULT } else { given.catch_up_max },
            jitter_ms: given.jitter_ms,
            max_attempts: given.max_attempts,
            timeout_ms: given.timeout_ms,
        })
    }

    /// Checks this with what is to be changed of it.
    pub fn changed(self, change: wire::UpdateScheduleRequest, now: DateTime<Utc>) -> Result<Self, Vec<FieldError>> {
        let given = wire::CreateScheduleRequest {
            name: change.name.unwrap_or(self.name),
            cron: change.cron.unwrap_or(self.cron),
            time_zone: change.time_zone.unwrap_or(self.time_zone),
            queue: change.queue.unwrap_or(self.queue),
            kind: change.kind.unwrap_or(self.kind),
            args: change.args.or(Some(RawJson { text: self.args })),
            overlap: change.overlap.unwrap_or_else(|| self.overlap.to_wire().into()),
            catch_up: change.catch_up.unwrap_or_else(|| self.catch_up.to_wire().into()),
            catch_up_max: change.catch_up_max.unwrap_or(self.catch_up_max),
            jitter_ms: change.jitter_ms.unwrap_or(self.jitter_ms),
            max_attempts: change.max_attempts.unwrap_or(self.max_attempts),
            timeout_ms: change.timeout_ms.unwrap_or(self.timeout_ms),
            paused: false,
        };
        Self::parse(given, now)
    }

    /// What a service's contract declares. Its name is the same as long as it does.
    pub fn declared(job: &JobContract) -> Option<Self> {
        Some(Self {
            name: format!("{DECLARED}{}.{}", job.queue, job.kind),
            cron: job.cron?.to_owned(),
            time_zone: "UTC".to_owned(),
            queue: job.queue.to_owned(),
            kind: job.kind.to_owned(),
            args: "{}".to_owned(),
            overlap: Overlap::Skip,
            catch_up: CatchUp::Last,
            catch_up_max: CATCH_UP_DEFAULT,
            jitter_ms: 0,
            max_attempts: 0,
            timeout_ms: 0,
        })
    }
}

/// A schedule as it is kept.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "told in the contract, or beside the columns")]
pub struct Schedule {
    pub id: String,
    pub plan: Plan,
    pub service: Option<String>,
    pub paused: bool,
    pub active_since: DateTime<Utc>,
    pub planned_until: DateTime<Utc>,
    pub queued_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Another one after each edit; 0 before it is kept.
    pub revision: i64,
}

impl Schedule {
    /// When it is due; none for one of another version's making that this one cannot read.
    pub fn timing(&self) -> Option<Timing> {
        Timing::parse(&self.plan.cron, &self.plan.time_zone).ok()
    }

    /// Whether this is a time of the schedule as it is now.
    pub fn counts(&self, timing: &Timing, due_at: DateTime<Utc>) -> bool {
        !self.paused && due_at > self.active_since && timing.is_due(due_at)
    }

    /// Whether the broker slept through a time and it is not to be caught up.
    pub fn is_missed(&self, timing: &Timing, firing: Firing) -> bool {
        // No later than this after it was due, with all of its jitter, the broker was awake.
        let grace = firing.late_after + TimeDelta::milliseconds(self.plan.jitter_ms.into());
        let slept_through = |due_at: &DateTime<Utc>| firing.fired_at > *due_at + grace;
        if !slept_through(&firing.due_at) {
            return false;
        }
        let caught_up = match self.plan.catch_up {
            CatchUp::Skip => 0,
            CatchUp::Last => 1,
            CatchUp::All => self.plan.catch_up_max as usize,
        };
        // As many more recent ones come before it.
        timing.after(firing.due_at).take_while(slept_through).take(caught_up).count() == caught_up
    }

    /// The id of the job of one of its times.
    pub fn job_id(&self, due_at: DateTime<Utc>) -> Option<Token> {
        Token::parse(&format!("{}-{}", self.id, due_at.timestamp()))
    }

    /// The id of a job that was asked for by hand.
    pub fn job_id_by_hand(&self, now: DateTime<Utc>) -> Option<Token> {
        Token::parse(&format!("{}-r{:x}", self.id, now.timestamp_micros()))
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike as _, NaiveDateTime, TimeZone as _, Timelike as _};

    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn next(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let timing = Timing::parse(cron, zone).unwrap();
        timing.after(utc(after)).take(count).map(|due| due.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)).collect()
    }

    #[test]
    fn five_fields_are_minutes_and_six_are_seconds() {
        assert_eq!(
            next("*/30 * * * *", "", "2026-01-01T00:00:01Z", 2),
            ["2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"]
        );
        assert_eq!(
            next("*/30 * * * * *", "", "2026-01-01T00:00:01Z", 2),
            ["2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"]
        );
    }

    #[test]
    fn a_time_that_a_clock_passes_over_is_due_behind_the_gap_and_one_that_it_shows_twice_is_due_once() {
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        let timing = Timing::parse("30 2 * * *", "Europe/Berlin").unwrap();
        assert!(timing.is_due(utc("2026-03-29T01:00:00Z")) && !timing.is_due(utc("2026-10-25T01:30:00Z")));
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_field() {
        let pointers = |cron: &str, zone: &str| {
            let faults = Timing::parse_new(cron, zone, utc("2026-01-01T00:00:00Z")).err().unwrap_or_default();
            faults.into_iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect::<Vec<_>>()
        };
        let long = format!("{} * * * *", vec!["1"; 200].join(","));
        for wrong in
            ["", "* * * *", "* * * * * * *", "@daily", "60 * * * *", "* * * * 8", "a b c d e", "*/0 * * * *", &long]
        {
            assert_eq!(pointers(wrong, ""), ["/cron invalid"], "{wrong}");
        }
        assert_eq!(pointers("0 0 30 2 *", "UTC"), ["/cron never"]);
        for wrong in ["Nowhere/Land", "europe/berlin ", "+02:00"] {
            assert_eq!(pointers("* * * * *", wrong), ["/timeZone invalid"], "{wrong}");
        }
        assert_eq!(pointers("x", "x").len(), 2);
    }

    fn schedule(catch_up: CatchUp, catch_up_max: u32) -> Schedule {
        let start = utc("2026-01-01T00:00:00Z");
        let plan = Plan {
            name: "n".to_owned(),
            cron: "* * * * * *".to_owned(),
            time_zone: "UTC".to_owned(),
            queue: "q".to_owned(),
            kind: "k".to_owned(),
            args: "{}".to_owned(),
            overlap: Overlap::Allow,
            catch_up,
            catch_up_max,
            jitter_ms: 0,
            max_attempts: 0,
            timeout_ms: 0,
        };
        Schedule {
            id: "s".to_owned(),
            plan,
            service: None,
            paused: false,
            active_since: start,
            planned_until: start,
            queued_at: None,
            created_at: start,
            updated_at: start,
            revision: 0,
        }
    }

    #[test]
    fn of_what_the_broker_slept_through_as_many_count_as_the_policy_says() {
        // It woke at second 60 and gave out everything from second 1 on; up to 5 s late it counts as awake.
        let caught_up = |schedule: &Schedule| {
            let timing = schedule.timing().unwrap();
            let start = utc("2026-01-01T00:00:00Z");
            let fired_at = start + TimeDelta::seconds(60);
            let late_after = TimeDelta::seconds(5);
            let firing = |second| Firing { due_at: start + TimeDelta::seconds(second), fired_at, late_after };
            (1..=60).filter(|second| !schedule.is_missed(&timing, firing(*second))).collect::<Vec<i64>>()
        };
        assert_eq!(caught_up(&schedule(CatchUp::Skip, 100)), (55..=60).collect::<Vec<_>>());
        assert_eq!(caught_up(&schedule(CatchUp::Last, 100)), (54..=60).collect::<Vec<_>>());
        assert_eq!(caught_up(&schedule(CatchUp::All, 10)), (45..=60).collect::<Vec<_>>());
        assert_eq!(caught_up(&schedule(CatchUp::All, 100)), (1..=60).collect::<Vec<_>>());
    }

    #[test]
    fn only_times_since_it_is_active_count() {
        let mut schedule = schedule(CatchUp::Last, 1);
        let timing = schedule.timing().unwrap();
        assert!(!schedule.counts(&timing, utc("2026-01-01T00:00:00Z")));
        assert!(schedule.counts(&timing, utc("2026-01-01T00:00:01Z")));
        assert!(!schedule.counts(&timing, utc("2026-01-01T00:00:01.5Z")));
        schedule.paused = true;
        assert!(!schedule.counts(&timing, utc("2026-01-01T00:00:01Z")));
    }

    #[test]
    fn the_last_times_before_are_those_that_came_after() {
        let timing = Timing::parse("*/7 * * * *", "America/New_York").unwrap();
        let (from, to) = (utc("2026-03-08T05:00:00Z"), utc("2026-03-08T09:00:00Z"));
        let all: Vec<_> = timing.after(from).take_while(|due| *due <= to).collect();
        assert_eq!(timing.last_between(from, to, 1_000), all);
        assert_eq!(timing.last_between(from, to, 3), all[all.len() - 3..]);
    }

    #[test]
    fn every_declared_schedule_can_be_read_and_named() {
        for job in subjects::job::contracts() {
            if let Some(cron) = job.cron {
                assert!(Timing::parse_new(cron, "", utc("2026-01-01T00:00:00Z")).is_ok(), "{}.{}", job.queue, job.kind);
                assert!((job.check)(b"{}").is_ok());
            }
        }
    }

    /// A cron of our own for comparison, as simple as can be (`tests/contract/cron.rs` compares with another's): every second of the wall clock is looked at, field by field.
    struct Oracle {
        fields: [Vec<bool>; 6],
        day_or: bool,
        is_fixed: bool,
    }

    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    impl Oracle {
        const RANGES: [(u64, u64); 6] = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];

        /// An expression by chance, and what it means.
        fn roll(dice: &mut Dice) -> (String, Self) {
            let six = dice.roll(2) == 0;
            let mut texts = Vec::new();
            let mut is_fixed = true;
            let mut is_star = [false; 6];
            let fields = std::array::from_fn(|place| {
                let (min, max) = Self::RANGES[place];
                let mut set = vec![false; 61];
                let span = max - min + 1;
                let mut within = |from: u64, to: u64, step: u64| {
                    (from..=to).step_by(step as usize).for_each(|value| set[value as usize] = true);
                };
                let one = || min + dice.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) % span;
                let value = one();
                let shape = if place == 0 && !six { 9 } else { dice.roll(8) };
                let (text, fixed) = match shape {
                    9 => {
                        within(0, 0, 1);
                        ("0".to_owned(), true)
                    }
                    0 | 1 => {
                        within(min, max, 1);
                        is_star[place] = true;
                        ("*".to_owned(), false)
                    }
                    2 => {
                        let step = 2 + dice.roll(span / 2);
                        within(min, max, step);
                        (format!("*/{step}"), false)
                    }
                    3 => {
                        let to = value + dice.roll(max - value + 1);
                        let step = 1 + dice.roll(4);
                        within(value, to, step);
                        (if step == 1 { format!("{value}-{to}") } else { format!("{value}-{to}/{step}") }, false)
                    }
                    4 => {
                        let mut values: Vec<u64> = (0..2 + dice.roll(3)).map(|_| min + dice.roll(span)).collect();
                        values.sort_unstable();
                        values.dedup();
                        for value in &values {
                            within(*value, *value, 1);
                        }
                        let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
                        (texts.join(","), values.len() == 1)
                    }
                    _ => {
                        within(value, value, 1);
                        (value.to_string(), true)
                    }
                };
                if place < 3 {
                    is_fixed &= fixed;
                }
                if place > 0 || six {
                    texts.push(text);
                }
                set
            });
            (texts.join(" "), Self { fields, day_or: !is_star[3] && !is_star[5], is_fixed })
        }

        fn names(&self, wall: &Wall) -> bool {
            let day = self.fields[3][wall[3]];
            let weekday = self.fields[5][wall[5]];
            (0..3).all(|place| self.fields[place][wall[place]])
                && self.fields[4][wall[4]]
                && if self.day_or { day || weekday } else { day && weekday }
        }

        /// All its times in a window, by looking at each second.
        fn times(&self, window: &Window) -> Vec<DateTime<Utc>> {
            let is_due = |second: &Second| {
                let passed = || second.passed.iter().any(|wall| self.names(wall));
                let shown = self.names(&second.shown);
                if self.is_fixed { (shown && second.is_first) || passed() } else { shown }
            };
            window.seconds.iter().filter(|second| is_due(second)).map(|second| second.at).collect()
        }
    }

    /// Second, minute, hour, day, month, day of the week.
    type Wall = [usize; 6];

    /// A second, and what clocks do then.
    struct Second {
        at: DateTime<Utc>,
        shown: Wall,
        /// Not for the second time.
        is_first: bool,
        /// What they have just passed over.
        passed: Vec<Wall>,
    }

    /// Some hours around a change of clocks.
    struct Window {
        zone: Tz,
        from: DateTime<Utc>,
        end: DateTime<Utc>,
        seconds: Vec<Second>,
    }

    fn wall(time: NaiveDateTime) -> Wall {
        let weekday = time.weekday().num_days_from_sunday();
        [time.second(), time.minute(), time.hour(), time.day(), time.month(), weekday].map(|value| value as usize)
    }

    impl Window {
        fn around(zone: Tz, change: DateTime<Utc>) -> Self {
            let (from, end) = (change - TimeDelta::hours(1), change + TimeDelta::hours(2));
            let step = TimeDelta::seconds(1);
            let shown = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local();
            let second = |at: DateTime<Utc>| {
                let mut passed = Vec::new();
                let mut hidden = shown(at - step) + step;
                while hidden < shown(at) {
                    passed.push(wall(hidden));
                    hidden += step;
                }
                let is_first = zone.from_local_datetime(&shown(at)).earliest().is_some_and(|first| first == at);
                Second { at, shown: wall(shown(at)), is_first, passed }
            };
            let seconds = (0..(end - from).num_seconds()).map(|n| second(from + TimeDelta::seconds(n))).collect();
            Self { zone, from, end, seconds }
        }
    }

    #[test]
    fn a_cron_that_looks_at_every_second_agrees_over_changes_of_the_clock() {
        // Both changes of 2026 in each zone, in one by half an hour; the last has none, so any days will do.
        let changes = [
            ("Europe/Berlin", "2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"),
            ("America/New_York", "2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z"),
            ("America/St_Johns", "2026-03-08T05:30:00Z", "2026-11-01T04:30:00Z"),
            ("Asia/Kolkata", "2026-02-28T18:30:00Z", "2026-12-31T18:30:00Z"),
        ];
        let windows: Vec<Window> = changes
            .iter()
            .flat_map(|(zone, one, other)| [(zone, one), (zone, other)])
            .map(|(zone, change)| Window::around(zone.parse().unwrap(), utc(change)))
            .collect();
        let changing = windows.iter().filter(|window| {
            let offset = |at: DateTime<Utc>| at.with_timezone(&window.zone).naive_local() - at.naive_utc();
            offset(window.from) != offset(window.end)
        });
        assert_eq!(changing.count(), 8);
        let (mut dice, mut due) = (Dice(2026), 0);
        for _ in 0..200 {
            let (text, oracle) = Oracle::roll(&mut dice);
            for window in &windows {
                let timing =
                    Timing::parse(&text, window.zone.name()).unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
                let expected = oracle.times(window);
                let before = window.from - TimeDelta::seconds(1);
                let ours: Vec<_> = timing.after(before).take_while(|due| *due < window.end).collect();
                let zone = window.zone;
                assert!(ours == expected, "{text} in {zone} from {}: {}", window.from, differ(&ours, &expected));
                due += ours.len();
            }
        }
        assert!(due > 2_000, "{due} times");
    }

    fn differ(ours: &[DateTime<Utc>], expected: &[DateTime<Utc>]) -> String {
        let more: Vec<_> = ours.iter().filter(|due| !expected.contains(due)).take(3).collect();
        let missing: Vec<_> = expected.iter().filter(|due| !ours.contains(due)).take(3).collect();
        format!("{more:?} too much, {missing:?} not there")
    }
}
