//! Finds out whether a transaction committed when the answer to its COMMIT was lost.
//!
//! The server remembers for a long time whether a transaction committed (PostgreSQL, "Transaction ID and Snapshot
//! Information Functions"), so a caller that knows the transaction's id can query its status. Four cases need more
//! than that:
//!
//! - **Crash.** After a crash the server may assign an id again whose first owner left nothing on disk. The status is
//!   then the second owner's. A crash is recognised by statistics that were reset (PostgreSQL, "The Cumulative
//!   Statistics System"). Recovery ends with a checkpoint, which records the next id to assign. If the transaction's
//!   id is not below that one, recovery did not know it, so its first owner has no lasting effect. Only the
//!   checkpoint of a recovery or of an orderly shutdown starts at its own position in the log; the latter is excluded
//!   because it is older than the server's start, or was there when the transaction began. (With `wal_level =
//!   minimal` other checkpoints may also start there, so none is recognised.) The checkpoint shows the last recovery
//!   only. If the server crashes twice before the query, and assigned the same id in between, the result is wrong.
//! - **Failover.** The new primary may assign the old primary's ids again, so a commit found there proves nothing. A
//!   failover is recognised by the timeline of the log that the server writes. The control file is not used: a
//!   promoted server updates it only after its first checkpoint.
//! - **Another server.** It knows nothing of the transaction. It is recognised by its system identifier, which a
//!   primary and its standbys share.
//! - **Synchronous replication.** A commit counts only once the standby has it. If the wait for the standby was
//!   interrupted, the server reports the transaction as committed, but a failover may still lose it. So the probe
//!   commits another transaction and waits for the standby to have that one, which comes later in the log.
//!
//! This file knows nothing of connections that fail while it queries; `run.rs` queries again.

use crate::error::{Error, Result};
use crate::pool::{Connection, Failure, Limit, Session, is_cancelled};
use crate::query::Execute;
use crate::query::options::TransactionOptions;
use serde::Deserialize;

/// What must be known of a transaction and its server to query the commit status later. It is read in BEGIN's round
/// trip.
#[derive(Debug, Clone)]
pub(super) struct CommitProbe {
    id: i64,
    system: String,
    timeline: String,
    started: String,
    checkpoint: String,
    /// When the statistics were last reset; `None` if never.
    reset: Option<String>,
}

/// Reads a probe. It uses `txid_*` instead of the newer `pg_xact_*`, because these take the id as a number and every
/// supported server has them. Times are in microseconds, because their text depends on the session's `DateStyle` and
/// `TimeZone`.
const READ_PROBE: &str = "
SELECT txid_current(), system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, checkpoint_lsn,
       (extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint
FROM pg_control_system(), pg_control_checkpoint()";

/// Queries the status of a transaction. It is one statement, so that all columns come from one server: behind
/// PgBouncer the next statement may run after a restart.
const QUERY_STATUS: &str = "
SELECT CASE WHEN $1 >= txid_snapshot_xmax(txid_current_snapshot()) THEN 'unassigned'
            ELSE txid_status($1) END AS status,
       system_identifier <> $2::text::bigint AS is_other_system,
       pg_is_in_recovery() AS is_standby,
       CASE WHEN pg_is_in_recovery() THEN false
            ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) <> $3 END AS has_failed_over,
       (extract(epoch FROM started) * 1000000)::bigint <> $4::text::bigint AS has_restarted,
       (extract(epoch FROM reset) * 1000000)::bigint IS DISTINCT FROM $5::text::bigint AS has_crashed,
       checkpoint_lsn = redo_lsn AND checkpoint_lsn <> $6::text::pg_lsn AND reset >= started
           AND checkpoint_time >= date_trunc('second', started)
           AND current_setting('wal_level') <> 'minimal' AS is_recovery_checkpoint,
       (split_part(next_xid, ':', 1)::bigint << 32) + split_part(next_xid, ':', 2)::bigint > $1 AS is_before_checkpoint,
       current_setting('synchronous_standby_names') <> '' AS waits_for_standbys
