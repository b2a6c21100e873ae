//! A ledger that many threads write while the server and the network are broken in every way, and a judge that compares
//! the reported outcomes with the tables.
//!
//! The seed decides which faults are thrown in which order, how long each lasts, and what each thread does one
//! after the other; not when the machine lets them.

pub(crate) mod clock;
pub(crate) mod faults;
pub(crate) mod judge;
pub(crate) mod ledger;
mod report;
mod resources;
mod stage;
mod tally;
mod workers;

use clock::{Bound, Clock};
use faults::Fault;
use judge::{Verdict, judge, unnoticed};
use ledger::Claims;
use poolhouse::{Execute, Pool, PoolState};
use resources::Resources;
use stage::Stage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};
use tally::{Board, Counts};
use workers::{HEALING, Worker};

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) workers: usize,
    /// Thrown first, in this order.
    pub(crate) first: Vec<Fault>,
    /// Thrown after that, from one shuffled deck after the other.
    pub(crate) then: Vec<Fault>,
    /// For how long, from the start.
    pub(crate) time: Duration,
    /// How long after a repair the next fault is thrown.
    pub(crate) calm: Duration,
    pub(crate) with_standby: bool,
    /// This process does nothing else: what it holds of the machine's is compared before and after, what happens
    /// is printed as it happens.
    pub(crate) is_alone: bool,
    /// What others who use the processors at the same time may cost: allowed beyond every limit of time.
    pub(crate) leniency: Duration,
}

/// A fault that was thrown.
#[derive(Debug, Clone)]
pub(crate) struct Episode {
    pub(crate) fault: Fault,
    /// Since the start.
    pub(crate) at: Duration,
    pub(crate) lasted: Duration,
    /// How long after the repair each pool was well.
    pub(crate) well_after: [Duration; 2],
    /// The most that the machine was late by meanwhile, or that the server took to answer a client without a pool.
    pub(crate) machine_was_late_by: Duration,
}

/// Everything that came out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) counts: Counts,
    pub(crate) unknown: usize,
    pub(crate) verdict: Verdict,
    pub(crate) clock: Arc<Clock>,
    pub(crate) resources: Option<(Resources, Resources)>,
    /// What must not be, in words.
    pub(crate) findings: Vec<String>,
}

/// How long the slowest operation can take with all its deadlines kept, and then some: what is not over by then
/// hangs.
const HANGS: Duration = Duration::from_secs(30);

/// Carries out a plan.
pub(crate) fn run(plan: Plan) -> Outcome {
    let stage = Stage::set(plan.with_standby, plan.leniency);
    let (mut claims, mut counts, mut findings) = Default::default();
    let mut before = None;
    if plan.is_alone {
        // The first threads, connections and statements of a process leave more behind than all later ones.
        let warm_up = Run::begin(&stage, &plan, 0);
        sleep(Duration::from_secs(1));
        (claims, counts, findings) = warm_up.end();
        before = Resources::at_rest();
    }

    let run = Run::begin(&stage, &plan, 1);
    let clock = run.clock.clone();
    let episodes = run.throw(&stage, &plan);
    let (claimed, counted, found) = run.end();
    // The proxies still hold what they were set to leave alone.
    stage.proxies(|proxy| proxy.cut());
    let resources = before.and_then(|before| Some((before, Resources::at_rest()?)));
    claims.append(claimed);
    for (what, count) in counted {
        *counts.entry(what).or_default() += count;
    }
    findings.extend(found);

    let mut client = stage.primary().client();
    let nobody = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'ledger'";
    crate::support::eventually("every session of the pools has ended", HANGS, || {
        client.query_one(nobody, &[]).expect("the sessions").get(0)
    });
    let verdict = judge(&mut client, &claims);
    findings.extend(verdict.findings());
    findings.extend(unnoticed(&mut client, &claims));
    findings.extend(report::broken_promises(&episodes, &clock, plan.leniency));
    findings
        .extend(resources.map(|(before, after)| after.findings(before, claims.memory())).unwrap_or_default());
    let unknown = claims.unknown.len();
    Outcome { plan, episodes, counts, unknown, verdict, clock, resources, findings }
}

/// Two pools, and the threads that use and watch them.
struct Run {
    pools: [Pool; 2],
    board: Arc<Board>,
    clock: Arc<Clock>,
    leniency: Duration,
    workers: Vec<JoinHandle<workers::Report>>,
    watchers: Vec<JoinHandle<()>>,
    started: Instant,
}

impl Run {
    fn begin(stage: &Stage, plan: &Plan, round: usize) -> Run {
        let pools = stage.open_pools();
        let (board, clock) = (Arc::new(Board::new(plan.workers)), Arc::new(Clock::new()));
        let workers = (0..plan.workers).map(|number| {
            let pool = pools[number % pools.len()].clone();
            let first_id = ((round * plan.workers + number + 1) as i64) << 32;
            let worker = Worker::new(number, first_id, plan, pool, board.clone(), clock.clone());
            thread::spawn(move || worker.run())
        });
        let workers = workers.collect();
        let machine = clock.clone();
        let mut watchers = vec![thread::spawn(move || machine.watch_the_machine())];
        for pool in pools.clone() {
            let (board, clock) = (board.clone(), clock.clone());
            watchers.push(thread::spawn(move || watch(&pool, &board, &clock)));
        }
        Run { pools, board, clock, leniency: plan.leniency, workers, watchers, started: Instant::now() }
    }

