//! What this machine is and what its system calls and thread switches cost: ratios between pools depend on these.

use crate::measure::median;
use crate::report::time;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The crates whose versions the head of a run names.
const CONTESTANTS: [&str; 7] =
    ["postgres", "r2d2", "r2d2_postgres", "deadpool-postgres", "tokio-postgres", "sqlx", "tokio"];

/// Three lines: the machine, its costs, and who takes part.
pub(crate) fn describe(server: &str) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} processors, {}, Linux {}\n\
         system call {}, thread switch {}, wake-up of a sleeping thread {}\n\
         PostgreSQL {server}; {}",
        model.map_or("of an unknown kind", |(_, model)| model),
        kernel.trim(),
        time(system_call()),
        time(switch()),
        time(wake_up()),
        versions(include_str!("../Cargo.lock")),
    )
}

/// One byte into a pipe and out again, halved.
fn system_call() -> f64 {
    const CALLS: u32 = 20_000;
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    let begun = Instant::now();
    for _ in 0..CALLS {
        writer.write_all(&[0]).expect("a byte written");
        reader.read_exact(&mut [0]).expect("a byte read");
    }
    begun.elapsed().as_secs_f64() / f64::from(2 * CALLS)
}

/// From a write in one thread until another, which blocks in a read, has it: half of a round trip through two pipes.
fn switch() -> f64 {
    const ROUNDS: u32 = 2_000;
    let (mut there, mut to) = std::io::pipe().expect("a pipe");
    let (mut back, mut from) = std::io::pipe().expect("a pipe");
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while there.read(&mut byte).is_ok_and(|count| count > 0) {
            from.write_all(&byte).expect("a byte written");
        }
    });
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        to.write_all(&[0]).expect("a byte written");
        back.read_exact(&mut [0]).expect("a byte read");
    }
    let each = begun.elapsed().as_secs_f64() / f64::from(2 * ROUNDS);
    drop(to);
    echo.join().expect("the other thread");
    each
}

/// From `unpark` until a thread that has been parked for a millisecond runs.
fn wake_up() -> f64 {
    const ROUNDS: usize = 50;
    let zero = Instant::now();
    let nanos = move || u64::try_from(zero.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let woken = std::sync::Arc::new(AtomicU64::new(0));
    let sleeper = std::thread::spawn({
        let woken = woken.clone();
        move || {
            for _ in 0..ROUNDS {
                std::thread::park();
                woken.store(nanos(), Ordering::Release);
            }
        }
    });
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_millis(1));
        woken.store(0, Ordering::Release);
        let begun = nanos();
        sleeper.thread().unpark();
        let at = loop {
            match woken.load(Ordering::Acquire) {
                0 => std::thread::yield_now(),
                at => break at,
            }
        };
        times.push(at.saturating_sub(begun) as f64 / 1e9);
    }
    sleeper.join().expect("the sleeper");
    median(times)
}

/// The versions of the contestants in a lock file.
fn versions(lock: &str) -> String {
    let version = |name: &str| {
        let entry =
            lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{name}\"\n")))?;
        Some(entry.split_once("version = \"")?.1.split_once('"')?.0)
    };
    let named =
        CONTESTANTS.map(|name| format!("{name} {}", version(name).unwrap_or("of an unknown version")));
    named.join(", ")
}