FROM pg_control_checkpoint(), pg_control_system(),
     pg_postmaster_start_time() AS started, pg_stat_get_bgwriter_stat_reset_time() AS reset";

/// A commit without changes, which comes later in the log than the probed one.
const LATER_COMMIT: &str = "SELECT pg_logical_emit_message(true, 'poolhouse', '')";

/// The server's state, and the status that it has for the transaction's id.
#[derive(Debug, Clone, Deserialize)]
struct ServerState {
    /// `None` where the transaction is too old.
    status: Option<Status>,
    /// Its system identifier is not that of the transaction's server.
    is_other_system: bool,
    is_standby: bool,
    has_failed_over: bool,
    /// The server was started after the transaction began.
    has_restarted: bool,
    /// The server recovered from a crash since then, or its statistics were reset by a command.
    has_crashed: bool,
    /// The last checkpoint is that of the last recovery.
    is_recovery_checkpoint: bool,
    /// The id was assigned before the last checkpoint.
    is_before_checkpoint: bool,
    waits_for_standbys: bool,
}

/// What the server reports for the transaction's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Committed,
    Aborted,
    #[serde(rename = "in progress")]
    InProgress,
    /// The id belongs to a running transaction, or was never assigned.
    Unassigned,
}

/// Whether the transaction committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitStatus {
    Committed,
    NotCommitted,
    /// The transaction still runs, or this server does not know yet: query again.
    Pending,
    /// It can no longer be found out.
    Unknown,
}

impl CommitProbe {
    /// Begins a transaction and reads its probe, in one round trip.
    pub(super) fn begin(
        session: &mut Session,
        options: &TransactionOptions,
        limit: Limit,
    ) -> Result<CommitProbe, Failure> {
        let row = session.begin_transaction(&options.begin_sql(), options.is_read_only, READ_PROBE, limit)?;
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
            Failure::without_retry(Error::application(
                "the server did not return a transaction id with BEGIN: is it PostgreSQL?",
            ))
        })
    }

    /// Queries the commit status on `connection`.
    pub(super) fn query_status(&self, connection: &Connection) -> Result<CommitStatus> {
        let CommitProbe { id, system, timeline, started, checkpoint, reset } = self;
        let state = connection.execute_query_one::<ServerState>(
            QUERY_STATUS,
            &[id, system, timeline, started, reset, checkpoint],
        )?;
        let Some(state) = state else { return Ok(CommitStatus::Unknown) };
        let status = state.status();
        if status == CommitStatus::Committed && state.waits_for_standbys {
            connection.execute_write(LATER_COMMIT, &[])?;
            // When the wait for the standby is cancelled, the server still reports success.
            if is_cancelled() {
                return Ok(CommitStatus::Pending);
            }
        }
        Ok(status)
    }
}

