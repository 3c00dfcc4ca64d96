//! Medians of rounds, and tables of them.

#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

use super::load::Outcome;

/// One side in one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    pub(super) rate: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// CPU time of all its processes, for one answer.
    pub(super) cpu_us: f64,
}

impl Round {
    /// What was not measured.
    pub(super) fn unknown() -> Self {
        Self { rate: f64::NAN, p50_us: f64::NAN, p99_us: f64::NAN, cpu_us: f64::NAN }
    }

    pub(super) fn of(outcome: &Outcome, cpu_us: f64) -> Self {
        Self {
            rate: outcome.rate(),
            p50_us: outcome.latency.value_at_quantile(0.5) as f64,
            p99_us: outcome.latency.value_at_quantile(0.99) as f64,
            cpu_us: cpu_us / outcome.answers as f64,
        }
    }
}

/// Each figure's median over the rounds.
pub(super) fn medians(rounds: &[Round]) -> Round {
    let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    Round { rate: of(|r| r.rate), p50_us: of(|r| r.p50_us), p99_us: of(|r| r.p99_us), cpu_us: of(|r| r.cpu_us) }
}

/// The middle value, or the mean of the two in the middle; NaN of nothing.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

pub(super) fn heading(text: &str) {
    heading_of(text, "ans");
}

/// The heading of figures of something else than answers.
pub(super) fn heading_of(text: &str, what: &str) {
    println!("\n{text}");
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>10} {:>7} {:>7}",
        "",
        format!("{what}/s"),
        "p50 ms",
        "p99 ms",
        format!("CPU us/{what}"),
        "rate x",
        "CPU x"
    );
}

/// One line; the ratios are to `floor`.
pub(super) fn line(name: &str, round: Round, floor: Round) {
    println!(
        "{name:<34} {:>9.0} {:>9} {:>9} {:>10.1} {:>7.2} {:>7.2}",
        round.rate,
        milliseconds(round.p50_us),
        milliseconds(round.p99_us),
        round.cpu_us,
        round.rate / floor.rate,
        round.cpu_us / floor.cpu_us,
    );
}

/// A dash where there is no such figure.
fn milliseconds(us: f64) -> String {
    if us.is_nan() { "-".to_owned() } else { format!("{:.2}", us / 1000.0) }
}

pub(super) fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(vec![]).is_nan());
    }
}
