//! Releasing: keeps, resets, or closes a returned connection, depending on the state of its session. It knows nothing of
//! waiters; the gate lends the connection on.

use crate::pool::acquire::CHECK_LIMIT;
use crate::pool::deadline;
use crate::pool::gate::Permit;
use crate::pool::generation::GenerationStatus;
use crate::pool::logging::logged;
use crate::pool::session::Verdict;
use crate::pool::status::CloseReason;
use crate::pool::{Holder, Pooled, Shared};
use log::warn;
use std::panic::Location;
use std::time::Instant;

impl Shared {
    /// Takes a connection back from its borrower: keeps it, resets it in the background, or closes it.
    pub(super) fn give_back(&self, pooled: Pooled, permit: Permit, at: &'static Location<'static>) {
        if pooled.verdict() == Verdict::Reset && !self.is_surplus_or_outdated(&pooled) {
            self.reset_and_give_back(pooled, permit, at);
        } else {
            self.give_back_clean(pooled, permit);
        }
    }

    /// Resets a connection on the maintenance thread; on the borrower's if that one has too much to do.
    fn reset_and_give_back(&self, pooled: Pooled, permit: Permit, at: &'static Location<'static>) {
        if pooled.conn().is_in_transaction()
            && self.left_in_transaction.lock().is_ok_and(|mut places| places.insert(at))
        {
            let pool = &self.settings.name;
            logged(|| {
                warn!(
                    "Connection acquired at {at} came back inside a transaction, which is rolled back; later \
                     ones from there are not logged (pool \"{pool}\")"
                );
            });
        }
        self.gate.detach(&permit);
        self.slots.note_reset(&pooled);
        let Some((mut pooled, permit)) = self.maintenance.clean(pooled, permit) else { return };
        if deadline::deadline().is_some_and(|at| at < Instant::now() + CHECK_LIMIT) {
            // The borrower has no time for a reset.
            pooled.mark_for_close(CloseReason::Dirty);
            return self.give_back_clean(pooled, permit);
        }
        self.clean(pooled, permit, CHECK_LIMIT);
    }

    /// Whether the connection has to be closed whatever its session's state: the pool is closed or above its maximum, or the
    /// connection is outdated.
    fn is_surplus_or_outdated(&self, pooled: &Pooled) -> bool {
        self.gate.retires() || self.generations.status(pooled.generation) == GenerationStatus::Outdated
    }

    /// Closes a connection, in the background. Returns the holder if its hold was reported as too long.
    pub(super) fn close_one(&self, pooled: Pooled, reason: CloseReason) -> Option<Holder> {
        self.slots.close_one(pooled, reason).unwrap_or_else(|session| {
            self.maintenance.close_dropped(session, &self.gate);
            None
        })
    }

    /// Puts a connection back that was not used.
    pub(super) fn give_back_unused(&self, pooled: Pooled, permit: Permit) {
        match self.slots.put(pooled) {
            Ok(_) => self.gate.return_unused(permit),
            Err(session) => {
                self.maintenance.close_dropped(session, &self.gate);
                self.gate.discard(permit);
            }
        }
    }

    /// Puts a connection back into its slot, or closes it if its session is not clean, expired, surplus or outdated.
    pub(super) fn give_back_clean(&self, mut pooled: Pooled, permit: Permit) {
        let now = Instant::now();
        let reason = match pooled.verdict() {
            Verdict::Close(reason) => Some(reason),
            Verdict::Reset => Some(CloseReason::Retired),
            Verdict::Keep if pooled.retire_at.is_some_and(|at| at <= now) => Some(CloseReason::Expired),
            Verdict::Keep if self.is_surplus_or_outdated(&pooled) => Some(CloseReason::Retired),
            Verdict::Keep => None,
        };
        pooled.report_statements(&self.statement_table, now, reason.is_some());
        let holder = match reason {
            None => {
                pooled.idle_since = now;
                // Put it back before the release, because the gate may lend it immediately.
                match self.slots.put(pooled) {
                    Ok(holder) => {
                        self.gate.release(permit, now);
                        holder
                    }
                    Err(session) => {
                        self.maintenance.close_dropped(session, &self.gate);
                        self.gate.discard(permit);
                        None
                    }
                }
            }
            Some(reason) => {
                let is_first = match reason {
                    // The other connections are to the same server, which refuses writes, and a check would not detect that.
                    _ if pooled.is_server_read_only() => self.generations.outdate(pooled.generation),
                    CloseReason::Broken => self.generations.suspect(pooled.generation),
                    _ => false,
                };
                if is_first {
                    self.maintenance.inspect();
                }
                if pooled.has_timed_out() {
                    self.maintenance.cancel(pooled.cancel());
                }
                let holder = self.close_one(pooled, reason);
                self.gate.discard(permit);
                holder
            }
        };
        if let Some(Holder { since, at, .. }) = holder {
            let (held, pool) = (since.elapsed().as_secs_f64(), &self.settings.name);
            logged(|| warn!("Connection acquired at {at} came back after {held:.1} s (pool \"{pool}\")"));
        }
    }
}
