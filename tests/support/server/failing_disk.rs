//! A server whose disk fails on request.

use super::{BASE, Postgres, copy_directory};
use crate::support::server::cluster::{Cluster, Programs};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

/// What is loaded into the server.
const LIBRARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/failing_disk.c");

impl Postgres {
    /// A server that writes its log for good, and whose [`fail_next_flush`](Postgres::fail_next_flush) works; `None` where
    /// that takes what this system does not have.
    pub(crate) fn start_on_failing_disk() -> Option<Postgres> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        // Only a commit may flush.
        let options = [("wal_writer_delay", "10s"), ("autovacuum", "off"), ("wal_sync_method", "fdatasync")];
        let mut postgres =
            BASE.site(options.iter().map(|(name, value)| (*name, (*value).to_owned())).collect());
        let home = &postgres.home;
        // The server's user removes the flag here.
        fs::set_permissions(home, fs::Permissions::from_mode(0o777)).expect("permissions");
        let library = home.join("failing_disk.so");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(LIBRARY)
            .arg("-ldl")
            .output();
        let compiled = compiled.expect("cc, which builds Rust programs too");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

        let bin = home.join("bin");
        fs::create_dir(&bin).expect("a directory");
        let script = format!(
            "#!/bin/sh\nexport LD_PRELOAD='{}' FAILING_DISK='{}'\nexec '{}' \"$@\"\n",
            library.display(),
            home.join("fail").display(),
            BASE.programs.bin.join("postgres").display()
        );
        fs::write(bin.join("postgres"), script).expect("a script");
        fs::set_permissions(bin.join("postgres"), fs::Permissions::from_mode(0o755)).expect("permissions");
        let programs = Programs { bin, major: BASE.programs.major };
        postgres.cluster = Cluster::new(programs, postgres.home.join("data"), BASE.account.clone());
        copy_directory(&BASE.directory.join("template"), &postgres.home.join("data"));
        postgres.start_again();
        Some(postgres)
    }

    /// Has the next flush of the write-ahead log fail, in whichever process; [`has_failed`](Postgres::has_failed) reports it.
    pub(crate) fn fail_next_flush(&self) {
        fs::write(self.home.join("fail"), "").expect("a flag");
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.home.join("fail").exists()
    }
}
