//! What became of a transaction whose commit was not answered.
//!
//! The server remembers for long whether a transaction committed (PostgreSQL, "Transaction ID and Snapshot
//! Information Functions"), so who knows its id can ask. Four things have to be watched:
//!
//! - After a crash the server may give an id out again whose first owner had left nothing on disk: asked for it, it
//!   answers for the second one. A crash shows by statistics that were reset ("The Cumulative Statistics System").
//!   Recovery ends with a checkpoint that names the next id to give out; an id not below it was not known any more,
//!   so its first owner did nothing that lasts. That checkpoint is told from later ones by beginning where it is
//!   written, as only that of an orderly stop does too, and that is older than the server's start or was there
//!   before. (With `wal_level = minimal` others may as well, so it is not told.) It tells of the last recovery only:
//!   should the server crash a second time before it is asked, having given out the same id in between, its answer
//!   is believed wrongly.
//! - After a failover the ids of the new primary need not be those of the old one: a commit found there proves
//!   nothing. The timeline tells: not that of the control file, which a promoted server leaves behind until it has
//!   finished a checkpoint, but that of the log it writes.
//! - Another server altogether knows nothing. Its system identifier tells, which primary and standby share.
//! - With synchronous replication a commit counts once its standby has it. If the wait for that was broken off, the
//!   server calls it committed, and a failover may still lose it; so another commit is waited for, which is behind it
//!   in the log.

use crate::error::{Error, Result};
use crate::pool::{Connection, Failure, Limit, Session, is_stopped};
use crate::query::Execute;
use crate::query::options::TransactionOptions;
use serde::Deserialize;

/// What is noted at the beginning of a transaction to ask about it later. It comes with BEGIN in one round trip.
#[derive(Debug, Clone)]
pub(super) struct CommitProbe {
    id: i64,
    system: String,
    timeline: String,
    started: String,
    checkpoint: String,
    /// Where there ever was a reset.
    reset: Option<String>,
}

/// `txid_*` in place of the newer `pg_xact_*`: these take the id as a number, and every supported server has them.
/// Times as microseconds: as text they depend on the session's `DateStyle` and `TimeZone`, and are read back as others.
const NOTE: &str = "
SELECT txid_current(), system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, checkpoint_lsn,
       (extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint
FROM pg_control_system(), pg_control_checkpoint()";

/// In one statement, and so of one server: behind PgBouncer the next one may meet it after a restart.
const ASK: &str = "
SELECT CASE WHEN $1 >= txid_snapshot_xmax(txid_current_snapshot()) THEN 'unassigned'
            ELSE txid_status($1) END AS status,
       system_identifier <> $2::text::bigint AS is_another,
       pg_is_in_recovery() AS is_standby,
       CASE WHEN pg_is_in_recovery() THEN false
            ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) <> $3 END AS has_failed_over,
       (extract(epoch FROM started) * 1000000)::bigint <> $4::text::bigint AS has_restarted,
       (extract(epoch FROM reset) * 1000000)::bigint IS DISTINCT FROM $5::text::bigint AS has_crashed,
       checkpoint_lsn = redo_lsn AND checkpoint_lsn <> $6::text::pg_lsn AND reset >= started
           AND checkpoint_time >= date_trunc('second', started)
           AND current_setting('wal_level') <> 'minimal' AS is_of_recovery,
       (split_part(next_xid, ':', 1)::bigint << 32) + split_part(next_xid, ':', 2)::bigint > $1 AS was_known,
       current_setting('synchronous_standby_names') <> '' AS waits_for_standbys
FROM pg_control_checkpoint(), pg_control_system(),
     pg_postmaster_start_time() AS started, pg_stat_get_bgwriter_stat_reset_time() AS reset";

/// A commit that changes nothing.
const COMMIT_BEHIND: &str = "SELECT pg_logical_emit_message(true, 'poolhouse', '')";

/// What the server says of the transaction and of itself.
#[derive(Debug, Clone, Deserialize)]
struct ServerState {
    /// `None` where it was too long ago.
    status: Option<Status>,
    is_another: bool,
    is_standby: bool,
    has_failed_over: bool,
    /// Since the transaction began.
    has_restarted: bool,
    /// Recovered from a crash since then, or somebody reset the statistics.
    has_crashed: bool,
    /// The last checkpoint is that of the last recovery.
    is_of_recovery: bool,
    /// The id was given out before the last checkpoint.
    was_known: bool,
    waits_for_standbys: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Committed,
    Aborted,
    #[serde(rename = "in progress")]
    InProgress,
    /// It runs, or was never given out.
    Unassigned,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitStatus {
    Committed,
    NotDone,
    /// It still runs, or this server cannot tell: ask again.
    Open,
    /// It cannot be known.
    Unknown,
}

impl CommitProbe {
    /// Begins a transaction and notes what it takes to ask about it.
    pub(super) fn begin(
        session: &mut Session,
        options: &TransactionOptions,
        limit: Limit,
    ) -> Result<CommitProbe, Failure> {
        let row = session.begin_transaction(&options.begin(), options.is_read_only, NOTE, limit)?;
        let probe = match row.as_slice() {
            [Some(id), Some(system), Some(timeline), Some(started), Some(checkpoint), reset] => {
                id.parse().ok().map(|id| CommitProbe {
                    id,
                    system: system.clone(),
                    timeline: timeline.clone(),
                    started: started.clone(),
                    checkpoint: checkpoint.clone(),
                    reset: reset.clone(),
                })
            }
            _ => None,
        };
        probe.ok_or_else(|| {
            Failure::of_caller(Error::application("the server's answer to BEGIN is not PostgreSQL's"))
        })
    }

