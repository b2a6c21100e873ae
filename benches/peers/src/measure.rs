//! What one round of one contestant says, and the medians over rounds.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::time::Duration;

/// How long a run is, as the command line says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) count: usize,
    pub(crate) length: Duration,
}

impl Rounds {
    /// The same, each round `times` as long.
    pub(crate) fn longer(self, times: u32) -> Rounds {
        Rounds { length: self.length * times, ..self }
    }
}

/// What one worker has seen in a round, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Calls that ended before the round did.
    pub(crate) calls: u64,
    /// Every call, also the last one, which ended after.
    pub(crate) operations: Vec<u64>,
    pub(crate) waits: Vec<u64>,
}

impl Tally {
    pub(crate) fn note(&mut self, wait: Duration, operation: Duration, is_in_time: bool) {
        self.calls += u64::from(is_in_time);
        self.waits.push(nanos(wait));
        self.operations.push(nanos(operation));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One contestant's round.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) calls_per_second: f64,
    pub(crate) operation: Spread,
    pub(crate) wait: Spread,
    /// Calls of the worker served least and most, in shares of the average.
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// Processor time of this process per call, in seconds.
    pub(crate) cpu: f64,
}

/// Seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Figures {
    /// `lasted` is the round's length, `cpu` what was used until every worker was done.
    pub(crate) fn of(tallies: Vec<Tally>, lasted: Duration, cpu: Duration) -> Figures {
        let calls: Vec<u64> = tallies.iter().map(|tally| tally.calls).collect();
        let total: u64 = calls.iter().sum();
        let average = total as f64 / calls.len() as f64;
        let all: usize = tallies.iter().map(|tally| tally.operations.len()).sum();
        let share = |calls: Option<&u64>| calls.map_or(0.0, |calls| *calls as f64 / average);
        let (least, most) = (share(calls.iter().min()), share(calls.iter().max()));
        let mut operations = Vec::with_capacity(all);
        let mut waits = Vec::with_capacity(all);
        for mut tally in tallies {
            operations.append(&mut tally.operations);
            waits.append(&mut tally.waits);
        }
        Figures {
            calls_per_second: total as f64 / lasted.as_secs_f64(),
            operation: Spread::of(operations),
            wait: Spread::of(waits),
            least,
            most,
            cpu: cpu.as_secs_f64() / all.max(1) as f64,
        }
    }
}

impl Spread {
    pub(crate) fn of(mut samples: Vec<u64>) -> Spread {
        samples.sort_unstable();
        let at = |share: f64| {
            let rank = (samples.len() as f64 * share).ceil() as usize;
            samples.get(rank.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / 1e9)
        };
        Spread { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// The middle one; of an even number the mean of the two in the middle. Zero of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// Processor time this process has used so far, all threads, in user and system mode.
pub(crate) fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the process's own usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

/// What others do on this machine meanwhile: the load average of the last minute.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
