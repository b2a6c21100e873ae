//! What became of a transaction whose commit was not answered.
//!
//! The server remembers for long whether a transaction committed (PostgreSQL, "Transaction ID and Snapshot
//! Information Functions"), so who knows its id can ask. Two things have to be watched:
//!
//! - After a crash the server may give an id out again whose first owner had left nothing on disk: asked for it, it
//!   answers for the second one. Recovery ends with a checkpoint that names the next id to give out; an id not
//!   below it was not known any more, so its first owner did nothing that lasts. (That checkpoint is told from
//!   others by beginning where it is written: nothing else runs then.) It tells of the last recovery only: should
//!   the server crash a second time before it is asked, having given out the same id in between, its answer is
//!   believed wrongly.
//! - After a failover the ids of the new primary need not be those of the old one: a commit found there proves
//!   nothing. The timeline tells: not that of the control file, which a promoted server leaves behind until it has
//!   finished a checkpoint, but that of the log it writes.

use super::Execute;
use super::options::TransactionOptions;
use crate::error::{Error, Result};
use crate::pool::{Connection, Failure, Limit, Session};
use serde::Deserialize;

/// What is noted at the beginning of a transaction to ask about it later. It comes with BEGIN in one round trip.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    id: i64,
    checkpoint: String,
    timeline: String,
    began: String,
}

/// `txid_*` in place of the newer `pg_xact_*`: these take the id as a number, and every supported server has them.
const NOTE: &str = "
SELECT txid_current(), checkpoint_lsn, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), now()
FROM pg_control_checkpoint()";

/// Asked before the facts, on the same connection: no restart can come between.
const STATUS: &str = "SELECT txid_status($1)";

const FACTS: &str = "
SELECT pg_is_in_recovery() AS is_standby,
       CASE WHEN pg_is_in_recovery() THEN false
            ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) = $2 END AS is_same_timeline,
       checkpoint_lsn = $3::text::pg_lsn AS is_same_checkpoint,
       greatest(pg_postmaster_start_time(), pg_stat_get_bgwriter_stat_reset_time()) > $4::text::timestamptz
           AS has_restarted,
       checkpoint_lsn = redo_lsn AS is_of_recovery,
       (split_part(next_xid, ':', 1)::bigint << 32) + split_part(next_xid, ':', 2)::bigint > $1 AS was_known
FROM pg_control_checkpoint()";

/// What the server says of itself.
#[derive(Debug, Clone, Deserialize)]
struct Facts {
    is_standby: bool,
    is_same_timeline: bool,
    /// No checkpoint since the transaction began, hence no recovery either.
    is_same_checkpoint: bool,
    /// Started, or recovered from a crash (which resets statistics), after the transaction began.
    has_restarted: bool,
    /// The last checkpoint is that of a recovery, or of an orderly stop.
    is_of_recovery: bool,
    /// The id was given out before the last checkpoint.
    was_known: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Committed,
    Aborted,
    InProgress,
    /// Never given out.
    Unassigned,
    /// Given out too long ago.
    Forgotten,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    NotDone,
    /// It still runs, or this server cannot tell: ask again.
    Open,
    /// It cannot be known.
    Unknown,
}

impl Ticket {
    /// Begins a transaction and notes what it takes to ask about it.
    pub(super) fn begin(
        session: &mut Session,
        options: &TransactionOptions,
        limit: Limit,
    ) -> Result<Ticket, Failure> {
        let row = session.begin_transaction(&options.begin(), options.is_read_only, NOTE, limit)?;
        let ticket = match row.as_slice() {
            [Some(id), Some(checkpoint), Some(timeline), Some(began)] => id.parse().ok().map(|id| Ticket {
                id,
                checkpoint: checkpoint.clone(),
                timeline: timeline.clone(),
                began: began.clone(),
            }),
            _ => None,
        };
        ticket.ok_or_else(|| {
            Failure::of_caller(Error::application("the server's answer to BEGIN is not PostgreSQL's"))
        })
    }

