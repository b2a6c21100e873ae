//! Samples become figures, and figures become text.

use serde::Serialize;
use std::time::Duration;

/// How long one operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) samples: usize,
    pub(super) mean_ms: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

impl Latency {
    /// Zeros if there are no samples.
    pub(super) fn of(mut samples: Vec<Duration>) -> Latency {
        samples.sort_unstable();
        let quantile = |share: f64| {
            let rank = (samples.len() as f64 * share).ceil() as usize;
            samples.get(rank.saturating_sub(1)).map_or(0.0, |sample| ms(*sample))
        };
        let sum: Duration = samples.iter().sum();
        Latency {
            samples: samples.len(),
            mean_ms: ms(sum) / samples.len().max(1) as f64,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The middle value; the mean of the two in the middle of an even number. Zero if there are none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// `412 ns`, `58.1 µs`, `5.43 ms`, `12.4 s`: three digits, in the unit that needs no zeros before them.
pub(super) fn time(ms: f64) -> String {
    let (value, unit) = match ms {
        ms if ms < 1e-3 => return format!("{:.0} ns", ms * 1e6),
        ms if ms < 1.0 => (ms * 1e3, "µs"),
        ms if ms < 1e3 => (ms, "ms"),
        ms => (ms / 1e3, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// `0.87x`, `43.2x`, `1,234x`.
pub(super) fn times(ratio: f64) -> String {
    format!("{}x", three_digits(ratio))
}

/// At least three digits, and commas between thousands.
pub(super) fn three_digits(value: f64) -> String {
    match value {
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index) % 3 == 0 {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_and_the_mean_is_of_all() {
        let latency = Latency::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(latency, Latency { samples: 200, mean_ms: 100.5, p50_ms: 100.0, p99_ms: 198.0 });
        let one = Latency::of(vec![Duration::from_millis(7)]);
        assert_eq!(one, Latency { samples: 1, mean_ms: 7.0, p50_ms: 7.0, p99_ms: 7.0 });
        assert_eq!(Latency::of(Vec::new()), Latency { samples: 0, mean_ms: 0.0, p50_ms: 0.0, p99_ms: 0.0 });
        assert_eq!(
            (median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0]), median(Vec::new())),
            (2.0, 2.5, 0.0)
        );
    }

    #[test]
    fn figures_have_three_digits_in_a_unit_that_suits_them() {
        let texts = [0.0, 0.000_412, 0.0581, 5.43, 99.96, 999.0, 12_400.0, 1_234_567.0].map(time);
        assert_eq!(texts, ["0 ns", "412 ns", "58.1 µs", "5.43 ms", "100 ms", "999 ms", "12.4 s", "1,235 s"]);
        assert_eq!(
            [0.871, 9.999, 43.21, 1234.0, 1_234_567.0].map(times),
            ["0.87x", "10.0x", "43.2x", "1,234x", "1,234,567x"]
        );
    }
}
