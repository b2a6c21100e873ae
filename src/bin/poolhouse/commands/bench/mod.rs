//! `poolhouse bench`: measures a connection per query against the pool, on the database that the settings name.
//!
//! One run at a time: it holds a lock in a transaction that stays open, so that a killed run releases it. Each part
//! measures its two contestants in turn, within its share of the time. Documents come first, because a run may lack the
//! right to write them; the schema they need exists only meanwhile, and a run that was killed leaves it to the next one.

mod acquire;
mod callers;
mod documents;
mod figures;
mod report;
mod row;
mod stage;

use crate::cli::{BenchArguments, Failure};
use crate::commands::check::Server;
use crate::commands::database::{one_connection, prepare_database, print_line, with_pool};
use crate::commands::target::{Target, unusable};
use crate::dev_postgres::Sharing;
use crate::repositories::bench as repository;
use poolhouse::settings::Tier;
use poolhouse::{PoolSettings, Settings, Transaction};
use report::Report;
use stage::{Halt, MOST_CALLERS, Stage};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// How much longer than its time a run may take: the driver's own connections have no deadline.
const GRACE: Duration = Duration::from_secs(20);

/// How long to wait for the lock: the server may still hold that of a run which was just killed.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest part of the time that one delay may take: each part connects at least once.
const DELAYS: u32 = 50;

pub(crate) fn bench(mut settings: Settings, arguments: &BenchArguments) -> Result<(), Failure> {
    check(&settings, arguments)?;
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let target = Target::of(&settings, local.as_ref());
    let budget = Duration::from_secs(arguments.seconds.into());
    let report = Run { settings: settings.pool, target, budget, delay: arguments.connect_delay }.in_time()?;
    print_line(&if arguments.json { report.as_json() } else { report.to_string().trim_end().to_owned() });
    match &report.documents_missing {
        _ if !report.is_complete => Err(Failure::Incomplete("stopped before the end".to_owned())),
        Some(reason) => Err(Failure::Incomplete(format!("documents were not measured: {reason}"))),
        None => Ok(()),
    }
}

/// Refuses what would take too long, and what needs consent.
fn check(settings: &Settings, arguments: &BenchArguments) -> Result<(), Failure> {
    let BenchArguments { seconds, connect_delay, yes, .. } = arguments;
    let most = Duration::from_secs((*seconds).into()) / DELAYS;
    if *connect_delay > most {
        return Err(Failure::Settings(format!(
            "--connect-delay {} ms: allowed is at most a fiftieth of --seconds {seconds}, {} ms",
            connect_delay.as_millis(),
            most.as_millis()
        )));
    }
    if settings.tier == Tier::Production && !yes {
        return Err(Failure::Settings(format!(
            "the production tier is not measured without --yes: for {seconds} s it opens and closes connections to \
             {} as fast as it can, up to {MOST_CALLERS} at once, and writes a few MB to a schema of its own",
            settings.pool.database
        )));
    }
    Ok(())
}

/// A run, as its command line and settings describe it.
#[derive(Debug)]
struct Run {
    settings: PoolSettings,
    target: Target,
    budget: Duration,
    delay: Duration,
}

impl Run {
    /// Measures in a thread of its own, which is left behind if the server stops answering.
    fn in_time(self) -> Result<Report, Failure> {
        let (target, limit) = (self.target.clone(), self.budget + GRACE);
        let (done, outcome) = channel();
        let thread = thread::Builder::new().name("poolhouse-bench".to_owned());
        let thread = thread
            .spawn(move || drop(done.send(self.measure())))
            .map_err(Failure::during("cannot measure"))?;
        match outcome.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(Failure::Failed(format!(
                "the database {target} has stopped answering; the next run removes what this one has left there"
            ))),
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => unreachable!("bug: the thread ended without an outcome"),
            },
        }
    }

    fn measure(&self) -> Result<Report, Failure> {
        let mut settings = one_connection(&self.settings);
        // Held for the whole run.
        settings.leak_threshold = None;
        with_pool(&settings, &self.target, |pool| {
            let mut report = None;
            let outcome: Result<(), Failure> = pool.try_transaction(|tx| {
                self.lock(tx)?;
                report = Some(self.measure_alone(tx)?);
                Ok(())
            });
            // With a report the transaction's end says nothing: a lock that was lost has spoiled no figure.
            match (report, outcome) {
                (Some(report), _) => Ok(report),
                (None, Err(failure)) => Err(failure),
                (None, Ok(())) => unreachable!("bug: neither a report nor a failure"),
            }
        })
    }

    fn lock(&self, tx: &Transaction<'_>) -> Result<(), Failure> {
        repository::allow_idle(tx)?;
        let start = Instant::now();
        while !repository::try_lock(tx)? {
            if start.elapsed() >= LOCK_TIMEOUT {
                return Err(Failure::Failed(format!(
                    "another poolhouse bench runs on the database {}: each would measure the other",
                    self.target
                )));
            }
            sleep(LOCK_TIMEOUT / 40);
        }
        Ok(())
    }

    fn measure_alone(&self, tx: &Transaction<'_>) -> Result<Report, Failure> {
        let (start, server) = (Instant::now(), Server::find(tx)?);
        // The transaction's own connection counts as free.
        let free = server.free() - 1;
        if free < 2 {
            return Err(Failure::Failed(format!(
                "the database {} is full: it has {free} connections left, and this needs 2 at least",
                self.target
            )));
        }
        // Half of what is free: the other half is for a connection per query.
        let most = u32::try_from(free / 2).unwrap_or(u32::MAX).min(MOST_CALLERS);
        let pool_connections = self.settings.max_connections.min(most);
        let stage = Stage::new(&self.settings, repository::is_encrypted(tx)?, self.delay, self.budget);
        let mut report = Report {
            database: self.target.to_string(),
            server_version: server.version,
            connections_made_by: stage.way(),
            connect_delay_ms: figures::ms(self.delay),
            pool_connections,
            configured_connections: self.settings.max_connections,
            is_complete: false,
            seconds: 0.0,
            acquire: None,
            row: None,
            documents: None,
            documents_missing: None,
            callers: Vec::new(),
        };
        match self.fill(&mut report, &stage, free) {
            Ok(()) => report.is_complete = true,
            Err(Halt::Stopped) => {}
            Err(Halt::Failed(error)) => return Err(unusable(&self.target)(error)),
        }
        report.seconds = start.elapsed().as_secs_f64();
        Ok(report)
    }

    fn fill(&self, report: &mut Report, stage: &Stage, free: i64) -> Result<(), Halt> {
        let part = |name| eprintln!("Measuring {name}");
        part("1,000 documents");
        match documents::measure(stage, &self.settings.database)? {
            Ok(documents) => report.documents = Some(documents),
            Err(missing) => report.documents_missing = Some(missing),
        }
        part("first and later requests");
        report.acquire = Some(acquire::measure(stage)?);
        part("100 queries in a row");
        report.row = Some(row::measure(stage)?);
        part("1 to 64 callers");
        let (pool, free) = (report.pool_connections, free - i64::from(report.pool_connections));
        report.callers = callers::measure(stage, pool, free)?;
        Ok(())
    }
}
