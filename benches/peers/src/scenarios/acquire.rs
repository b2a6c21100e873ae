//! Taking a connection and giving it back, with nobody else about and without using it.

use super::Stage;
use crate::contestants::{Deadpool, Ours, R2d2, Setup, Sqlx, Variant};
use crate::measure::median;
use crate::report::{Table, time, title};
use std::time::Instant;

/// Pairs of acquire and release between two looks at the clock.
const BATCH: u32 = 200;

pub(crate) fn run(stage: &Stage) {
    let setup =
        Setup { database: stage.server.database_settings(), connections: 8, workers: 1 };
    let runtime = &stage.runtime;
    let bare = R2d2::new(&setup, true);
    let checked = R2d2::new(&setup, false);
    let deadpool = Deadpool::new(&setup);
    let sqlx = runtime.block_on(Sqlx::new(&setup, true));
    let ours = Ours::new(&setup, stage.server.pool_settings(), Variant::Default);
    let full = Ours::new(&setup, stage.server.pool_settings(), Variant::Full);
    let length = stage.rounds.length / 4;

    let blocking = |batch: &dyn Fn()| {
        batch();
        let (begun, mut pairs) = (Instant::now(), 0);
        while begun.elapsed() < length {
            batch();
            pairs += BATCH;
        }
        begun.elapsed().as_secs_f64() / f64::from(pairs)
    };
    let names = [
        "r2d2, no check",
        "poolhouse",
        "poolhouse, min = max",
        "deadpool-postgres",
        "sqlx, no check",
        "r2d2",
    ];
    let mut seconds: [Vec<f64>; 6] = Default::default();
    for _ in 0..stage.rounds.count {
        seconds[0].push(blocking(&|| (0..BATCH).for_each(|_| drop(bare.pool.get().expect("a connection")))));
        seconds[1].push(blocking(&|| {
            (0..BATCH).for_each(|_| drop(ours.pool.get_connection().expect("a connection")));
        }));
        seconds[2].push(blocking(&|| {
            (0..BATCH).for_each(|_| drop(full.pool.get_connection().expect("a connection")));
        }));
        seconds[3].push(blocking(&|| {
            runtime.block_on(async {
                for _ in 0..BATCH {
                    drop(deadpool.pool.get().await.expect("a connection"));
                }
            });
        }));
        seconds[4].push(blocking(&|| {
            runtime.block_on(async {
                for _ in 0..BATCH {
                    drop(sqlx.pool.acquire().await.expect("a connection"));
                }
            });
        }));
        seconds[5]
            .push(blocking(&|| (0..BATCH).for_each(|_| drop(checked.pool.get().expect("a connection")))));
    }
    title("acquire + release alone, 1 caller, 8 connections (r2d2 with its check makes a round trip)");
    let mut table = Table::new(&["", "per pair", "to r2d2, no check", "(lowest-highest)"]);
    for (name, own) in names.iter().zip(&seconds) {
        let ratios: Vec<f64> = own.iter().zip(&seconds[0]).map(|(own, bare)| own / bare).collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        table.row([
            (*name).to_owned(),
            time(median(own.iter().copied())),
            format!("{:.2}x", median(ratios)),
            format!("({lowest:.2}-{highest:.2})"),
        ]);
    }
    table.print();
}
