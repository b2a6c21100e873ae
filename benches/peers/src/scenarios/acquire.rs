//! Taking a connection and giving it back without using it: by one caller alone, and by as many as there are connections.

use super::Stage;
use crate::contestants::{Deadpool, Ours, R2d2, Setup, Sqlx, Variant};
use crate::measure::{cpu_time, median};
use crate::report::{Table, time, title};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pairs of acquire and release between two looks at the clock.
const BATCH: u32 = 200;

const CONNECTIONS: u32 = 8;

/// What one contestant's callers run: a batch of pairs.
type Batch<'a> = &'a (dyn Fn() + Sync);

/// One round: seconds per pair as each caller sees it, and processor time per pair.
#[derive(Debug, Clone, Copy)]
struct Round {
    pair: f64,
    cpu: f64,
}

pub(crate) fn run(stage: &Stage) {
    let setup = Setup {
        database: stage.server.database_settings(),
        connections: CONNECTIONS,
        workers: CONNECTIONS as usize,
    };
    let runtime = &stage.runtime;
    let bare = R2d2::new(&setup, true);
    let checked = R2d2::new(&setup, false);
    let deadpool = Deadpool::new(&setup);
    let sqlx = runtime.block_on(Sqlx::new(&setup, true));
    let ours = Ours::new(&setup, stage.server.pool_settings(), Variant::Default);
    let full = Ours::new(&setup, stage.server.pool_settings(), Variant::Full);

    let r2d2 = || (0..BATCH).for_each(|_| drop(bare.pool.get().expect("a connection")));
    let poolhouse = || (0..BATCH).for_each(|_| drop(ours.pool.get_connection().expect("a connection")));
    let poolhouse_full = || (0..BATCH).for_each(|_| drop(full.pool.get_connection().expect("a connection")));
    let deadpool = || {
        runtime.block_on(async {
            for _ in 0..BATCH {
                drop(deadpool.pool.get().await.expect("a connection"));
            }
        });
    };
    let sqlx = || {
        runtime.block_on(async {
            for _ in 0..BATCH {
                drop(sqlx.pool.acquire().await.expect("a connection"));
            }
        });
    };
    let r2d2_checked = || (0..BATCH).for_each(|_| drop(checked.pool.get().expect("a connection")));
    let contestants: [(&str, Batch<'_>); 6] = [
        ("r2d2, no check", &r2d2),
        ("poolhouse", &poolhouse),
        ("poolhouse, min = max", &poolhouse_full),
        ("deadpool-postgres", &deadpool),
        ("sqlx, no check", &sqlx),
        ("r2d2", &r2d2_checked),
    ];
    for callers in [1, CONNECTIONS as usize] {
        let mut rounds: [Vec<Round>; 6] = Default::default();
        for turn in 0..stage.rounds.count {
            for which in 0..contestants.len() {
                let which = (which + turn) % contestants.len();
                rounds[which].push(round(contestants[which].1, callers, stage.rounds.length / 4));
            }
        }
        let words = if callers == 1 { "1 caller".to_owned() } else { format!("{callers} callers") };
        title(&format!(
            "acquire + release alone, {words}, {CONNECTIONS} connections (r2d2 with its check makes a round trip)"
        ));
        print(&contestants.map(|(name, _)| name), &rounds);
    }
}

fn round(batch: Batch<'_>, callers: usize, length: Duration) -> Round {
    let (start, pairs) = (Barrier::new(callers + 1), AtomicU64::new(0));
    let call = || {
        batch();
        start.wait();
        let begun = Instant::now();
        while begun.elapsed() < length {
            batch();
            pairs.fetch_add(u64::from(BATCH), Ordering::Relaxed);
        }
    };
    let (begun, cpu) = std::thread::scope(|scope| {
        (0..callers).for_each(|_| drop(scope.spawn(call)));
        start.wait();
        (Instant::now(), cpu_time())
    });
    let pairs = pairs.into_inner() as f64;
    let pair = begun.elapsed().as_secs_f64() * callers as f64 / pairs;
    Round { pair, cpu: (cpu_time() - cpu).as_secs_f64() / pairs }
}

fn print(names: &[&str], rounds: &[Vec<Round>]) {
    let mut table = Table::new(&["", "per pair", "to r2d2, no check", "(lowest-highest)", "CPU per pair"]);
    for (name, own) in names.iter().zip(rounds) {
        let ratios: Vec<f64> = own.iter().zip(&rounds[0]).map(|(own, bare)| own.pair / bare.pair).collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        table.row([
            (*name).to_owned(),
            time(median(own.iter().map(|round| round.pair))),
            format!("{:.2}x", median(ratios)),
            format!("({lowest:.2}-{highest:.2})"),
            time(median(own.iter().map(|round| round.cpu))),
        ]);
    }
    table.print();
}
