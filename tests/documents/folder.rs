//! A folder of files and a database to load them into.

#![allow(dead_code, reason = "`make crashes` uses its part of this")]
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::support::app::poolhouse;
use crate::support::{Database, SOON, eventually, postgres};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

pub(super) struct Folder {
    directory: TempDir,
    pub(super) database: Database,
}

impl Folder {
    pub(super) fn new() -> Folder {
        Folder::on(postgres::fresh_database().with_schema())
    }

    pub(super) fn on(database: Database) -> Folder {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("files")).unwrap();
        Folder { directory, database }
    }

    /// The path of a file as its document's source.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("files").join(name)
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// `count` files of a few chunks each: `00.txt`, `01.txt`, …
    pub(super) fn fill(&self, count: usize) {
        for number in 0..count {
            let text = format!("Sentence about number {number} with some words. ").repeat(20);
            self.write(&format!("{number:02}.txt"), text);
        }
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = poolhouse(self.directory.path());
        command.args(["ingest", "files", "--chunk-bytes", "200", "--overlap-bytes", "50"]).args(arguments);
        command.env("DATABASE_URL", self.database.url());
        command
    }

    pub(super) fn ingest(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Loads everything; returns the summary.
    #[track_caller]
    pub(super) fn summary(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.ingest(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
    }

    pub(super) fn start(&self, arguments: &[&str]) -> Running {
        self.start_on(&self.database.url(), arguments)
    }

    /// The same, on the database of this URL.
    pub(super) fn start_on(&self, url: &str, arguments: &[&str]) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}.log", NEXT.fetch_add(1, Ordering::Relaxed));
        let log = self.directory.path().join(name);
        let mut command = self.command(arguments);
        command.env("DATABASE_URL", url).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        Running { child: command.spawn().unwrap(), log }
    }

    /// Every document and chunk, but ids and times.
    pub(super) fn rows(&self) -> Vec<String> {
        Folder::rows_of(&self.database)
    }

    pub(super) fn rows_of(database: &Database) -> Vec<String> {
        let sql = "
            SELECT concat_ws('|', source, title, media_type, encode(sha256, 'hex'), byte_length, documents.chunk_bytes,
                   overlap_bytes, ordinal, byte_start, byte_end, text, search)
            FROM documents LEFT JOIN chunks USING (document_id) ORDER BY source, ordinal";
        database.client().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    pub(super) fn count(&self, sql: &str) -> i64 {
        self.database.client().query_one(sql, &[]).unwrap().get(0)
    }

    /// Has the server wait for a lock before it adds the document of this file. Dropping the client lets it go on.
    pub(super) fn hold(&self, name: &str) -> ::postgres::Client {
        let mut client = self.database.client();
        let source = self.path(name).display().to_string();
        let trigger = format!(
            "CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END';
             CREATE OR REPLACE TRIGGER hold AFTER INSERT ON documents FOR EACH ROW
                 WHEN (NEW.source = '{source}') EXECUTE FUNCTION hold();
             SELECT pg_advisory_lock(7)"
        );
        client.batch_execute(&trigger).unwrap();
        client
    }

    /// Waits until the server waits because of [`hold`](Folder::hold).
    pub(super) fn until_held(&self) {
        // The view has the locks of every database of the server.
        let sql = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
                   WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()";
        eventually("the document is held", SOON, || self.count(sql) == 1);
    }
}

/// A run in the background.
pub(super) struct Running {
    pub(super) child: Child,
    log: PathBuf,
}

impl Running {
    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// What it has written to standard error so far.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for its end.
    pub(super) fn output(self) -> Output {
        let mut output = self.child.wait_with_output().unwrap();
        output.stderr = fs::read(self.log).unwrap();
        output
    }
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}
