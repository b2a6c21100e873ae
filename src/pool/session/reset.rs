//! Resetting a session: it removes what borrowers left, and keeps the prepared statements of the pool and the driver.
//!
//! It knows nothing of *when* a session is reset; the maintenance thread decides that.

use crate::pool::session::{Limit, Session};
use crate::pool::transport::protocol::reply::Reply;
use fallible_iterator::FallibleIterator;
use std::time::{Duration, Instant};

/// What DISCARD ALL does (PostgreSQL, "SQL Commands"), without DEALLOCATE ALL: temporary tables, settings, roles, locks,
/// cursors, channels end, and what prepared statements have taken from the settings. Of prepared statements those end that
/// were made with PREPARE; the last row counts the others, and has the text that ends these. The driver's own, with which it
/// looks types up, cannot be made again.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *;
    SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES;
    SELECT pg_catalog.count(*) FILTER (WHERE NOT from_sql), pg_catalog.string_agg('DEALLOCATE ' ||
        pg_catalog.quote_ident(name), '; ') FILTER (WHERE from_sql) FROM pg_catalog.pg_prepared_statements";

/// How long a reset waits for replies that no caller waits for.
const ABANDONED_LIMIT: Duration = Duration::from_millis(50);

impl Session {
    /// Removes everything a borrower left in the session, except the prepared statements of the pool and the driver.
    /// Returns false where that failed: the session must be closed.
    ///
    /// Behind PgBouncer only ROLLBACK is sent. It reaches the server connection of an open transaction; the other
    /// commands would reach an arbitrary one.
    pub(crate) fn reset(&mut self, deadline: Instant) -> bool {
        if self.cancel.as_ref().is_some_and(|cancel| cancel.has_unaccounted()) {
            return false;
        }
        let limit = Limit::Until(deadline);
        self.start_operation(limit);
        if self.is_client_lent && !self.take_back_client() {
            return false;
        }
        let is_reset = match self.statements.are_behind_pgbouncer() {
            true => self.reset_step("ROLLBACK", limit).is_some(),
            false => self.reset_all(limit),
        };
        if is_reset {
            self.wire.drop_notifications();
            (self.is_dirty, self.is_cancelled, self.is_client_lent) = (false, false, false);
        }
        is_reset
    }

    /// Receives the replies that no caller waits for, where they come within a moment. Returns false where they do not: the session
    /// must be closed, which says nothing about the server.
    pub(crate) fn receive_abandoned(&mut self) -> bool {
        let due = Instant::now() + ABANDONED_LIMIT;
        self.start_operation(Limit::Until(due + ABANDONED_LIMIT));
        (0..std::mem::take(&mut self.abandoned))
            .all(|_| self.wire.is_reply_there(due) && self.wire.receive().map(Reply::recycle).is_ok())
    }

    /// Drops the notifications that were sent to the borrower. Returns false where a borrower with `&mut Client` has put
    /// another client in the place of this session's.
    fn take_back_client(&mut self) -> bool {
        self.wire.hand_over();
        let client = &mut self.client;
        self.wire.is_driven_by(|| while let Ok(Some(_)) = client.notifications().iter().next() {})
    }

    /// Runs the whole reset: `RESET`, a new random seed, and DEALLOCATE for statements made by PREPARE.
    fn reset_all(&mut self, limit: Limit) -> bool {
        let rollback = if self.conn.status() == Some(b'I') { "" } else { "ROLLBACK;" };
        let seed = 2.0 * fastrand::f64() - 1.0;
        let row =
            self.reset_step(&format!("{rollback} SELECT pg_catalog.setseed({seed:.9}); {RESET}"), limit);
        let Some(row) = row else { return false };
        let [kept, removal] = &row[..] else { return false };
        let kept = kept.as_ref().and_then(|count| count.parse::<usize>().ok());
        // A borrower's DEALLOCATE ALL also drops statements that the pool and the driver still refer to.
        let are_all_there = kept.is_some_and(|kept| kept >= self.statements.count_on_server());
        are_all_there && removal.as_ref().is_none_or(|removal| self.reset_step(removal, limit).is_some())
    }

    /// Runs one step of a reset, and returns its last row; `None` where the step failed.
    fn reset_step(&mut self, sql: &str, limit: Limit) -> Option<Vec<Option<String>>> {
        let row = self.last_row(sql, limit).ok()?;
        (self.conn.status() == Some(b'I')).then_some(row)
    }
}
