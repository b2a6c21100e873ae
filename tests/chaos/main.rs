//! `make chaos`: a real primary and standby, sixteen threads that write a ledger, faults of every kind in random
//! order, and a judge. It ends with 1 where anything is not as promised.

#![allow(clippy::unwrap_used, reason = "a run that cannot go on fails")]

mod engine;
#[path = "../support/mod.rs"]
mod support;

use clap::Parser;
use engine::Plan;
use engine::faults::{DECK, Fault};
use std::process::ExitCode;
use std::time::Duration;

/// Breaks a server in every way, and judges the reported outcomes.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long faults are thrown.
    #[arg(long, default_value_t = 3.0, value_parser = minutes)]
    minutes: f64,
    /// Throws the same faults in the same order again.
    #[arg(long)]
    seed: Option<u64>,
    /// Throws only this kind of fault, by its name in the report; may be given several times.
    #[arg(long, value_parser = fault)]
    only: Vec<Fault>,
}

fn fault(name: &str) -> Result<Fault, String> {
    all_faults().into_iter().find(|fault| fault.to_string() == name).ok_or_else(|| {
        let names: Vec<_> = all_faults().iter().map(Fault::to_string).collect();
        format!("allowed: {}", names.join(", "))
    })
}

fn all_faults() -> Vec<Fault> {
    DECK.into_iter().map(|(fault, _)| fault).collect()
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse().ok().filter(|minutes| (0.05..=120.0).contains(minutes));
    minutes.ok_or_else(|| "allowed: 0.05 to 120 minutes".to_owned())
}

fn main() -> ExitCode {
    env_logger::Builder::new().parse_env("RUST_LOG").init();
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("chaos: {} minutes, seed {seed}", arguments.minutes);
    let outcome = engine::run(Plan {
        seed,
        workers: 16,
        first: Vec::new(),
        then: if arguments.only.is_empty() { all_faults() } else { arguments.only },
        time: Duration::from_secs_f64(arguments.minutes * 60.0),
        // Long enough to see that the pools stay well.
        calm: Duration::from_millis(1300),
        with_standby: true,
        is_alone: true,
        leniency: Duration::ZERO,
    });
    println!("{outcome}");
    if outcome.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