impl ServerState {
    fn status(&self) -> CommitStatus {
        use Status::{Aborted, Committed, InProgress, Unassigned};
        if self.is_other_system {
            return CommitStatus::Unknown;
        }
        if self.is_standby {
            // A standby may lag behind; only the primary knows.
            return CommitStatus::Pending;
        }
        let Some(status) = self.status else { return CommitStatus::Unknown };
        let is_recovered = self.has_crashed && self.is_recovery_checkpoint && !self.has_failed_over;
        if is_recovered && !self.is_before_checkpoint {
            return CommitStatus::NotCommitted;
        }
        match status {
            Committed if self.has_failed_over => CommitStatus::Unknown,
            Committed if self.has_crashed && !is_recovered => CommitStatus::Unknown,
            Committed => CommitStatus::Committed,
            Aborted => CommitStatus::NotCommitted,
            // The transaction's session is gone, so a running transaction with this id is another one.
            InProgress | Unassigned if self.has_failed_over || self.has_restarted => {
                CommitStatus::NotCommitted
            }
            InProgress | Unassigned => CommitStatus::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Aborted, Committed, InProgress, Unassigned};

    const NEVER_RESTARTED: ServerState = ServerState {
        status: None,
        is_other_system: false,
        is_standby: false,
        has_failed_over: false,
        has_restarted: false,
        has_crashed: false,
        is_recovery_checkpoint: false,
        is_before_checkpoint: false,
        waits_for_standbys: false,
    };
    const RECOVERED: ServerState = ServerState {
        has_restarted: true,
        has_crashed: true,
        is_recovery_checkpoint: true,
        is_before_checkpoint: true,
        ..NEVER_RESTARTED
    };

    fn commit_statuses(state: &ServerState) -> [CommitStatus; 5] {
        let statuses = [Some(Committed), Some(Aborted), Some(InProgress), Some(Unassigned), None];
        statuses.map(|status| ServerState { status, ..state.clone() }.status())
    }

    #[test]
    fn the_status_of_a_server_that_never_crashed_is_final() {
        let expected = [
            CommitStatus::Committed,
            CommitStatus::NotCommitted,
            CommitStatus::Pending,
            CommitStatus::Pending,
            CommitStatus::Unknown,
        ];
        assert_eq!(commit_statuses(&NEVER_RESTARTED), expected);
        let after_a_checkpoint = ServerState { is_before_checkpoint: true, ..NEVER_RESTARTED };
        assert_eq!(commit_statuses(&after_a_checkpoint), expected);
        let expected = [
            CommitStatus::Committed,
            CommitStatus::NotCommitted,
            CommitStatus::NotCommitted,
            CommitStatus::NotCommitted,
            CommitStatus::Unknown,
        ];
        assert_eq!(commit_statuses(&ServerState { has_restarted: true, ..NEVER_RESTARTED }), expected);
    }

    #[test]
    fn after_a_crash_an_id_unknown_to_recovery_is_not_committed() {
        let expected = [
            CommitStatus::Committed,
            CommitStatus::NotCommitted,
            CommitStatus::NotCommitted,
            CommitStatus::NotCommitted,
            CommitStatus::Unknown,
        ];
        assert_eq!(commit_statuses(&RECOVERED), expected);
        let unknown = ServerState { is_before_checkpoint: false, ..RECOVERED };
        assert_eq!(commit_statuses(&unknown)[..4], [CommitStatus::NotCommitted; 4]);
    }

    #[test]
    fn a_commit_that_may_belong_to_another_transaction_is_unknown() {
        let expected = [
            CommitStatus::Unknown,
            CommitStatus::NotCommitted,
            CommitStatus::NotCommitted,
            CommitStatus::NotCommitted,
            CommitStatus::Unknown,
        ];
        assert_eq!(commit_statuses(&ServerState { is_recovery_checkpoint: false, ..RECOVERED }), expected);
        for has_crashed in [true, false] {
            assert_eq!(
                commit_statuses(&ServerState { has_failed_over: true, has_crashed, ..RECOVERED }),
                expected
            );
        }
        // The statistics may also have been reset by a command: then the transaction may still run.
        let reset = ServerState { has_crashed: true, ..NEVER_RESTARTED };
        let expected = [
            CommitStatus::Unknown,
            CommitStatus::NotCommitted,
            CommitStatus::Pending,
            CommitStatus::Pending,
            CommitStatus::Unknown,
        ];
        assert_eq!(commit_statuses(&reset), expected);
    }

    #[test]
    fn another_system_is_unknown_and_a_standby_is_pending() {
        assert_eq!(
            commit_statuses(&ServerState { is_other_system: true, ..RECOVERED }),
            [CommitStatus::Unknown; 5]
        );
        assert_eq!(
            commit_statuses(&ServerState { is_standby: true, ..RECOVERED }),
            [CommitStatus::Pending; 5]
        );
    }
}
