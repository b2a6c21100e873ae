//! Whether the pool with its defaults (2 to 10 connections) grows to what load needs, and no further: against the
//! same pool with all ten from the beginning, in turns, through a proxy that makes connecting slow.

use super::Stage;
use crate::measure::{Spread, median};
use crate::report::{Table, time, title};
use crate::support::eventually;
use crate::support::proxy::Proxy;
use poolhouse::{Execute, Pool};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The defaults of the dev tier.
const MIN: u32 = 2;
const MAX: u32 = 10;
/// How long a connection is held: a statement's round trip to the server, and a pause for the rest.
const HOLDS: [Duration; 3] =
    [Duration::from_micros(200), Duration::from_millis(2), Duration::from_millis(20)];
/// In steady load, what is counted: so many windows of each, in turns.
const WINDOWS: usize = 4;
const WINDOW: Duration = Duration::from_millis(120);
/// Pulses of each; one rests while the other has its own. The later half is counted.
const PULSES: usize = 6;
const LEAST_PULSE: Duration = Duration::from_millis(30);

#[derive(Clone, Copy)]
struct Row {
    hold: Duration,
    callers: usize,
}

/// What a pool did for some time: seconds, and a time for each call.
struct Done {
    seconds: f64,
    calls: Vec<u64>,
}

/// Lives through one row, and says what to print of it.
type Shape = fn(&Stage, &Proxy, Row) -> Vec<String>;

pub(crate) fn run(stage: &Stage, is_quick: bool) {
    let (connects, holds, callers): (&[u64], &[Duration], &[usize]) = match is_quick {
        true => (&[0, 30], &HOLDS[..2], &[10, 64]),
        false => (&[0, 10, 30, 100], &HOLDS, &[1, 4, 10, 64]),
    };
    let both = ["calls/s", "min = max", "ratio", "p99", "min = max", "ratio"];
    let shapes: [(&str, [&str; 2], Shape); 3] = [
        (
            "steady: callers that never pause, from ten connect times on",
            ["open by then", "opened in all"],
            steady,
        ),
        (
            "pulsing: the same for three connect times, then a rest as long; the later half of six pulses",
            ["opened before", "opened in all"],
            pulsing,
        ),
        ("spike: everybody once, at the same moment", ["", "opened in all"], spike),
    ];
    for (words, opened, shape) in shapes {
        title(&format!("growth, {words}"));
        let header: Vec<_> = ["connect, statement, callers"].into_iter().chain(both).chain(opened).collect();
        let mut table = Table::new(&header);
        for connect in connects {
            let proxy = Proxy::to(&stage.server.database_settings());
            proxy.delay_connects(Duration::from_millis(*connect));
            for hold in holds {
                for callers in callers {
                    let row = Row { hold: *hold, callers: *callers };
                    let name = format!("{connect} ms, {:.1} ms, {callers}", hold.as_secs_f64() * 1e3);
                    table.row(std::iter::once(name).chain(shape(stage, &proxy, row)));
                }
            }
        }
        table.print();
    }
}

fn open(stage: &Stage, proxy: &Proxy, min_connections: u32) -> Pool {
    let settings = stage
        .server
        .pool_settings()
        .with_database(proxy.settings())
        .with_min_connections(min_connections)
        .with_max_connections(MAX);
    let pool = Pool::open(&settings).expect("a pool");
    eventually("the minimum is there", Duration::from_secs(10), || {
        pool.status().available == min_connections
    });
    pool
}

/// How long a connect takes, to two connections on an idle machine.
fn connect_time(pool: &Pool) -> Duration {
    let times = pool.status().connect_times;
    times.sum / u32::try_from(times.count()).unwrap_or(1).max(1)
}

fn opened(pool: &Pool) -> String {
    (pool.status().connects - u64::from(MIN)).to_string()
}

fn call(pool: &Pool, hold: Duration) {
    let connection = pool.get_connection().expect("a connection");
    let begun = Instant::now();
    connection.execute_query_one::<i32>("SELECT 1", &[]).expect("an answer");
    let rest = hold.saturating_sub(begun.elapsed());
    if !rest.is_zero() {
        thread::sleep(rest);
    }
}

