//! What the stories need: real servers, a proxy that breaks connections, the service itself.

#![allow(dead_code, unused_imports, reason = "each story uses its part of this")]

pub(crate) mod app;
mod eventually;
mod lateness;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod server;

pub(crate) use app::App;
pub(crate) use eventually::{SOON, eventually};
pub(crate) use lateness::{Mark, timed};
pub(crate) use pgbouncer::PgBouncer;
pub(crate) use postgres::Database;
pub(crate) use proxy::Proxy;
pub(crate) use server::cluster::processes::is_running;
pub(crate) use server::{Postgres, children_of, freeze, processes, running};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends SIGTERM.
pub(crate) fn terminate(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
}
