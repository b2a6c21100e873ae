//! The reference service and the same endpoint written otherwise, on one private PostgreSQL, asked by wrk in
//! turns. It prints tables and judges nothing.
//!
//! Every contestant is a process of its own, so that its processor time and memory are its own too: `poolhouse
//! serve`, and this program itself with `--serve` for the others.

mod contestants;
mod load;
mod peers;
mod process;
mod tables;

/// Tables as plain text, and medians: the other benchmark's.
#[path = "../../peers/src/measure.rs"]
#[allow(dead_code, reason = "the other benchmark's code; this needs only part of it")]
mod measure;
#[path = "../../peers/src/report.rs"]
mod report;
/// The tests' private server.
#[path = "../../../tests/support"]
#[allow(dead_code, reason = "the tests' code; the measurements need only part of it")]
mod support {
    mod eventually;
    pub(crate) mod postgres;
    pub(crate) mod server;

    pub(crate) use eventually::{SOON, eventually};
}

use clap::Parser;
use contestants::{Build, Contestant, Running, Stage};
use load::Wrk;
use peers::Peer;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;
use tables::Round;

/// Measures GET /api/movies/{id} of the reference service and of its peers; see benches/README.md
#[derive(Debug, Parser)]
struct Cli {
    /// Who takes part: poolhouse, poolhouse-full (min = max), blocking, single, deadpool, sqlx, r2d2, and the names of --poolhouse; everybody where nobody is named
    only: Vec<String>,
    /// Another build of the service, to be compared in the same run
    #[arg(long = "poolhouse", value_name = "[NAME=]PATH")]
    builds: Vec<Build>,
    /// Whom the others are compared with
    #[arg(long, default_value = "deadpool")]
    against: String,
    /// How many connections wrk keeps busy; a table for each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    connections: Vec<u32>,
    /// How often each contestant has its turn; the medians are printed
    #[arg(long, env = "BENCH_ROUNDS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a turn is, in seconds; a run-up of one second comes before each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// The most database connections of each contestant
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
    pool: u32,
    /// Worker threads of each contestant
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// The service's program; usually the one beside this
    #[arg(long, env = "POOLHOUSE_PROGRAM")]
    program: Option<PathBuf>,

    /// Be this contestant instead
    #[arg(long, hide = true, requires_all = ["bind", "database"])]
    serve: Option<Peer>,
    #[arg(long, hide = true)]
    bind: Option<SocketAddr>,
    #[arg(long, hide = true)]
    database: Option<String>,
}

fn main() {
    let cli = Cli::parse();
    if let (Some(peer), Some(bind), Some(database)) = (cli.serve, cli.bind, &cli.database) {
        peer.serve(bind, database, cli.pool, cli.workers as usize).expect("the contestant serves");
        return;
    }
    assert!(cfg!(target_os = "linux"), "processor times and memory are read from /proc, which is Linux's");
    let contestants = chosen(&cli);
    let begun = Instant::now();
    let stage = Stage::new(cli.pool, cli.workers);
    println!(
        "GET /api/movies/{{id}}, pool of {}, {} workers; {} rounds of {} s, medians; load at the start {}\n",
        cli.pool,
        cli.workers,
        cli.rounds,
        cli.seconds,
        measure::load()
    );
    for connections in &cli.connections {
        run(&stage, &contestants, &cli, *connections);
    }
    println!("took {:.0} s; load at the end {}", begun.elapsed().as_secs_f64(), measure::load());
}

fn chosen(cli: &Cli) -> Vec<Contestant> {
    let own = || {
        let this = std::env::current_exe().expect("the path of this program");
        this.with_file_name("poolhouse")
    };
    let path = cli.program.clone().unwrap_or_else(own);
    let mut all: Vec<_> = [("poolhouse", false), ("poolhouse-full", true)]
        .map(|(name, is_full)| Build { name: name.to_owned(), path: path.clone(), is_full })
        .map(Contestant::Service)
        .into();
    all.extend(cli.builds.iter().cloned().map(Contestant::Service));
    all.extend(Peer::ALL.map(Contestant::Peer));
    for name in &cli.only {
        assert!(all.iter().any(|one| one.name() == name), "nobody is called {name}");
    }
    all.retain(|one| cli.only.is_empty() || cli.only.iter().any(|name| name == one.name()));
    assert!(
        all.iter().any(|one| one.name() == cli.against),
        "{} does not take part: see --against",
        cli.against
    );
    all
}

/// One table. Everybody is started anew for it, so that memory is that of this many connections.
fn run(stage: &Stage, contestants: &[Contestant], cli: &Cli, connections: u32) {
    let running: Vec<Running> = contestants.iter().map(|one| stage.start(one)).collect();
    contestants::compare_answers(&running);
    let wrk = Wrk::new(connections);
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); running.len()];
    for round in 0..cli.rounds as usize {
        for turn in 0..running.len() {
            // Another one begins each time, so that nobody always comes after the same.
            let which = (turn + round) % running.len();
            let one = &running[which];
            wrk.run(one.address, 1, round);
            let before = stage.usage(one);
            let asked = wrk.run(one.address, cli.seconds, round);
            rounds[which].push(Round::new(asked, before, stage.usage(one)));
        }
    }
    let memory = running.iter().map(|one| process::memory(one.pid())).collect::<Vec<_>>();
    tables::print(connections, &cli.against, &running, &rounds, &memory);
}
