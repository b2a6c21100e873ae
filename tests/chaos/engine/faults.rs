//! What is done to the server and to the way there.

use super::stage::Stage;
use crate::support::eventually;
use crate::support::postgres::{GUEST, GUEST_PASSWORD};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::ops::Range;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server may take to be there again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Every session is terminated, over and over.
    Storm,
    /// The server is stopped as an operator does, and started again.
    FastRestart,
    /// The same with a while between.
    SlowRestart,
    /// Stopped at once; the start repairs.
    ImmediateRestart,
    /// `kill -9` of every process; the start repairs.
    Crash,
    /// `kill -9` of one session's process: the server ends all others and recovers by itself.
    SessionKilled,
    /// Every process of the server is stopped, and goes on later.
    Frozen,
    /// Others have taken every connection the server has.
    Full,
    /// The password is another one for a while, and no session is left.
    PasswordRotated,
    /// Connections break, and connects are refused.
    Refused,
    /// Connections break, and so do new ones.
    Reset,
    /// Replies stop in their middle, and go on later.
    Stalled,
    /// Connections break, and new ones are met with silence.
    Mute,
    /// What is sent is lost for good.
    Swallowed,
    /// The way is open and closed in quick turns.
    Flickering,
    /// The primary is stopped, and the standby takes its place.
    Switchover,
    /// The same with a crash of the primary.
    Failover,
}

/// Every kind, with how often it is in a deck. Restarts and crashes are what the claims are about.
pub(crate) const DECK: [(Fault, usize); 17] = [
    (Fault::Storm, 1),
    (Fault::FastRestart, 7),
    (Fault::SlowRestart, 1),
    (Fault::ImmediateRestart, 1),
    (Fault::Crash, 7),
    (Fault::SessionKilled, 1),
    (Fault::Frozen, 1),
    (Fault::Full, 1),
    (Fault::PasswordRotated, 1),
    (Fault::Refused, 1),
    (Fault::Reset, 1),
    (Fault::Stalled, 1),
    (Fault::Mute, 1),
    (Fault::Swallowed, 1),
    (Fault::Flickering, 1),
    (Fault::Switchover, 1),
    (Fault::Failover, 1),
];

impl Fault {
    /// A shuffled deck of those of `wanted` that can be done.
    pub(crate) fn deck(rng: &mut fastrand::Rng, wanted: &[Fault], has_standby: bool) -> Vec<Fault> {
        let is_possible = |fault| has_standby || !matches!(fault, Fault::Switchover | Fault::Failover);
        let possible = DECK.into_iter().filter(|(fault, _)| wanted.contains(fault) && is_possible(*fault));
        let mut deck: Vec<_> = possible.flat_map(|(fault, times)| vec![fault; times]).collect();
        rng.shuffle(&mut deck);
        deck
    }

