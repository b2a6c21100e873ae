//! A server that follows another, and can take its place.

use super::{BASE, Postgres, children_of, freeze};
use crate::support::eventually;
use crate::support::postgres::SUPERUSER;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How long following and promoting may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Postgres {
    /// A standby of this server, which must run; `None` where `pg_basebackup` is not installed.
    pub(crate) fn standby(&self) -> Option<Postgres> {
        if !BASE.programs.bin.join("pg_basebackup").is_file() {
            return None;
        }
        let standby = BASE.site(self.options.clone());
        standby.follow(self);
        Some(standby)
    }

    /// Begins anew as a standby of `primary`, whatever this server was before, on the port it has. It must not
    /// run; it does when this returns.
    pub(crate) fn follow(&self, primary: &Postgres) {
        let data = self.home.join("data");
        let _ = fs::remove_dir_all(&data);
        self.cluster.make_directory(&data).expect("a data directory");
        let mut backup = Command::new(BASE.programs.bin.join("pg_basebackup"));
        backup.args(["-h", "127.0.0.1", "-p", &primary.port.to_string(), "-U", SUPERUSER, "-D"]).arg(&data);
        // With what it takes to follow written into it.
        backup.args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync"]);
        backup.current_dir("/").stdin(Stdio::null());
        if let Some(account) = &BASE.account {
            backup.uid(account.uid).gid(account.gid);
        }
        let output = backup.output().expect("pg_basebackup runs");
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        self.start_again();
    }

    /// Waits until every standby of this server has on disk what this server has.
    pub(crate) fn wait_for_standbys(&self) {
        let mut client = self.client();
        let sql = "SELECT coalesce(bool_and(state = 'streaming' AND flush_lsn >= $1::text::pg_lsn), false) \
                   FROM pg_stat_replication WHERE application_name = 'walreceiver'";
        let now = "SELECT pg_current_wal_flush_lsn()::text";
        let position: String = client.query_one(now, &[]).expect("the position").get(0);
        eventually("the standby has caught up", PATIENCE, || {
            client.query_one(sql, &[&position]).expect("the standbys").get(0)
        });
    }

    /// From when this returns, each commit of this server waits until its standby has it on disk.
    pub(crate) fn commit_synchronously(&self) {
        let mut client = self.client();
        client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").expect("the setting");
        client.batch_execute("SELECT pg_reload_conf()").expect("a reload");
        // Not every process of the server hears of it at once. That one commit waits for a standby that does
        // not answer shows that all do.
        let sender = "SELECT pid FROM pg_stat_replication WHERE application_name = 'walreceiver'";
        let mut sender_id = None;
        // None while the standby connects again.
        eventually("a standby is connected", PATIENCE, || {
            sender_id = client.query_opt(sender, &[]).expect("at most one standby").map(|row| row.get(0));
            sender_id.is_some()
        });
        let sender = Pid::from_raw(sender_id.expect("one standby"));
        assert!(children_of(self.pid()).contains(&sender), "{sender} is a process of this server");
        freeze(&[sender]);
        let is_proven = Arc::new(AtomicBool::new(false));
        let writer = {
            let (mut client, is_proven) = (self.client(), is_proven.clone());
            thread::spawn(move || {
                while !is_proven.load(Ordering::Relaxed) {
                    client.batch_execute("SELECT pg_logical_emit_message(true, '', '')").expect("a commit");
                }
            })
        };
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
        eventually("commits wait for the standby", PATIENCE, || {
            client.query_one(waits, &[]).expect("who waits").get(0)
        });
        is_proven.store(true, Ordering::Relaxed);
        kill(sender, Signal::SIGCONT).expect("the WAL sender goes on");
        writer.join().expect("the last of them is answered");
        self.wait_for_standbys();
    }

    /// Makes a standby the primary; returns when it takes writes.
    pub(crate) fn promote(&self) {
        let mut client = self.client();
        client.batch_execute("SELECT pg_promote(false)").expect("a promotion");
        eventually("the standby is promoted", PATIENCE, || {
            client.query_one("SELECT NOT pg_is_in_recovery()", &[]).expect("its state").get(0)
        });
    }
}