    /// Asks the server behind `connection`.
    pub(super) fn ask(&self, connection: &Connection) -> Result<CommitStatus> {
        let CommitProbe { id, system, timeline, started, checkpoint, reset } = self;
        let state = connection
            .execute_query_one::<ServerState>(ASK, &[id, system, timeline, started, reset, checkpoint])?;
        let Some(state) = state else { return Ok(CommitStatus::Unknown) };
        let status = state.status();
        if status == CommitStatus::Committed && state.waits_for_standbys {
            connection.execute_write(COMMIT_BEHIND, &[])?;
            // To a cancelled wait for the standby the server answers as if it had come to its end.
            if is_stopped() {
                return Ok(CommitStatus::Open);
            }
        }
        Ok(status)
    }
}

impl ServerState {
    fn status(&self) -> CommitStatus {
        use Status::{Aborted, Committed, InProgress, Unassigned};
        if self.is_another {
            return CommitStatus::Unknown;
        }
        if self.is_standby {
            // It may lag behind; the primary is to be asked.
            return CommitStatus::Open;
        }
        let Some(status) = self.status else { return CommitStatus::Unknown };
        let is_recovered = self.has_crashed && self.is_of_recovery && !self.has_failed_over;
        if is_recovered && !self.was_known {
            return CommitStatus::NotDone;
        }
        match status {
            Committed if self.has_failed_over => CommitStatus::Unknown,
            Committed if self.has_crashed && !is_recovered => CommitStatus::Unknown,
            Committed => CommitStatus::Committed,
            Aborted => CommitStatus::NotDone,
            // The session that ran it is gone, so what runs now is another's.
            InProgress | Unassigned if self.has_failed_over || self.has_restarted => CommitStatus::NotDone,
            InProgress | Unassigned => CommitStatus::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Aborted, Committed, InProgress, Unassigned};

    const UP_ALL_THE_TIME: ServerState = ServerState {
        status: None,
        is_another: false,
        is_standby: false,
        has_failed_over: false,
        has_restarted: false,
        has_crashed: false,
        is_of_recovery: false,
        was_known: false,
        waits_for_standbys: false,
    };
    const RECOVERED: ServerState = ServerState {
        has_restarted: true,
        has_crashed: true,
        is_of_recovery: true,
        was_known: true,
        ..UP_ALL_THE_TIME
    };

    fn fates(state: &ServerState) -> [CommitStatus; 5] {
        let statuses = [Some(Committed), Some(Aborted), Some(InProgress), Some(Unassigned), None];
        statuses.map(|status| ServerState { status, ..state.clone() }.status())
    }

    #[test]
    fn a_server_that_never_crashed_is_believed() {
        let told = [
            CommitStatus::Committed,
            CommitStatus::NotDone,
            CommitStatus::Open,
            CommitStatus::Open,
            CommitStatus::Unknown,
        ];
        assert_eq!(fates(&UP_ALL_THE_TIME), told);
        let after_a_checkpoint = ServerState { was_known: true, ..UP_ALL_THE_TIME };
        assert_eq!(fates(&after_a_checkpoint), told);
        let told = [
            CommitStatus::Committed,
            CommitStatus::NotDone,
            CommitStatus::NotDone,
            CommitStatus::NotDone,
            CommitStatus::Unknown,
        ];
        assert_eq!(fates(&ServerState { has_restarted: true, ..UP_ALL_THE_TIME }), told);
    }

    #[test]
    fn after_a_crash_an_id_that_recovery_did_not_know_is_anothers() {
        let told = [
            CommitStatus::Committed,
            CommitStatus::NotDone,
            CommitStatus::NotDone,
            CommitStatus::NotDone,
            CommitStatus::Unknown,
        ];
        assert_eq!(fates(&RECOVERED), told);
        let unknown = ServerState { was_known: false, ..RECOVERED };
        assert_eq!(fates(&unknown)[..4], [CommitStatus::NotDone; 4]);
    }

    #[test]
    fn a_commit_that_may_be_anothers_proves_nothing() {
        let told = [
            CommitStatus::Unknown,
            CommitStatus::NotDone,
            CommitStatus::NotDone,
            CommitStatus::NotDone,
            CommitStatus::Unknown,
        ];
        assert_eq!(fates(&ServerState { is_of_recovery: false, ..RECOVERED }), told);
        for has_crashed in [true, false] {
            assert_eq!(fates(&ServerState { has_failed_over: true, has_crashed, ..RECOVERED }), told);
        }
        // The statistics may also have been reset by somebody, and then it may run yet.
        let reset = ServerState { has_crashed: true, ..UP_ALL_THE_TIME };
        let told = [
            CommitStatus::Unknown,
            CommitStatus::NotDone,
            CommitStatus::Open,
            CommitStatus::Open,
            CommitStatus::Unknown,
        ];
        assert_eq!(fates(&reset), told);
    }

    #[test]
    fn others_are_not_believed_at_all() {
        assert_eq!(fates(&ServerState { is_another: true, ..RECOVERED }), [CommitStatus::Unknown; 5]);
        assert_eq!(fates(&ServerState { is_standby: true, ..RECOVERED }), [CommitStatus::Open; 5]);
    }
}