    /// Throws the faults, each when the pools have got over the last one.
    fn throw(&self, stage: &Stage, plan: &Plan) -> Vec<Episode> {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let mut next: Vec<_> = plan.first.iter().rev().copied().collect();
        let mut episodes = Vec::new();
        loop {
            if next.is_empty() {
                next = Fault::deck(&mut rng, &plan.then, stage.has_standby());
            }
            let is_over = episodes.len() >= plan.first.len() && self.started.elapsed() >= plan.time;
            let Some(fault) = next.pop().filter(|_| !is_over) else { return episodes };
            let episode = self.inflict(fault, stage, &mut rng, plan.calm);
            if plan.is_alone {
                println!("{}", report::line(&episode));
            }
            episodes.push(episode);
        }
    }

    fn inflict(&self, fault: Fault, stage: &Stage, rng: &mut fastrand::Rng, calm: Duration) -> Episode {
        let thrown_at = Instant::now();
        self.board.set_phase(fault, None);
        // A fault takes from chance what it likes, and the next one finds it as if it had taken nothing.
        fault.inflict(stage, &mut rng.fork());
        let repaired_at = Instant::now();
        self.board.set_phase(fault, Some(repaired_at));
        let is_over = AtomicBool::new(false);
        let (well_after, server_took) = thread::scope(|scope| {
            let server_took = scope.spawn(|| server_took(stage, &is_over));
            let waits = self
                .pools
                .each_ref()
                .map(|pool| scope.spawn(|| well_after(pool, repaired_at, 10 * HEALING + self.leniency)));
            let well_after = waits.map(|wait| wait.join().expect("a wait that ends"));
            is_over.store(true, Ordering::Relaxed);
            (well_after, server_took.join().expect("a connect that ends"))
        });
        let machine_was_late_by = self.clock.lateness_between(repaired_at, Instant::now()).max(server_took);
        fault.clear_up(stage);
        sleep((repaired_at + calm).saturating_duration_since(Instant::now()));
        if !self.is_past(repaired_at) {
            self.board.find(format!("an operation begun before the repair of '{fault}' hangs"));
        }
        let at = thrown_at - self.started;
        Episode { fault, at, lasted: repaired_at - thrown_at, well_after, machine_was_late_by }
    }

    /// Waits until what was begun before `moment` is over.
    fn is_past(&self, moment: Instant) -> bool {
        let deadline = Instant::now() + HANGS;
        while !self.board.is_past(moment) {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(1));
        }
        true
    }

    /// Ends the workers, closes the pools, and returns what there is to judge.
    fn end(self) -> (Claims, Counts, Vec<String>) {
        self.board.end();
        self.clock.stop();
        if !self.is_past(Instant::now()) {
            // Threads that hang cannot be waited for.
            let findings = [self.board.findings(), vec!["an operation does not end".to_owned()]].concat();
            return (Claims::default(), Counts::default(), findings);
        }
        let (mut claims, mut counts) = (Claims::default(), Counts::default());
        for worker in self.workers {
            let report = worker.join().expect("a worker that ends");
            claims.append(report.claims);
            for (what, count) in report.counts {
                *counts.entry(what).or_default() += count;
            }
        }
        for watcher in self.watchers {
            watcher.join().expect("a watcher that ends");
        }
        for pool in self.pools {
            let status = pool.status();
            if !pool.close(Duration::from_secs(2)) {
                self.board.find(format!("a connection was never given back: {status:?}"));
            }
        }
        (claims, counts, self.board.findings())
    }
}

/// How long after the repair a pool answers, has its minimum, and knows of no failure; or `patience` and more.
fn well_after(pool: &Pool, repaired_at: Instant, patience: Duration) -> Duration {
    loop {
        let answers = pool.execute_query_one::<i32>("SELECT 1", &[]).is_ok();
        let status = pool.status();
        let is_warm = status.total - status.connecting >= status.min_connections;
        let after = repaired_at.elapsed();
        if (answers && is_warm && status.last_failure.is_none()) || after > patience {
            return after;
        }
        sleep(Duration::from_millis(2));
    }
}

/// The longest that the server takes, until `is_over`, to let a client in that uses no pool.
fn server_took(stage: &Stage, is_over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let started = Instant::now();
        let _ = stage.primary().database_settings().driver_config().connect(postgres::NoTls);
        longest = longest.max(started.elapsed());
        sleep(Duration::from_millis(20));
    }
    longest
}

/// Asks for the pool's numbers all the time: they must come at once, and add up.
fn watch(pool: &Pool, board: &Board, clock: &Clock) {
    while !board.is_over() {
        let status = clock.time(Bound::Status, Duration::ZERO, "status", || pool.status());
        let total = status.available + status.in_use + status.connecting;
        let is_sound = status.state == PoolState::Open
            && total == status.total
            && total <= status.max_connections
            && status.in_use <= status.peak_in_use;
        if !is_sound {
            board.find(format!("numbers that do not add up: {status:?}"));
        }
        sleep(Duration::from_millis(5));
    }
}
