//! Calls per second through each contestant, and how they are spread over callers.

use super::Stage;
use crate::contestants::{
    Bare, Contestant, Deadpool, OnRuntime, Ours, PerCall, R2d2, Setup, Sqlx, Variant, Work,
};
use crate::measure::{Figures, Spread, median};
use crate::report::{Table, time, title};

/// One table.
pub(crate) struct Scenario {
    pub(crate) title: &'static str,
    pub(crate) work: Work,
    pub(crate) workers: usize,
    pub(crate) connections: u32,
    /// How much longer than others its rounds are.
    pub(crate) patience: u32,
}

pub(crate) const POINT: &[Scenario] = &[
    Scenario {
        title: "point SELECT, 1 caller, 8 connections",
        work: Work::Point,
        workers: 1,
        connections: 8,
        patience: 1,
    },
    Scenario {
        title: "point SELECT, 8 callers, 8 connections",
        work: Work::Point,
        workers: 8,
        connections: 8,
        patience: 1,
    },
];
pub(crate) const RANGE: &[Scenario] = &[
    Scenario {
        title: "100-row range, 1 caller, 8 connections",
        work: Work::Range,
        workers: 1,
        connections: 8,
        patience: 1,
    },
    Scenario {
        title: "100-row range, 8 callers, 8 connections",
        work: Work::Range,
        workers: 8,
        connections: 8,
        patience: 1,
    },
];
pub(crate) const UPDATE: &[Scenario] = &[
    Scenario {
        title: "single-row UPDATE, 1 caller, 8 connections",
        work: Work::Update,
        workers: 1,
        connections: 8,
        patience: 1,
    },
    Scenario {
        title: "single-row UPDATE, 8 callers, 8 connections",
        work: Work::Update,
        workers: 8,
        connections: 8,
        patience: 1,
    },
];
pub(crate) const CROWD: &[Scenario] = &[Scenario {
    title: "point SELECT, 64 callers, 8 connections (limit: 8 bare clients, 8 callers)",
    work: Work::Point,
    workers: 64,
    connections: 8,
    patience: 2,
}];
pub(crate) const HOLD: &[Scenario] = &[Scenario {
    title: "point SELECT that holds its connection 1 ms, 64 callers, 4 connections (limit: 4 bare clients, 4 callers)",
    work: Work::HeldPoint,
    workers: 64,
    connections: 4,
    patience: 3,
}];

pub(crate) fn run(stage: &Stage, scenarios: &[Scenario]) {
    scenarios.iter().for_each(|scenario| run_one(stage, scenario));
}

fn run_one(stage: &Stage, scenario: &Scenario) {
    let is_crowded = scenario.workers > scenario.connections as usize;
    let setup = Setup {
        database: stage.server.database_settings(),
        connections: scenario.connections,
        workers: scenario.workers,
    };
    let runtime = &stage.runtime;
    let mut contestants: Vec<Box<dyn Contestant + '_>> = vec![Box::new(Bare::new(&setup))];
    if scenario.work == Work::Point && !is_crowded {
        contestants.push(Box::new(PerCall(setup.clone())));
    }
    contestants.push(Box::new(R2d2::new(&setup, false)));
    contestants.push(Box::new(R2d2::new(&setup, true)));
    contestants.push(Box::new(OnRuntime(runtime, Deadpool::new(&setup))));
    for is_tuned in [false, true] {
        let sqlx = runtime.block_on(Sqlx::new(&setup, is_tuned));
        contestants.push(Box::new(OnRuntime(runtime, sqlx)));
    }
    let alone = if is_crowded { Variant::Unshared } else { Variant::Held };
    for variant in [Variant::Default, Variant::Full, alone] {
        contestants.push(Box::new(Ours::new(&setup, stage.server.pool_settings(), variant)));
    }

    let rounds = stage.rounds.longer(scenario.patience);
    let mut admin = stage.server.client();
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); contestants.len()];
    for round in 0..rounds.count {
        for turn in 0..contestants.len() {
            // Another one begins each time, so that nobody always comes after the same.
            let which = (turn + round) % contestants.len();
            if scenario.work == Work::Update {
                admin.batch_execute("VACUUM films").expect("a vacuum");
            }
            figures[which].push(contestants[which].run(scenario.work, rounds.length));
        }
    }
    title(scenario.title);
    print(&contestants, &figures, is_crowded);
}

fn print(contestants: &[Box<dyn Contestant + '_>], figures: &[Vec<Figures>], is_crowded: bool) {
    let mut header = vec!["", "calls/s", "of limit", "(lowest-highest)", "p50", "p99", "max", "CPU/call"];
    if is_crowded {
        header.extend(["wait p50", "wait p99", "wait max", "least served", "most served"]);
    }
    let mut table = Table::new(&header);
    let limit = &figures[0];
    for (contestant, figures) in contestants.iter().zip(figures) {
        // Of one round, so that what troubles the machine for a while troubles both sides of a ratio.
        let ratios: Vec<f64> = figures
            .iter()
            .zip(limit)
            .map(|(figures, limit)| figures.calls_per_second / limit.calls_per_second)
            .collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        let of = |get: fn(&Figures) -> f64| median(figures.iter().map(get));
        let mut row = vec![
            contestant.name().to_owned(),
            format!("{:.0}", of(|round| round.calls_per_second)),
            format!("{:.2}", median(ratios)),
            format!("({lowest:.2}-{highest:.2})"),
        ];
        row.extend(spread(figures, |round| round.operation));
        row.push(time(of(|round| round.cpu)));
        if is_crowded {
            row.extend(match figures.iter().any(|round| round.wait.max > 0.0) {
                true => spread(figures, |round| round.wait),
                // It is not known.
                false => ["-", "-", "-"].map(str::to_owned),
            });
            row.push(format!("{:.2}", of(|round| round.least)));
            row.push(format!("{:.2}", of(|round| round.most)));
        }
        table.row(row);
    }
    table.print();
}

fn spread(figures: &[Figures], get: fn(&Figures) -> Spread) -> [String; 3] {
    let of = |part: fn(Spread) -> f64| time(median(figures.iter().map(|round| part(get(round)))));
    [of(|spread| spread.p50), of(|spread| spread.p99), of(|spread| spread.max)]
}
