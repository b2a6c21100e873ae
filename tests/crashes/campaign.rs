//! Runs that are killed after a random number of documents, and what they leave.

use crate::corpus::Corpus;
use crate::folder::{Folder, Running, said};
use crate::support::{Database, Postgres, SOON, eventually};
use fastrand::Rng;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::thread::sleep;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(1);

/// Each document by its source: all that the tables have of it but ids and times.
type Documents = BTreeMap<String, String>;

pub(crate) struct Campaign {
    server: Postgres,
    /// The files, and the database of the runs that are killed.
    folder: Folder,
    corpus: Corpus,
    /// The database of the runs that nobody interrupts, on another server.
    whole: Database,
    /// What a document may be: as an uninterrupted run has left it at any time.
    versions: HashMap<String, HashSet<String>>,
    rng: Rng,
    pub(crate) findings: Vec<String>,
}

impl Campaign {
    pub(crate) fn new(seed: u64) -> Campaign {
        let mut rng = Rng::with_seed(seed);
        let server = Postgres::start();
        let folder = Folder::on(server.fresh_database().with_schema());
        let corpus = Corpus::make(&folder, &mut rng);
        let whole = crate::support::postgres::fresh_database().with_schema();
        let (versions, findings) = (HashMap::new(), Vec::new());
        Campaign { server, folder, corpus, whole, versions, rng, findings }
    }

    /// `kill -9` of the program, `times` in the middle. Each run finds what the ones before have left.
    pub(crate) fn kill_the_program(&mut self, times: u32) {
        let mut in_the_middle = 0;
        while in_the_middle < times {
            let (whole, mut run) = self.run_until_a_random_document();
            run.signal(Signal::SIGKILL);
            let was_running = run.child.wait().unwrap().code().is_none();
            // One may still be at its commit.
            let sessions = "SELECT count(*) FROM pg_stat_activity
                            WHERE datname = current_database() AND pid <> pg_backend_pid()";
            eventually("the server has ended its sessions", SOON, || self.folder.count(sessions) == 0);
            let left = documents(&self.folder.database);
            let done = left.iter().filter(|(source, text)| whole.get(*source) == Some(text)).count();
            if was_running && left != whole {
                in_the_middle += 1;
                println!(
                    "program killed ({in_the_middle}): {done} of {} documents as they should be",
                    whole.len()
                );
            }
            self.judge_parts(&left);
        }
        self.finish("after the kills of the program");
    }

    /// `kill -9` of all of the server's processes, `times` in the middle. The run waits for it, and completes.
    pub(crate) fn kill_the_server(&mut self, times: u32) {
        for number in 1..=times {
            let (whole, mut run) = self.run_until_a_random_document();
            self.server.kill();
            let is_running = run.child.try_wait().unwrap().is_none();
            self.server.start_again();
            println!(
                "server killed ({number}), the program was {}",
                if is_running { "at work" } else { "done" }
            );
            let output = run.output();
            if !output.status.success() {
                self.findings.push(format!("a run did not survive its server: {}", said(&output)));
            }
            self.compare(&whole, "after a kill of the server");
        }
        self.finish("after the kills of the server");
    }

    /// Changes the files, and begins a run. Returns what it is to leave, and the run when it has written some of it.
    fn run_until_a_random_document(&mut self) -> (Documents, Running) {
        self.corpus.change(&self.folder, &mut self.rng);
        let whole = self.load_uninterrupted();
        let written = "SELECT count(*) FROM documents WHERE loaded_at > (SELECT at FROM begun)";
        let mut client = self.folder.database.client();
        let begin = "CREATE TABLE IF NOT EXISTS begun (at timestamptz); TRUNCATE begun;
                     INSERT INTO begun SELECT clock_timestamp()";
        client.batch_execute(begin).unwrap();
        let after = self.rng.i64(0..150);
        let mut run = self.folder.start(&["--prune"]);
        while run.child.try_wait().unwrap().is_none()
            && client.query_one(written, &[]).unwrap().get::<_, i64>(0) < after
        {
            sleep(LOOK);
        }
        (whole, run)
    }

    /// What an uninterrupted run leaves of the files as they are.
    fn load_uninterrupted(&mut self) -> Documents {
        let output = self.folder.start_on(&self.whole.url(), &["--prune"]).output();
        assert!(output.status.success(), "{}", said(&output));
        let whole = documents(&self.whole);
        for (source, text) in &whole {
            self.versions.entry(source.clone()).or_default().insert(text.clone());
        }
        whole
    }

    /// Every document is whole, in one of its versions.
    fn judge_parts(&mut self, left: &Documents) {
        for (source, text) in left {
            if !self.versions.get(source).is_some_and(|versions| versions.contains(text)) {
                self.findings.push(format!("half loaded: {source}"));
            }
        }
    }

    fn finish(&mut self, when: &str) {
        let whole = self.load_uninterrupted();
        let output = self.folder.ingest(&["--prune"]);
        assert!(output.status.success(), "{}", said(&output));
        self.compare(&whole, when);
        println!("{when}: {} documents, {} rows", whole.len(), self.folder.rows().len());
    }

    fn compare(&mut self, whole: &Documents, when: &str) {
        let left = documents(&self.folder.database);
        let sources: HashSet<_> = left.keys().chain(whole.keys()).collect();
        let different = sources.into_iter().filter(|source| left.get(*source) != whole.get(*source));
        self.findings.extend(different.map(|source| format!("{when}: {source} differs")));
    }
}

fn documents(database: &Database) -> Documents {
    let sql = "
        SELECT source, concat_ws('|', title, media_type, encode(sha256, 'hex'), byte_length, documents.chunk_bytes,
            overlap_bytes, string_agg(concat_ws('|', ordinal, byte_start, byte_end, text, search), E'\\n' ORDER BY ordinal))
        FROM documents LEFT JOIN chunks USING (document_id) GROUP BY document_id";
    database.client().query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}
