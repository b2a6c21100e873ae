//! What a round says, and the table of all rounds.

use crate::contestants::Running;
use crate::load::Asked;
use crate::measure::median;
use crate::process::{Memory, Usage};
use crate::report::{Table, time, title};

/// One turn of one contestant; times in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    asked: Asked,
    /// Each per answer.
    cpu: f64,
    switches: f64,
    database_cpu: f64,
}

impl Round {
    pub(crate) fn new(asked: Asked, before: Usage, after: Usage) -> Round {
        let answers = asked.answers.max(1.0);
        Round {
            asked,
            cpu: (after.cpu - before.cpu) / answers,
            // Threads that have ended meanwhile take their number with them.
            switches: after.switches.saturating_sub(before.switches) as f64 / answers,
            database_cpu: (after.database_cpu - before.database_cpu) / answers,
        }
    }
}

pub(crate) fn print(
    connections: u32,
    against: &str,
    running: &[Running],
    rounds: &[Vec<Round>],
    memory: &[Memory],
) {
    title(&match connections {
        1 => "1 connection".to_owned(),
        many => format!("{many} connections"),
    });
    let base = running.iter().position(|one| one.name == against).expect("whom to compare with");
    let to = format!("to {against}");
    let mut table = Table::new(&[
        "",
        "req/s",
        &to,
        "CPU/req",
        &to,
        "p50",
        "p99",
        &to,
        "max",
        "to p50",
        "errors",
        "switches/req",
        "server's CPU/req",
        "memory",
        "peak",
        &to,
    ]);
    for (index, own) in rounds.iter().enumerate() {
        let middle = |get: fn(&Round) -> f64| median(own.iter().map(get));
        let ratio = |get: fn(&Round) -> f64| ratios(own, &rounds[base], get);
        let errors: u64 = own.iter().map(|round| round.asked.errors).sum();
        table.row([
            running[index].title.clone(),
            format!("{:.0}", middle(|round| round.asked.per_second)),
            ratio(|round| round.asked.per_second),
            time(middle(|round| round.cpu)),
            ratio(|round| round.cpu),
            time(middle(|round| round.asked.p50)),
            time(middle(|round| round.asked.p99)),
            ratio(|round| round.asked.p99),
            time(middle(|round| round.asked.max)),
            format!("{:.1}", middle(|round| round.asked.max / round.asked.p50)),
            errors.to_string(),
            format!("{:.2}", middle(|round| round.switches)),
            time(middle(|round| round.database_cpu)),
            mebibytes(memory[index].now),
            mebibytes(memory[index].peak),
            format!("{:.2}", memory[index].peak as f64 / memory[base].peak as f64),
        ]);
    }
    table.print();
}

/// The median of the ratios within a round, so that what troubles the machine for a while troubles both sides; the
/// lowest and the highest tell how noisy it was.
fn ratios(own: &[Round], base: &[Round], get: fn(&Round) -> f64) -> String {
    let ratios: Vec<f64> = own.iter().zip(base).map(|(own, base)| get(own) / get(base)).collect();
    let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({lowest:.2}-{highest:.2})", median(ratios))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0)
}
