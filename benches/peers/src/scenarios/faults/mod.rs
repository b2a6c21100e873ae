//! Seven faults and how a pool's callers fare in them. Every contestant lives through each on a server or behind
//! a proxy of its own.

mod callers;
mod peers;
mod report;

use super::{FILMS, Stage};
use crate::support::postgres::Database;
use crate::support::proxy::Proxy;
use crate::support::server::Postgres;
use callers::{LONGEST_WAIT, Log, Shared, burst, live_through};
use clap::ValueEnum;
use peers::{Job, Kind, Opening, PATIENCE, Peer, SHELVES, WRITES};
use report::Report;
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Every backend terminated once a second, four times
    Terminate,
    /// A fast restart of the server
    Restart,
    /// Every process of the server killed, and started again after 2.3 s
    Crash,
    /// A network that is silent for 8 s
    Silence,
    /// Sessions handed back dirty
    Dirty,
    /// A table altered under SELECT *
    Alter,
    /// 64 callers at once on two connections
    Spike,
}

/// Rounds of what differs from one time to the next.
const ROUNDS: usize = 3;
const DOWN: Duration = Duration::from_millis(2300);
const SILENT: Duration = Duration::from_secs(8);
/// How long callers go on once they are served again, so that stale connections show.
const SETTLED: Duration = Duration::from_millis(500);

pub(crate) fn run(stage: &Stage, chosen: &[Fault]) {
    let mut report = Report::default();
    for fault in Fault::value_variants().iter().filter(|one| chosen.is_empty() || chosen.contains(one)) {
        match fault {
            Fault::Terminate => terminate(stage, &mut report),
            Fault::Restart => restart(stage, &mut report),
            Fault::Crash => CRASHES.iter().for_each(|crash| crash.run(stage, &mut report)),
            Fault::Silence => silence(stage, &mut report),
            Fault::Dirty => dirty(stage, &mut report),
            Fault::Alter => alter(stage, &mut report),
            Fault::Spike => spike(stage, &mut report),
        }
    }
    report.print();
}

/// A server of one contestant's own.
fn server(tables: &str) -> Postgres {
    let server = Postgres::start();
    server.client().batch_execute(tables).expect("the tables");
    server
}

/// A database of one contestant's own, where that is enough.
fn database(stage: &Stage, tables: &str) -> Database {
    let database = stage.server.fresh_database();
    database.client().batch_execute(tables).expect("the tables");
    database
}

fn terminate(stage: &Stage, report: &mut Report) {
    let row = "every backend terminated once a second, 4 times: failed reads";
    for kind in Kind::ALL {
        let database = database(stage, FILMS);
        let mut admin = database.client();
        let peer = kind.open(&Opening::new(&stage.runtime, database.settings()));
        let log = live_through(&stage.runtime, &peer, Job::Read, |_| {
            for _ in 0..4 {
                let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                              WHERE datname = current_database() AND pid <> pg_backend_pid()";
                admin.execute(others, &[]).expect("backends terminated");
                thread::sleep(Duration::from_secs(1));
            }
        });
        report.failures(row, kind, &log);
    }
}

fn restart(stage: &Stage, report: &mut Report) {
    let row = "fast restart under load: failed reads";
    for _ in 0..ROUNDS {
        for kind in Kind::ALL {
            let server = server(FILMS);
            let peer = kind.open(&Opening::new(&stage.runtime, server.database_settings()));
            let mut away = Duration::ZERO;
            let log = live_through(&stage.runtime, &peer, Job::Read, |shared| {
                let begun = Instant::now();
                server.stop_fast();
                away = start_again(&server, shared) - begun;
                shared.wait_for_success();
                thread::sleep(SETTLED);
            });
            report.failures(row, kind, &log);
            report.time("  longest time without a success", kind, log.longest_gap);
            report.time("  of it the server was away", kind, away);
        }
    }
}

/// How writes fare in a crash.
struct Crash {
    failed: &'static str,
    served: &'static str,
    kinds: &'static [Kind],
    job: Job,
    outage_grace: Option<Duration>,
}

const CRASHES: [Crash; 3] = [
    Crash {
        failed: "crash, back after 2.3 s: failed writes",
        served: "  first success after",
        kinds: &Kind::ALL,
        job: Job::Write,
        outage_grace: None,
    },
    Crash {
        failed: "  with an outage grace of 5 s: failed writes",
        served: "  first success of these after",
        kinds: &[Kind::Ours],
        job: Job::Write,
        outage_grace: Some(PATIENCE),
    },
    Crash {
        failed: "  and by transaction_verified: failed writes",
        served: "  first success of those after",
        kinds: &[Kind::Ours],
        job: Job::VerifiedWrite,
        outage_grace: Some(PATIENCE),
    },
];