    /// Asks the server behind `connection`.
    pub(super) fn ask(&self, connection: &Connection) -> Result<Fate> {
        let Ticket { id, checkpoint, timeline, began } = self;
        let status = match connection.execute_query_one::<Option<String>>(STATUS, &[id]) {
            Ok(status) => match status.flatten().as_deref() {
                Some("committed") => Status::Committed,
                Some("aborted") => Status::Aborted,
                Some("in progress") => Status::InProgress,
                _ => Status::Forgotten,
            },
            // An id in the future.
            Err(error) if error.sqlstate() == Some("22023") => Status::Unassigned,
            Err(error) => return Err(error),
        };
        let facts = connection.execute_query_one::<Facts>(FACTS, &[id, timeline, checkpoint, began])?;
        Ok(facts.map_or(Fate::Unknown, |facts| facts.fate(status)))
    }
}

impl Facts {
    fn fate(&self, status: Status) -> Fate {
        if self.is_standby {
            // It may lag behind; the primary is to be asked.
            return Fate::Open;
        }
        let may_be_anothers = if !self.is_same_timeline {
            true
        } else if self.is_same_checkpoint || !self.has_restarted {
            return match status {
                Status::Committed => Fate::Committed,
                Status::Aborted => Fate::NotDone,
                Status::InProgress => Fate::Open,
                Status::Unassigned | Status::Forgotten => Fate::Unknown,
            };
        } else if self.is_of_recovery {
            if !self.was_known {
                return Fate::NotDone;
            }
            false
        } else {
            true
        };
        match status {
            Status::Committed if may_be_anothers => Fate::Unknown,
            Status::Committed => Fate::Committed,
            Status::Forgotten => Fate::Unknown,
            // The session that ran it is gone, so what runs now is another's.
            Status::Aborted | Status::InProgress | Status::Unassigned => Fate::NotDone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP_ALL_THE_TIME: Facts = Facts {
        is_standby: false,
        is_same_timeline: true,
        is_same_checkpoint: true,
        has_restarted: false,
        is_of_recovery: false,
        was_known: false,
    };
    const RECOVERED: Facts = Facts {
        is_same_checkpoint: false,
        has_restarted: true,
        is_of_recovery: true,
        was_known: true,
        ..UP_ALL_THE_TIME
    };

    #[test]
    fn a_server_that_was_up_all_the_time_is_believed() {
        let checkpointed = Facts { is_same_checkpoint: false, was_known: true, ..UP_ALL_THE_TIME };
        for facts in [UP_ALL_THE_TIME, checkpointed] {
            assert_eq!(facts.fate(Status::Committed), Fate::Committed);
            assert_eq!(facts.fate(Status::Aborted), Fate::NotDone);
            assert_eq!(facts.fate(Status::InProgress), Fate::Open);
            assert_eq!(facts.fate(Status::Forgotten), Fate::Unknown);
        }
    }

    #[test]
    fn after_a_crash_an_id_that_recovery_did_not_know_is_anothers() {
        assert_eq!(RECOVERED.fate(Status::Committed), Fate::Committed);
        assert_eq!(RECOVERED.fate(Status::Aborted), Fate::NotDone);
        let unknown = Facts { was_known: false, ..RECOVERED };
        for status in [Status::Committed, Status::InProgress, Status::Unassigned] {
            assert_eq!(unknown.fate(status), Fate::NotDone, "{status:?}");
        }
    }

    #[test]
    fn a_commit_that_may_be_anothers_proves_nothing() {
        let later = Facts { is_of_recovery: false, ..RECOVERED };
        let failed_over = Facts { is_same_timeline: false, ..RECOVERED };
        for facts in [later, failed_over] {
            assert_eq!(facts.fate(Status::Committed), Fate::Unknown);
            assert_eq!(facts.fate(Status::Aborted), Fate::NotDone);
            assert_eq!(facts.fate(Status::InProgress), Fate::NotDone);
        }
        assert_eq!(Facts { is_standby: true, ..RECOVERED }.fate(Status::Unassigned), Fate::Open);
    }
}
