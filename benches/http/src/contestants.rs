//! Who takes part, each started as a process on the same database, and asked for the same answers.

use crate::peers::Peer;
use crate::process::{self, Usage};
use crate::support::postgres::{Database, url};
use crate::support::server::Postgres;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use poolhouse::settings::Secret;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Movies in the table, numbered from 1.
pub(crate) const MOVIES: u32 = 10_000;

const PATIENCE: Duration = Duration::from_secs(30);

/// A build of the service.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// With all connections from the beginning.
    pub(crate) is_full: bool,
}

impl FromStr for Build {
    type Err = String;

    fn from_str(text: &str) -> Result<Build, String> {
        let (name, path) = text.split_once('=').unwrap_or((text, text));
        match PathBuf::from(path).canonicalize() {
            Ok(path) => Ok(Build { name: name.to_owned(), path, is_full: false }),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Contestant {
    Service(Build),
    Peer(Peer),
}

impl Contestant {
    pub(crate) fn name(&self) -> &str {
        match self {
            Contestant::Service(build) => &build.name,
            Contestant::Peer(peer) => peer.name(),
        }
    }

    fn title(&self) -> &str {
        match self {
            Contestant::Service(build) => &build.name,
            Contestant::Peer(peer) => peer.title(),
        }
    }
}

/// The database they share, and how they are set up.
pub(crate) struct Stage {
    server: Postgres,
    database: Database,
    directory: TempDir,
    pool: u32,
    workers: u32,
}

impl Stage {
    pub(crate) fn new(pool: u32, workers: u32) -> Stage {
        // Nothing is written, so nothing is to be vacuumed while somebody is measured.
        let server = Postgres::start_with(&[("max_connections", "1000"), ("autovacuum", "off")]);
        let database = server.fresh_database().with_schema();
        for sql in [FILL, "VACUUM ANALYZE movies"] {
            database.client().batch_execute(sql).expect("the table of movies");
        }
        let directory = tempfile::tempdir().expect("a directory");
        // Production wants its file; what holds is said in the environment.
        File::create(directory.path().join(".env.production")).expect("a file");
        Stage { server, database, directory, pool, workers }
    }

    /// Starts a contestant and waits for its first answer.
    pub(crate) fn start(&self, contestant: &Contestant) -> Running {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let mut command = match contestant {
            Contestant::Service(build) => self.service(build, address),
            Contestant::Peer(peer) => self.peer(*peer, address),
        };
        let log = self.directory.path().join(format!("{}.log", address.port()));
        let file = File::create(&log).expect("a log");
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a log")).stderr(file);
        let begun = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (name, title) = (contestant.name().to_owned(), contestant.title().to_owned());
        let mut running = Running { name, title, address, child };
        while !ask(address, 1).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            let has_ended = running.child.try_wait().expect("the contestant's state").is_some();
            if has_ended || begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("{} does not answer:\n{log}", running.title);
            }
            thread::sleep(Duration::from_millis(5));
        }
        running
    }

    /// The production tier with its defaults, but for the pool's maximum.
    fn service(&self, build: &Build, address: SocketAddr) -> Command {
        let mut database = self.database.settings();
        // Not asked for by this server, but by the tier.
        database.password = Some(Secret::new("f0c1e7a49b52d83e6a7d"));
        let mut command = Command::new(&build.path);
        command.arg("serve");
        for variable in poolhouse::settings::VARIABLES {
            command.env_remove(variable.name);
        }
        command
            .env("APP_ENV", "production")
            .env("DATABASE_URL", url(&database))
            .env("DB_POOL_MAX_CONNECTIONS", self.pool.to_string())
            .env("HTTP_BIND", address.to_string())
            .env("HTTP_WORKERS", self.workers.to_string())
            .env("API_TOKENS", "ops=1f3870be274f6c49b3e31a0c6728957f3a9e");
        if build.is_full {
            command.env("DB_POOL_MIN_CONNECTIONS", self.pool.to_string());
        }
        command
    }

    fn peer(&self, peer: Peer, address: SocketAddr) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command
            .args([
                "--serve",
                peer.name(),
                "--bind",
                &address.to_string(),
                "--database",
                &self.database.url(),
            ])
            .args(["--pool", &self.pool.to_string(), "--workers", &self.workers.to_string()]);
        command
    }

    /// What a contestant, and the database for whom it may be, have used so far.
    pub(crate) fn usage(&self, one: &Running) -> Usage {
        process::usage(one.pid(), self.server.pid())
    }
}

/// A contestant that answers; it ends when dropped.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Running {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let begun = Instant::now();
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if begun.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Everybody must answer the same, or they do not do the same work.
pub(crate) fn compare_answers(running: &[Running]) {
    let Some((first, others)) = running.split_first() else { return };
    let answer = |one: &Running, id: u32| {
        let answer = ask(one.address, id).unwrap_or_else(|error| panic!("{}: {error}", one.title));
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer with a body");
        let mut head: Vec<String> = head.lines().map(str::to_lowercase).collect();
        // The service says which request it was.
        head.retain(|line| !["date:", "x-request-id:"].iter().any(|name| line.starts_with(name)));
        head.sort();
        (head, body.to_owned())
    };
    let mut random = fastrand::Rng::new();
    for id in
        [1, 2, 3, 50, MOVIES].into_iter().chain(std::iter::repeat_with(|| random.u32(1..=MOVIES)).take(50))
    {
        let expected = answer(first, id);
        assert!(expected.1.starts_with(&format!("{{\"movie_id\":{id},")), "{}: {expected:?}", first.title);
        for other in others {
            assert_eq!(
                answer(other, id),
                expected,
                "{} and {} do not answer the same",
                other.title,
                first.title
            );
        }
    }
}

/// The answer for one movie, head and body.
fn ask(address: SocketAddr, id: u32) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /api/movies/{id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Rows like those of MovieLens.
const FILL: &str = "
    INSERT INTO movies (movie_id, title, year, genres)
        SELECT n, 'The Long Journey of Film Number ' || n, CASE WHEN n % 50 > 0 THEN 1900 + n % 120 END,
            CASE n % 3 WHEN 0 THEN '{Drama}' WHEN 1 THEN '{Comedy,Romance}' ELSE '{Action,Sci-Fi,Thriller}' END::text[]
        FROM generate_series(1, 10000) n;
";
