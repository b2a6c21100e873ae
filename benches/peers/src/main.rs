//! Poolhouse and its peers on one private PostgreSQL, in one run. It prints tables and judges nothing.

mod contestants;
mod machine;
mod measure;
mod report;
mod scenarios;

/// The tests' private server and breaking proxy: what they break there is measured here.
#[path = "../../../tests/support"]
#[allow(dead_code, reason = "the tests' code; the measurements need only part of it")]
mod support {
    mod eventually;
    pub(crate) mod postgres;
    pub(crate) mod proxy;
    pub(crate) mod server;

    pub(crate) use eventually::{SOON, eventually};
}

use clap::{Parser, ValueEnum};
use measure::{Rounds, load};
use scenarios::faults::Fault;
use scenarios::{
    Stage, acquire, bulk, documents, faults, first_answer, growth, import, recovery, spike, throughput,
};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Measures poolhouse and its peers against one private PostgreSQL; see benches/README.md
#[derive(Debug, Parser)]
struct Cli {
    /// What to run; everything but bulk, the documents, the faults and the growth where nothing is named
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// How often each contestant has its turn; the medians are printed
    #[arg(long, env = "BENCH_ROUNDS", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a turn is, in milliseconds; scenarios with a crowd take two or three times that
    #[arg(long, env = "BENCH_ROUND_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    round_ms: u64,
    /// MovieLens's movies.csv, for the import and for bulk
    #[arg(long, env = "MOVIELENS_CSV")]
    movies_csv: Option<PathBuf>,
    /// A folder of HTML files, for the documents
    #[arg(long, default_value = "/usr/share/doc/postgresql-doc-15/html")]
    html: PathBuf,
    /// The service's program, for the import, the documents and the first answer; usually the one beside this
    #[arg(long, env = "POOLHOUSE_PROGRAM")]
    program: Option<PathBuf>,
    /// Which of the faults; all of them where none is named
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
    /// Some rows of the growth only
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Acquire,
    Point,
    Range,
    Update,
    Crowd,
    Hold,
    Spike,
    Growth,
    Recovery,
    Import,
    FirstAnswer,
    Bulk,
    Documents,
    Faults,
}

fn main() {
    let cli = Cli::parse();
    let begun = Instant::now();
    let rounds = Rounds { count: cli.rounds as usize, length: Duration::from_millis(cli.round_ms) };
    let program = cli.program.unwrap_or_else(|| {
        let own = std::env::current_exe().expect("the path of this program");
        own.with_file_name("poolhouse")
    });
    let stage = Stage::new(rounds, cli.movies_csv, program);
    let row = stage.server.client().query_one("SHOW server_version", &[]).expect("the server's version");
    println!("{}", machine::describe(row.get(0)));
    println!("{} rounds of {} ms, medians; load at the start {}\n", cli.rounds, cli.round_ms, load());
    let all = Scenario::value_variants();
    // Some need files of their own, and the others take half as long as all that is left.
    let is_chosen = |one: &Scenario| match cli.scenarios.as_slice() {
        [] => !matches!(one, Scenario::Bulk | Scenario::Documents | Scenario::Faults | Scenario::Growth),
        named => named.contains(one),
    };
    for scenario in all.iter().filter(|one| is_chosen(one)) {
        match scenario {
            Scenario::Acquire => acquire::run(&stage),
            Scenario::Point => throughput::run(&stage, throughput::POINT),
            Scenario::Range => throughput::run(&stage, throughput::RANGE),
            Scenario::Update => throughput::run(&stage, throughput::UPDATE),
            Scenario::Crowd => throughput::run(&stage, throughput::CROWD),
            Scenario::Hold => throughput::run(&stage, throughput::HOLD),
            Scenario::Spike => spike::run(&stage),
            Scenario::Growth => growth::run(&stage, cli.quick),
            Scenario::Recovery => recovery::run(&stage),
            Scenario::Import => import::run(&stage),
            Scenario::FirstAnswer => first_answer::run(&stage),
            Scenario::Bulk => bulk::run(&stage),
            Scenario::Documents => documents::run(&stage, &cli.html),
            Scenario::Faults => faults::run(&stage, &cli.fault),
        }
    }
    println!("took {:.0} s; load at the end {}", begun.elapsed().as_secs_f64(), load());
}
