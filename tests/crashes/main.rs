//! `make crashes`: `poolhouse ingest` is killed in the middle twenty times and its server five times, and a server's disk fills up.
//! Afterwards the tables have, row for row, what an uninterrupted run leaves. It ends with 1 where they have not.

#![allow(clippy::unwrap_used, reason = "a run that cannot go on fails")]

mod campaign;
mod corpus;
mod disk;
#[path = "../documents/folder.rs"]
mod folder;
#[path = "../support/mod.rs"]
mod support;

use campaign::Campaign;
use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;

/// Kills `poolhouse ingest` and its server, and compares what the tables have with what an uninterrupted run leaves.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often the program is killed in the middle.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// How often the server is killed in the middle.
    #[arg(long, default_value_t = 5)]
    server_kills: u32,
    /// Makes the same files, and kills after the same numbers of documents.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("crashes: seed {seed}");
    let begun = Instant::now();
    let mut campaign = Campaign::new(seed);
    campaign.kill_the_program(arguments.kills);
    campaign.kill_the_server(arguments.server_kills);
    let mut findings = campaign.findings;
    findings.extend(disk::fill());
    for finding in &findings {
        println!("FOUND: {finding}");
    }
    println!("{} findings in {:.0} s", findings.len(), begun.elapsed().as_secs_f64());
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
