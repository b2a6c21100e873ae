//! Releasing: a connection is kept, reset, or closed, by what has become of its session.

use crate::pool::acquire::CHECK_LIMIT;
use crate::pool::deadline;
use crate::pool::gate::{Holder, Permit};
use crate::pool::generation::GenerationStatus;
use crate::pool::logging::logged;
use crate::pool::session::{Session, Verdict};
use crate::pool::status::CloseReason;
use crate::pool::{Pooled, Shared};
use log::warn;
use std::panic::Location;
use std::time::Instant;

impl Shared {
    /// Takes a connection back: keeps it, has it cleaned, or closes it.
    pub(super) fn give_back(&self, session: Box<Session>, permit: Permit, at: &'static Location<'static>) {
        let pooled = match self.guards.join(permit.number(), session) {
            Ok(pooled) => pooled,
            Err(session) => {
                self.maintenance.close_dropped(session, &self.gate);
                self.gate.discard(permit);
                return;
            }
        };
        if pooled.verdict() == Verdict::Reset
            && !self.gate.retires()
            && self.generations.standing(pooled.generation) != GenerationStatus::Outdated
        {
            if pooled.conn().is_in_transaction()
                && self.left_in_transaction.lock().is_ok_and(|mut places| places.insert(at))
            {
                let pool = &self.settings.name;
                logged(|| {
                    warn!(
                        "Connection acquired at {at} came back inside a transaction, which is rolled back; from there \
                         no more is said of it (pool \"{pool}\")"
                    );
                });
            }
            self.gate.detach(&permit);
            if let Some((mut pooled, permit)) = self.maintenance.clean(pooled, permit) {
                // So much is being done that the maintenance thread lags behind: the borrower pays for itself, in its own time.
                if deadline::deadline().is_some_and(|at| at < Instant::now() + CHECK_LIMIT) {
                    pooled.condemn(CloseReason::Dirty);
                    return self.give_back_clean(pooled, permit);
                }
                self.clean(pooled, permit, CHECK_LIMIT);
            }
            return;
        }
        self.give_back_clean(pooled, permit);
    }

    /// Takes back a connection that is clean, or condemned.
    pub(super) fn give_back_clean(&self, mut pooled: Pooled, permit: Permit) {
        let now = Instant::now();
        let reason = match pooled.verdict() {
            Verdict::Close(reason) => Some(reason),
            Verdict::Reset => Some(CloseReason::Retired),
            Verdict::Keep if pooled.retire_at.is_some_and(|at| at <= now) => Some(CloseReason::Expired),
            Verdict::Keep
                if self.gate.retires()
                    || self.generations.standing(pooled.generation) == GenerationStatus::Outdated =>
            {
                Some(CloseReason::Retired)
            }
            Verdict::Keep => None,
        };
        let holder = match reason {
            None => {
                pooled.idle_since = now;
                // Into the store first: the gate may lend it on the moment it hears of it.
                drop(pooled);
                self.gate.release(permit, now)
            }
            Some(reason) => {
                let is_news = match reason {
                    // The others are on the same server, and would pass a check.
                    _ if pooled.is_demoted() => self.generations.outdate(pooled.generation),
                    CloseReason::Broken => self.generations.suspect(pooled.generation),
                    _ => false,
                };
                if is_news {
                    self.maintenance.look();
                }
                if pooled.has_timed_out() {
                    self.maintenance.cancel(pooled.cancel());
                }
                pooled.close(reason);
                self.gate.discard(permit)
            }
        };
        if let Some(Holder { since, at, .. }) = holder {
            let (held, pool) = (since.elapsed().as_secs_f64(), &self.settings.name);
            logged(|| warn!("Connection acquired at {at} came back after {held:.1} s (pool \"{pool}\")"));
        }
    }
}