/// Lets the callers go on for `lasts`.
fn press(pool: &Pool, row: Row, lasts: Duration) -> Done {
    let (is_over, calls) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let start = Barrier::new(row.callers + 1);
    let seconds = thread::scope(|scope| {
        for _ in 0..row.callers {
            scope.spawn(|| {
                let mut own = Vec::new();
                start.wait();
                while !is_over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    call(pool, row.hold);
                    // What ends later belongs to no window.
                    if !is_over.load(Ordering::Relaxed) {
                        own.push(begun.elapsed().as_nanos() as u64);
                    }
                }
                calls.lock().expect("no panic").append(&mut own);
            });
        }
        start.wait();
        let begun = Instant::now();
        thread::sleep(lasts);
        is_over.store(true, Ordering::Relaxed);
        begun.elapsed().as_secs_f64()
    });
    Done { seconds, calls: calls.into_inner().expect("no panic") }
}

/// Calls a second and the latest of a hundred, of both, and their ratios.
fn compare(ours: &[Done], full: &[Done]) -> Vec<String> {
    let rate = |done: &Done| done.calls.len() as f64 / done.seconds;
    let p99 = |done: &Done| Spread::of(done.calls.clone()).p99;
    // Of neighbours, so that what troubles the machine for a while troubles both.
    let ratio = |of: &dyn Fn(&Done) -> f64| {
        format!("{:.2}", median(ours.iter().zip(full).map(|(ours, full)| of(ours) / of(full).max(1e-9))))
    };
    vec![
        format!("{:.0}", median(ours.iter().map(rate))),
        format!("{:.0}", median(full.iter().map(rate))),
        ratio(&rate),
        time(median(ours.iter().map(p99))),
        time(median(full.iter().map(p99))),
        ratio(&p99),
    ]
}

fn steady(stage: &Stage, proxy: &Proxy, row: Row) -> Vec<String> {
    let (ours, full) = (open(stage, proxy, MIN), open(stage, proxy, MAX));
    let ten = connect_time(&ours) * 10;
    press(&ours, row, ten);
    let open_by_then = (ours.status().total - ours.status().connecting).to_string();
    press(&full, row, ten);
    let (mut of_ours, mut of_full) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        of_ours.push(press(&ours, row, WINDOW));
        of_full.push(press(&full, row, WINDOW));
    }
    [compare(&of_ours, &of_full), vec![open_by_then, opened(&ours)]].concat()
}

fn pulsing(stage: &Stage, proxy: &Proxy, row: Row) -> Vec<String> {
    let (ours, full) = (open(stage, proxy, MIN), open(stage, proxy, MAX));
    let pulse = (connect_time(&ours) * 3).max(LEAST_PULSE);
    let (mut of_ours, mut of_full) = (Vec::new(), Vec::new());
    let mut opened_before = String::new();
    for number in 0..PULSES {
        if number == PULSES / 2 {
            opened_before = opened(&ours);
        }
        of_ours.push(press(&ours, row, pulse));
        of_full.push(press(&full, row, pulse));
    }
    let later = PULSES / 2;
    [compare(&of_ours[later..], &of_full[later..]), vec![opened_before, opened(&ours)]].concat()
}

fn spike(stage: &Stage, proxy: &Proxy, row: Row) -> Vec<String> {
    let once = |pool: &Pool| {
        let (start, calls) = (Barrier::new(row.callers), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..row.callers {
                scope.spawn(|| {
                    start.wait();
                    let begun = Instant::now();
                    call(pool, row.hold);
                    calls.lock().expect("no panic").push(begun.elapsed().as_nanos() as u64);
                });
            }
        });
        let calls = calls.into_inner().expect("no panic");
        let seconds = calls.iter().max().map_or(0.0, |latest| *latest as f64 / 1e9);
        Done { seconds, calls }
    };
    let (ours, full) = (open(stage, proxy, MIN), open(stage, proxy, MAX));
    let figures = compare(&[once(&ours)], &[once(&full)]);
    eventually("nothing is being made", Duration::from_secs(10), || ours.status().connecting == 0);
    [figures, vec![String::new(), opened(&ours)]].concat()
}
