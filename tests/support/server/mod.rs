//! PostgreSQL servers that tests may break: started, stopped, killed, frozen.

#[path = "../../../src/bin/poolhouse/dev_postgres/cluster/mod.rs"]
#[allow(dead_code, reason = "the binary's code; tests need only part of it")]
pub(crate) mod cluster;
mod failing_disk;
mod standby;

use super::postgres::{Database, GUEST, GUEST_PASSWORD, SUPERUSER, connect, create_database, parse};
use super::{SOON, eventually};
use cluster::processes::{Process, table};
use cluster::{Account, Cluster, Programs, Server, Shutdown, Watchdog};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use poolhouse::PoolSettings;
use poolhouse::settings::DatabaseSettings;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A PostgreSQL server of one test's own, to be stopped, killed, frozen and started again at will, from any
/// thread. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    cluster: Cluster,
    home: PathBuf,
    options: Vec<(&'static str, String)>,
    port: u16,
    server: Mutex<Option<Server>>,
}

impl Postgres {
    /// Starts a server with everything at its default but `fsync`, which is off.
    pub(crate) fn start() -> Postgres {
        Postgres::start_with(&[])
    }

    /// As [`start`](Postgres::start), with settings as in `postgresql.conf`.
    pub(crate) fn start_with(options: &[(&'static str, &str)]) -> Postgres {
        BASE.new_server(options)
    }

    /// A server of other origin than all others here, as one that was restored from a dump elsewhere.
    pub(crate) fn start_unrelated() -> Postgres {
        let postgres = BASE.site(vec![("fsync", "off".to_owned())]);
        create_cluster(&postgres.cluster, &postgres.home.join("data"));
        postgres.start_again();
        postgres
    }

    /// A server that encrypts, with this certificate and key in PEM.
    pub(crate) fn start_encrypted(certificate: &str, key: &str) -> Postgres {
        let postgres = BASE.site(vec![("fsync", "off".to_owned()), ("ssl", "on".to_owned())]);
        let data = postgres.home.join("data");
        copy_directory(&BASE.directory.join("template"), &data);
        let owner = fs::metadata(&data).expect("the data directory");
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = data.join(name);
            fs::write(&path, text).expect("a certificate");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("the server's own");
        }
        postgres.start_again();
        postgres
    }

    /// The port of 127.0.0.1 it listens on; the same after every restart.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How to reach its database `postgres`.
    pub(crate) fn database_settings(&self) -> DatabaseSettings {
        parse(&format!("postgres://{SUPERUSER}@127.0.0.1:{}/postgres?sslmode=disable", self.port))
    }

    /// A pool's settings for its database `postgres`.
    pub(crate) fn pool_settings(&self) -> PoolSettings {
        PoolSettings::new(self.database_settings())
    }

    /// A new empty database on it.
    pub(crate) fn fresh_database(&self) -> Database {
        create_database(&self.database_settings(), &mut self.client(), "template0", false)
    }

    /// A plain client on its database `postgres`.
    pub(crate) fn client(&self) -> postgres::Client {
        connect(&self.database_settings())
    }

    /// Stops it as an operator does: sessions are ended, everything is written out.
    pub(crate) fn stop_fast(&self) {
        self.end(Shutdown::Fast);
    }

    /// The same, insisting after `patience`.
    pub(crate) fn stop_fast_within(&self, patience: Duration) {
        let running = self.server().take().expect("the server runs");
        running.stop(Shutdown::Fast, patience).expect("the server ends");
    }

    /// Stops it at once; the next start repairs.
    pub(crate) fn stop_immediate(&self) {
        self.end(Shutdown::Immediate);
    }

    /// `kill -9` of every process of it, as in a crash of the machine.
    pub(crate) fn kill(&self) {
        // Stopped first, so that no session is born that would not be known of.
        freeze(&[self.pid()]);
        let processes = self.processes();
        self.end(Shutdown::Crash);
        // The next start is refused while one of them holds on to the shared memory.
        let are_gone = || running(&processes).is_empty();
        eventually("every process of the server is gone", SOON, are_gone);
    }

    /// Starts it on the same port after one of the ways to stop it.
    pub(crate) fn start_again(&self) {
        let mut server = self.server();
        assert!(server.is_none(), "the server runs: stop it first");
        *server = Some(self.launch());
    }

    /// Stops every process of it where it stands: connections stay open, nothing answers.
    pub(crate) fn freeze(&self) {
        // The postmaster first, so that no session is born while the others are stopped.
        let postmaster = self.pid();
        freeze(&[postmaster]);
        freeze(&children_of(postmaster));
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        for pid in self.processes().into_iter().rev() {
            let _ = kill(pid, Signal::SIGCONT);
        }
    }

    /// The postmaster's process.
    pub(crate) fn pid(&self) -> Pid {
        self.server().as_ref().expect("the server runs").pid()
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// The postmaster and its children.
    fn processes(&self) -> Vec<Pid> {
        let postmaster = self.pid();
        [vec![postmaster], children_of(postmaster)].concat()
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, how: Shutdown) {
        let mut server = self.server();
        let running = server.take().expect("the server runs");
        running.stop(how, SOON).expect("the server ends");
    }

    fn launch(&self) -> Server {
        let options: Vec<_> = self.options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let started = self.cluster.start(self.port, &options, &self.home.join("log"));
        started.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server().is_some() {
            // A frozen session would neither end nor let the port go.
            self.thaw();
            self.end(Shutdown::Immediate);
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

static BASE: LazyLock<Base> = LazyLock::new(Base::make);

/// The directory of all servers of this process, with a data directory to copy: `initdb` takes a second, a
/// copy a tenth of that.
struct Base {
    directory: PathBuf,
    programs: Programs,
    account: Option<Account>,
    servers: AtomicU32,
    _watchdog: Watchdog,
}

impl Base {
    fn make() -> Base {
        let or_panic = |error: cluster::ClusterError| -> ! { panic!("{error}") };
        let programs = Programs::find(None).unwrap_or_else(|error| or_panic(error));
        let directory =
            tempfile::Builder::new().prefix("poolhouse-test-").tempdir().expect("a directory").keep();
        let watchdog = Watchdog::new(SWEEP, [&directory]).expect("a watchdog");
        let account = Account::for_server(&directory.join("data")).unwrap_or_else(|error| or_panic(error));
        // The server's user has to pass through.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("permissions");

        let data = directory.join("template");
        let cluster = Cluster::new(programs.clone(), data.clone(), account.clone());
        create_cluster(&cluster, &data);
        Base { directory, programs, account, servers: AtomicU32::new(0), _watchdog: watchdog }
    }
    fn new_server(&self, options: &[(&'static str, &str)]) -> Postgres {
        let mut settings = vec![("fsync", "off".to_owned())];
        settings.extend(options.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let postgres = self.site(settings);
        copy_directory(&self.directory.join("template"), &postgres.home.join("data"));
        postgres.start_again();
        let guest = format!("CREATE ROLE {GUEST} LOGIN PASSWORD '{GUEST_PASSWORD}'");
        postgres.client().batch_execute(&guest).expect("the guest's role");
        postgres
    }

    /// A place for a server, without data, and with a port to itself.
    fn site(&self, options: Vec<(&'static str, String)>) -> Postgres {
        let number = self.servers.fetch_add(1, Ordering::Relaxed);
        let home = self.directory.join(number.to_string());
        fs::create_dir(&home).expect("a directory for the server");
        let port = port_of_its_own();
        let cluster = Cluster::new(self.programs.clone(), home.join("data"), self.account.clone());
        Postgres { cluster, home, options, port, server: Mutex::new(None) }
    }
}

/// A free port that no other server of these stories has had: one that is being restarted needs its own again.
pub(crate) fn port_of_its_own() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = cluster::free_port().expect("a free port");
        if taken.insert(port) {
            return port;
        }
    }
}

/// Ends every server below the directory `$1` and removes it. Frozen ones are woken, or they would not end.
const SWEEP: &str = r#"
    for file in "$1"/*/data/postmaster.pid; do
        pid=$(head -n 1 "$file") && [ -n "$pid" ] && kill -CONT "$pid" && kill -QUIT "$pid"
    done
    tenths=0
    while ls "$1"/*/data/postmaster.pid && [ $tenths -lt 100 ]; do sleep 0.1; tenths=$((tenths + 1)); done
    rm -rf "$1""#;

fn create_cluster(cluster: &Cluster, data: &Path) {
    cluster.create(SUPERUSER, "not asked for").unwrap_or_else(|error| panic!("{error}"));
    let rules = format!(
        "host all {GUEST} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n\
         host replication all 127.0.0.1/32 trust\nlocal all all trust\n"
    );
    fs::write(data.join("pg_hba.conf"), rules).expect("pg_hba.conf");
}

/// A directory that this process's stories share, gone when it ends.
pub(crate) fn directory() -> &'static Path {
    &BASE.directory
}

/// Owners and permissions included.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-Rp").arg(from).arg(to).stdin(Stdio::null()).status();
    assert!(status.expect("cp runs").success(), "cannot copy {} to {}", from.display(), to.display());
}

/// Every process there is.
pub(crate) fn processes() -> Vec<Process> {
    table().unwrap_or_else(|error| panic!("{error}"))
}

/// The processes whose parent is `parent`.
pub(crate) fn children_of(parent: Pid) -> Vec<Pid> {
    processes().iter().filter(|process| process.parent == parent).map(|process| process.pid).collect()
}

/// Stops those of `pids` that have not ended where they stand. On a busy machine a signal may take its time.
pub(crate) fn freeze(pids: &[Pid]) {
    for pid in pids {
        let _ = kill(*pid, Signal::SIGSTOP);
    }
    let is_frozen = |process: &Process| process.state.eq_ignore_ascii_case(&'T') || process.has_ended();
    eventually("they have stopped", SOON, || {
        processes().iter().filter(|process| pids.contains(&process.pid)).all(is_frozen)
    });
}

/// Those of `pids` that have not ended.
pub(crate) fn running(pids: &[Pid]) -> Vec<Pid> {
    let all = processes().into_iter().filter(|process| !process.has_ended());
    all.map(|process| process.pid).filter(|pid| pids.contains(pid)).collect()
}