    /// Does it, and undoes it: the server can be reached again when this returns. All that is left to chance is
    /// taken from `rng`, the same for the same seed.
    pub(crate) fn inflict(self, stage: &Stage, rng: &mut fastrand::Rng) {
        let server = stage.primary();
        match self {
            Fault::Storm => {
                let (rounds, pause) = (rng.u32(10..40), millis(rng, 5..30));
                let mut admin = server.client();
                for _ in 0..rounds {
                    admin.batch_execute(TERMINATE).expect("sessions end");
                    sleep(pause);
                }
            }
            Fault::FastRestart => {
                server.stop_fast();
                server.start_again();
            }
            Fault::SlowRestart => {
                let pause = millis(rng, 500..3000);
                server.stop_fast();
                sleep(pause);
                server.start_again();
            }
            Fault::ImmediateRestart => {
                server.stop_immediate();
                server.start_again();
            }
            Fault::Crash => {
                server.kill();
                server.start_again();
            }
            Fault::SessionKilled => {
                let mut admin = server.client();
                eventually("a session is there to be killed", PATIENCE, || {
                    let victim = admin.query_opt(ANYBODY, &[]).expect("the sessions");
                    let victim = victim.map(|row| Pid::from_raw(row.get(0)));
                    victim.is_some_and(|pid| kill(pid, Signal::SIGKILL).is_ok())
                });
                eventually("the admin's session ends with it", PATIENCE, || {
                    admin.is_valid(PATIENCE).is_err()
                });
                eventually("the server has recovered", PATIENCE, || {
                    server.database_settings().driver_config().connect(::postgres::NoTls).is_ok()
                });
            }
            Fault::Frozen => {
                let time = millis(rng, 100..2500);
                server.freeze();
                sleep(time);
                server.thaw();
            }
            Fault::Full => fill_up(stage, millis(rng, 300..1000)),
            Fault::PasswordRotated => {
                // Not for long: a refused login is tried again ever more rarely, so that no account is locked
                // because of a pool.
                let time = millis(rng, 100..500);
                let mut admin = server.client();
                admin.batch_execute(&format!("ALTER ROLE {GUEST} PASSWORD 'another'")).expect("a password");
                admin.batch_execute(TERMINATE).expect("sessions end");
                sleep(time);
                let back = format!("ALTER ROLE {GUEST} PASSWORD '{GUEST_PASSWORD}'");
                admin.batch_execute(&back).expect("a password");
            }
            Fault::Refused | Fault::Reset | Fault::Mute => {
                let time = millis(rng, 100..1500);
                stage.proxies(|proxy| match self {
                    Fault::Refused => proxy.refuse(),
                    Fault::Reset => proxy.reset(),
                    _ => proxy.mute(),
                });
                stage.proxies(|proxy| proxy.cut());
                sleep(time);
                stage.proxies(|proxy| proxy.pass());
            }
            Fault::Stalled => {
                let (bytes, time) = (rng.u64(0..200), millis(rng, 100..1500));
                stage.proxies(|proxy| proxy.stall_replies_after(bytes));
                sleep(time);
                stage.proxies(|proxy| proxy.pass());
            }
            Fault::Swallowed => {
                let time = millis(rng, 100..1500);
                stage.proxies(|proxy| proxy.swallow());
                sleep(time);
                stage.proxies(|proxy| proxy.pass());
                // What the firewall has forgotten it resets, or the server would keep such sessions, and their
                // locks, for hours.
                stage.proxies(|proxy| proxy.cut());
            }
            Fault::Flickering => {
                for _ in 0..rng.u32(3..10) {
                    stage.proxies(|proxy| proxy.refuse());
                    stage.proxies(|proxy| proxy.cut());
                    sleep(millis(rng, 10..100));
                    stage.proxies(|proxy| proxy.pass());
                    sleep(millis(rng, 10..100));
                }
            }
            Fault::Switchover => {
                server.wait_for_standbys();
                // It sends its standby all it has before it ends.
                server.stop_fast();
                stage.standby().promote();
                stage.swap();
            }
            Fault::Failover => {
                server.wait_for_standbys();
                // What was acknowledged before the crash must be on the standby, or no one could promise it.
                server.commit_synchronously();
                server.kill();
                stage.standby().promote();
                stage.swap();
            }
        }
    }

    /// What is to be done once the pools are well again: the old primary becomes a standby of the new one.
    pub(crate) fn clear_up(self, stage: &Stage) {
        if matches!(self, Fault::Switchover | Fault::Failover) {
            stage.standby().follow(stage.primary());
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Fault::Storm => "sessions terminated",
            Fault::FastRestart => "fast restart",
            Fault::SlowRestart => "slow restart",
            Fault::ImmediateRestart => "immediate restart",
            Fault::Crash => "crash",
            Fault::SessionKilled => "session killed",
            Fault::Frozen => "server frozen",
            Fault::Full => "server full",
            Fault::PasswordRotated => "password rotated",
            Fault::Refused => "refused",
            Fault::Reset => "reset",
            Fault::Stalled => "stalled mid-reply",
            Fault::Mute => "mute",
            Fault::Swallowed => "swallowed",
            Fault::Flickering => "flickering",
            Fault::Switchover => "switchover",
            Fault::Failover => "failover",
        })
    }
}

const TERMINATE: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ledger'";
const ANYBODY: &str =
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'ledger' ORDER BY state, pid LIMIT 1";

fn millis(rng: &mut fastrand::Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// Takes every connection there is, those of the pools included, and holds on to them for `time`.
fn fill_up(stage: &Stage, time: Duration) {
    let server = stage.primary();
    let mut admin = server.client();
    let mut intruders = Vec::new();
    let settings = server.database_settings().driver_config();
    let started = Instant::now();
    let mut is_over = false;
    while !is_over {
        match settings.connect(::postgres::NoTls) {
            Ok(intruder) => intruders.push(intruder),
            Err(error) => {
                assert_eq!(error.code(), Some(&::postgres::error::SqlState::TOO_MANY_CONNECTIONS), "{error}");
                // A few of the pools' at a time: a place that is free for long is one they take themselves.
                admin.batch_execute(&format!("{TERMINATE} LIMIT 2")).expect("sessions end");
                is_over = started.elapsed() >= time;
            }
        }
    }
}