impl Crash {
    fn run(&self, stage: &Stage, report: &mut Report) {
        for _ in 0..ROUNDS {
            for &kind in self.kinds {
                let server = server(WRITES);
                let opening = Opening::new(&stage.runtime, server.database_settings());
                let peer = kind.open(&Opening { outage_grace: self.outage_grace, ..opening });
                let log = live_through(&stage.runtime, &peer, self.job, |shared| {
                    let begun = Instant::now();
                    server.kill();
                    thread::sleep(DOWN.saturating_sub(begun.elapsed()));
                    start_again(&server, shared);
                    shared.wait_for_success();
                    thread::sleep(SETTLED);
                });
                report.failures(self.failed, kind, &log);
                report.time(self.served, kind, log.first_success_after.unwrap_or(LONGEST_WAIT));
            }
        }
    }
}

/// Starts the server and notes when it lets somebody in, which is before its starter has noticed.
fn start_again(server: &Postgres, shared: &Shared) -> Instant {
    let config = server.database_settings().driver_config();
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while config.connect(postgres::NoTls).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
            shared.back();
            Instant::now()
        });
        server.start_again();
        watch.join().expect("the server is back")
    })
}

/// Everybody at the same time: nobody has anything to do meanwhile.
fn silence(stage: &Stage, report: &mut Report) {
    let live = |kind: Kind| {
        let proxy = Proxy::to(&stage.server.database_settings());
        let opening = Opening::new(&stage.runtime, proxy.settings());
        let peer = kind.open(&Opening { has_deadline: true, ..opening });
        live_through(&stage.runtime, &peer, Job::ReadInTwoSteps, |_| {
            proxy.stall();
            thread::sleep(SILENT);
            proxy.pass();
        })
    };
    let logs = thread::scope(|scope| {
        let lives: Vec<_> = Kind::ALL.map(|kind| scope.spawn(move || live(kind))).into();
        lives.into_iter().map(|life| life.join().expect("a life")).collect::<Vec<Log>>()
    });
    for (kind, log) in Kind::ALL.into_iter().zip(logs) {
        report.time("network silent for 8 s: longest acquire", kind, log.longest_acquire);
        report.time("  longest operation", kind, log.longest_operation);
    }
}

/// What a borrower leaves behind, and what the next one asks to see it.
const DIRT: [(&str, &str); 8] = [
    ("BEGIN; INSERT INTO writes VALUES (1)", "SELECT count(*) > 0 FROM writes"),
    ("SET work_mem = '12345kB'", "SELECT current_setting('work_mem') = '12345kB'"),
    ("SET ROLE guest", "SELECT current_user = 'guest'"),
    ("SET search_path TO elsewhere, public", "SELECT current_setting('search_path') LIKE 'elsewhere%'"),
    ("CREATE TEMPORARY TABLE left_behind (n int)", "SELECT to_regclass('pg_temp.left_behind') IS NOT NULL"),
    (
        "SELECT pg_advisory_lock(42)",
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
    ),
    ("LISTEN gossip", "SELECT EXISTS (SELECT FROM pg_listening_channels())"),
    (
        "PREPARE left_behind AS SELECT 1",
        "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'left_behind')",
    ),
];

fn dirty(stage: &Stage, report: &mut Report) {
    for kind in Kind::ALL {
        let database = database(stage, WRITES);
        let is_handed_on = |(dirt, question): &(&str, &str)| {
            // One connection, so that the next borrower gets the same one if it is lent again.
            let opening = Opening { max: 1, ..Opening::new(&stage.runtime, database.settings()) };
            match kind.open(&opening) {
                Peer::Threads(pool) => pool.hand_over(dirt, question),
                Peer::Tasks(pool) => stage.runtime.block_on(pool.hand_over(dirt, question)),
            }
        };
        let handed_on = DIRT.iter().filter(|dirt| is_handed_on(dirt)).count();
        report.count("of 8 kinds of dirty session, handed on to the next", kind, handed_on as u64);
    }
}

fn alter(stage: &Stage, report: &mut Report) {
    let row = "ALTER TABLE 8 times under SELECT *: failed queries";
    for _ in 0..ROUNDS {
        for kind in Kind::ALL {
            let database = database(stage, SHELVES);
            let mut admin = database.client();
            let peer = kind.open(&Opening::new(&stage.runtime, database.settings()));
            let log = live_through(&stage.runtime, &peer, Job::Star, |_| {
                for n in 0..8 {
                    let change = if n % 2 == 0 { "ADD COLUMN extra integer" } else { "DROP COLUMN extra" };
                    admin.batch_execute(&format!("ALTER TABLE shelves {change}")).expect("another table");
                    thread::sleep(Duration::from_millis(100));
                }
            });
            report.failures(row, kind, &log);
        }
    }
}

fn spike(stage: &Stage, report: &mut Report) {
    for _ in 0..ROUNDS {
        for kind in Kind::ALL {
            let proxy = Proxy::to(&stage.server.database_settings());
            proxy.delay_connects(Duration::from_millis(60));
            let opening = Opening::new(&stage.runtime, proxy.settings());
            let peer = kind.open(&Opening { max: 10, min: Some(2), ..opening });
            let before = proxy.connects();
            let took = burst(&stage.runtime, &peer, Job::Sleep, 64);
            // Those begun for nothing arrive late.
            thread::sleep(SETTLED);
            report.count("spike of 64, 2 open, max 10: opened", kind, proxy.connects() - before);
            report.time("  all served after", kind, took);
        }
    }
}
