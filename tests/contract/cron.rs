//! When schedules are due, held against a cron of somebody else's and zone data of somebody else's, over changes of the clock.
//! What is judged is in `tests/python/cron_oracle.py`.

use chrono::{DateTime, Utc};
use jobs::domain::Timing;
use platform_tests::{python, servers::temporary_folder};
use serde_json::json;

const EXPRESSIONS: usize = 1_000;

/// Always the same expressions, so that what fails once fails again.
const SEED: u64 = 20_261_025;

/// Both changes of 2026 of each zone; clocks of the third change by half an hour, those of the last two at midnight.
const CHANGES: [(&str, &str, &str); 5] = [
    ("Europe/Berlin", "2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z"),
    ("Africa/Cairo", "2026-04-23T22:00:00Z", "2026-10-29T21:00:00Z"),
    ("America/Havana", "2026-03-08T05:00:00Z", "2026-11-01T05:00:00Z"),
];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }

    /// A field of numbers from `min` to `max`. Steps begin with a range and not with `*`, which the oracle reads like Debian's
    /// cron where days are meant: as if the day were not restricted.
    fn field(&mut self, min: u64, max: u64) -> String {
        let one = |dice: &mut Self| min + dice.roll(max - min + 1);
        match self.roll(5) {
            0 => format!("{min}-{max}/{}", 2 + self.roll((max - min) / 2)),
            1 => {
                let from = min + self.roll(max - min);
                format!("{from}-{}", from + 1 + self.roll(max - from))
            }
            2 => {
                let (first, second) = (min + self.roll(max - min), max);
                format!("{first},{second}")
            }
            _ => one(self).to_string(),
        }
    }

    fn field_or_star(&mut self, stars_of_ten: u64, min: u64, max: u64) -> String {
        if self.roll(10) < stars_of_ten { "*".to_owned() } else { self.field(min, max) }
    }

    fn expression(&mut self) -> String {
        let mut fields = Vec::new();
        if self.roll(2) == 0 {
            fields.push(self.field_or_star(1, 0, 59));
        }
        fields.push(self.field_or_star(2, 0, 59));
        // Clocks change in the first hours of the day; half of the expressions are about these.
        fields.push(if self.roll(2) == 0 { self.roll(4).to_string() } else { self.field_or_star(5, 0, 23) });
        fields.push(match self.roll(12) {
            0 => "L".to_owned(),
            _ => self.field_or_star(7, 1, 31),
        });
        fields.push(self.field_or_star(8, 1, 12));
        fields.push(match self.roll(12) {
            0 => self.pick(&["SUN", "MON", "WED", "SAT", "MON-FRI"]).to_owned(),
            1 => format!("{}#{}", self.roll(7), 1 + self.roll(4)),
            2 => format!("{}L", self.roll(7)),
            _ => self.field_or_star(7, 0, 6),
        });
        fields.join(" ")
    }
}

struct Window {
    zone: &'static str,
    after: i64,
    until: i64,
    max: usize,
}

/// Around each change: from a day and a half before, from forty minutes before, from five seconds before. And a year.
fn windows() -> Vec<Window> {
    let second = |text: &str| text.parse::<DateTime<Utc>>().unwrap().timestamp();
    let mut windows = Vec::new();
    for (zone, one, other) in CHANGES {
        for change in [second(one), second(other)] {
            for (before, max) in [(129_600, 10), (2_400, 20), (5, 20)] {
                windows.push(Window { zone, after: change - before, until: change + 129_600, max });
            }
        }
        windows.push(Window {
            zone,
            after: second("2026-01-01T00:00:00Z"),
            until: second("2027-01-01T00:00:00Z"),
            max: 6,
        });
    }
    windows
}

#[tokio::test]
async fn another_cron_agrees_for_a_thousand_expressions_and_five_zones_over_changes_of_the_clock() {
    let mut dice = Dice(SEED);
    let expressions: Vec<String> = std::iter::repeat_with(|| dice.expression()).take(EXPRESSIONS).collect();
    let windows = windows();
    let asked: Vec<_> = windows
        .iter()
        .map(|window| json!({ "zone": window.zone, "after": window.after, "until": window.until, "max": window.max }))
        .collect();
    let folder = temporary_folder("cron");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("request.json");
    std::fs::write(&file, json!({ "expressions": expressions, "windows": asked }).to_string()).unwrap();

    let told = python::compute("cron_oracle.py", &[file.to_str().unwrap()]).await;

    let told: Vec<Vec<Vec<i64>>> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), EXPRESSIONS);
    let (mut times, mut differ) = (0, Vec::new());
    for (expression, told) in expressions.iter().zip(told) {
        for (window, told) in windows.iter().zip(told) {
            let timing =
                Timing::parse(expression, window.zone).unwrap_or_else(|fault| panic!("{expression}: {fault:?}"));
            let (after, until) = (time(window.after), time(window.until));
            let ours = timing.after(after).take_while(|due| *due <= until).take(window.max);
            let ours: Vec<i64> = ours.map(|due| due.timestamp()).collect();
            times += ours.len();
            // Told whole, it is the same from the other end.
            let back = (told.len() < window.max).then(|| timing.last_between(after, until, window.max));
            let back = back.map(|back| back.iter().map(DateTime::timestamp).collect::<Vec<_>>());
            if ours != told || back.as_ref().is_some_and(|back| *back != told) {
                let show = |times: &[i64]| times.iter().map(|second| time(*second).to_rfc3339()).collect::<Vec<_>>();
                differ.push(format!(
                    "{expression} in {} after {after}: {:?}, back {:?}, not {:?}",
                    window.zone,
                    show(&ours),
                    back.map(|back| show(&back)),
                    show(&told)
                ));
            }
        }
    }
    let _left_for_a_person = std::fs::remove_dir_all(&folder);
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ[..differ.len().min(20)].join("\n"));
    assert!(times > 20_000, "only {times} times were compared");
}

fn time(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}
