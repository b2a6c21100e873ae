//! The service itself, as a user runs it: the real program, a free port, a database of its own.

use super::postgres::{self, Database};
use super::{eventually, terminate};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The token that every app accepts, named `test`.
pub(crate) const TOKEN: &str = "test-token-0123456789-0123456789-0123456789";

/// How long a start may take: generous, because many of them share two cores at times.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The program, to be run in an empty directory and with nothing of our own environment that it would read.
pub(crate) fn poolhouse(directory: &Path) -> Command {
    poolhouse_under(&[], directory)
}

/// The same, run by the command `wrapper`.
fn poolhouse_under(wrapper: &[&str], directory: &Path) -> Command {
    let words = [wrapper, &[env!("CARGO_BIN_EXE_poolhouse")]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().current_dir(directory).stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// A database with the schema and the sample, for copying: loading it takes ten times as long.
static SAMPLE: LazyLock<Database> = LazyLock::new(|| {
    let database = postgres::fresh_database().with_schema();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/config/sample_movies.csv");
    let import =
        poolhouse(Path::new("/")).args(["import", sample]).env("DATABASE_URL", database.url()).output();
    let output = import.expect("poolhouse runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    database
});

/// A running reference service; killed when dropped.
#[derive(Debug)]
pub(crate) struct App {
    /// `http://127.0.0.1:<port>`
    pub(crate) base_url: String,
    /// What to send as `Authorization: Bearer …`.
    pub(crate) token: String,
    child: Child,
    directory: TempDir,
    /// Dropped after the program that uses it.
    database: Option<Database>,
}

impl App {
    /// Starts the service on a database with the schema and the sample.
    pub(crate) fn start() -> App {
        App::start_with(&[])
    }

    /// The same, with more variables.
    pub(crate) fn start_with(variables: &[(&str, &str)]) -> App {
        let database = postgres::copy_of(&SAMPLE);
        let directory = tempfile::tempdir().expect("a directory");
        let url = database.url();
        let all = [&[("DATABASE_URL", url.as_str())], variables].concat();
        let mut app = App::launch(directory, &all);
        app.database = Some(database);
        app
    }

    /// Starts the service in `directory` with these variables, a free port and [`TOKEN`], and waits until it
    /// answers.
    pub(crate) fn launch(directory: TempDir, variables: &[(&str, &str)]) -> App {
        App::spawn(&[], directory, variables).until_it_answers()
    }

    /// The same without waiting, and run by the command `wrapper`.
    pub(crate) fn spawn(wrapper: &[&str], directory: TempDir, variables: &[(&str, &str)]) -> App {
        let log = File::create(directory.path().join("app.log")).expect("a log file");
        let mut command = poolhouse_under(wrapper, directory.path());
        command.arg("serve").env("HTTP_BIND", "127.0.0.1:0").env("API_TOKENS", format!("test={TOKEN}"));
        command.envs(variables.iter().copied());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().expect("poolhouse starts");
        App { base_url: String::new(), token: TOKEN.to_owned(), child, directory, database: None }
    }

    /// Waits until it answers.
    #[track_caller]
    pub(crate) fn until_it_answers(mut self) -> App {
        let start = Instant::now();
        self.base_url = loop {
            // The line comes once the port is bound: from then on requests are taken.
            let log = self.log();
            // A quote ends it in JSON.
            let listening = log
                .split_once("Listening on ")
                .and_then(|(_, rest)| rest.split(|c: char| c.is_whitespace() || c == '"').next());
            if let Some(url) = listening {
                break url.to_owned();
            }
            let ended = self.child.try_wait().expect("the state of the child");
            assert!(ended.is_none(), "poolhouse ended at its start ({ended:?}): {log}");
            assert!(start.elapsed() < START_TIMEOUT, "poolhouse does not listen: {log}");
            std::thread::sleep(Duration::from_millis(5));
        };
        eventually("the service answers", START_TIMEOUT, || self.get("/api/health").0 == 200);
        self
    }

    /// The database it was started on; only of [`start`](App::start) and [`start_with`](App::start_with).
    pub(crate) fn database(&self) -> &Database {
        self.database.as_ref().expect("an app on a database of its own")
    }

    /// Status and body of an answer to `GET`, without a token; status 0 where none comes.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let agent =
            ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        match agent.get(format!("{}{path}", self.base_url)).call() {
            Ok(mut answer) => {
                (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap_or_default())
            }
            Err(_) => (0, String::new()),
        }
    }

    /// What the program has printed so far, on both streams.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("app.log")).unwrap_or_default()
    }

    /// Where it runs.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The program's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM and waits for the end; returns how it ended, what it printed, and its directory.
    pub(crate) fn stop(self) -> (ExitStatus, String, TempDir) {
        terminate(self.pid());
        self.ended(Duration::from_secs(45))
    }

    /// Waits for the end, and returns the same.
    #[track_caller]
    pub(crate) fn ended(mut self, within: Duration) -> (ExitStatus, String, TempDir) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the state of the child") {
                break status;
            }
            assert!(start.elapsed() < within, "poolhouse does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        let log = self.log();
        let elsewhere = tempfile::tempdir().expect("a directory");
        (status, log, std::mem::replace(&mut self.directory, elsewhere))
    }

    /// Ends it by `kill -9`; returns its directory.
    pub(crate) fn kill(mut self) -> TempDir {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let elsewhere = tempfile::tempdir().expect("a directory");
        std::mem::replace(&mut self.directory, elsewhere)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // SIGTERM first: a private server would otherwise be ended a moment after the test.
        if self.child.try_wait().ok().flatten().is_none() {
            terminate(self.pid());
            let start = Instant::now();
            while self.child.try_wait().ok().flatten().is_none() && start.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
