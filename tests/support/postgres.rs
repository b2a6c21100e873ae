//! Real PostgreSQL servers for tests: one shared by all of them, and more for those that break theirs.
//!
//! ```ignore
//! let mut client = postgres::client();                  // a driver's client on a database of this test's own
//! let pool = Pool::open(&postgres::pool_settings())?;   // the same for a pool
//! let database = postgres::fresh_database();            // or keep it, for several of these on one database
//!
//! let server = Postgres::start();                       // a server of this test's own
//! server.kill(); server.start_again();                  // `kill -9`, then back on the same port
//! ```
//!
//! The shared server is started by the first test that asks; `TEST_DATABASE_URL` names another one to use
//! instead. All of it, directories included, is gone when the test process ends, whatever it ends by.

#[path = "../../src/bin/poolhouse/cluster.rs"]
#[allow(dead_code, reason = "the binary's code; tests need only part of it")]
mod cluster;

use cluster::{Account, Cluster, Programs, Server, Shutdown, Watchdog};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use poolhouse::PoolSettings;
use poolhouse::settings::{DatabaseSettings, PrePing, Secret, SslMode, TargetSessionAttrs};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The superuser of our servers; every login but [`GUEST`]'s is trusted.
pub(crate) const SUPERUSER: &str = "postgres";
/// A role that our servers ask for a password: [`GUEST_PASSWORD`].
pub(crate) const GUEST: &str = "guest";
/// The right one.
pub(crate) const GUEST_PASSWORD: &str = "open sesame";

/// A database of one test's own, on whatever server; dropped with this value.
#[derive(Debug)]
pub(crate) struct Database {
    settings: DatabaseSettings,
    /// Databases of a private server vanish with the server, and that may be down by now.
    is_dropped_at_end: bool,
}

impl Database {
    /// How to reach it.
    pub(crate) fn settings(&self) -> DatabaseSettings {
        self.settings.clone()
    }

    /// A pool's settings for it: the defaults.
    pub(crate) fn pool_settings(&self) -> PoolSettings {
        defaults(self.settings())
    }

    /// The same as a URL, for `DATABASE_URL`.
    pub(crate) fn url(&self) -> String {
        url(&self.settings)
    }

    /// A plain client on it, without any pool.
    pub(crate) fn client(&self) -> postgres::Client {
        connect(&self.settings)
    }

    /// Applies `config/schema.sql`.
    pub(crate) fn with_schema(self) -> Database {
        self.client().batch_execute(include_str!("../../config/schema.sql")).expect("the schema applies");
        self
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.is_dropped_at_end {
            let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.settings.name);
            let _ = SHARED.admin().batch_execute(&sql);
        }
    }
}

/// A new empty database on the shared server.
pub(crate) fn fresh_database() -> Database {
    SHARED.fresh_database()
}

/// A client on a new empty database of the shared server.
pub(crate) fn client() -> postgres::Client {
    SHARED.forgotten_database().client()
}

/// A pool's settings for a new empty database of the shared server.
pub(crate) fn pool_settings() -> PoolSettings {
    SHARED.forgotten_database().pool_settings()
}

/// `postgres://…` for `settings`.
pub(crate) fn url(settings: &DatabaseSettings) -> String {
    let hosts: Vec<_> = settings.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let password =
        settings.password.as_ref().map_or(String::new(), |secret| format!(":{}", encoded(secret.expose())));
    format!(
        "postgres://{}{password}@{}/{}",
        encoded(&settings.user),
        hosts.join(","),
        encoded(&settings.name)
    )
}

/// A plain client for `settings`; panics when there is none to be had.
pub(crate) fn connect(settings: &DatabaseSettings) -> postgres::Client {
    let mut config = postgres::Config::new();
    for (host, port) in &settings.hosts {
        config.host(host).port(*port);
    }
    config.user(&settings.user).dbname(&settings.name);
    if let Some(password) = &settings.password {
        config.password(password.expose());
    }
    config.connect(postgres::NoTls).unwrap_or_else(|error| panic!("a client for {settings:?}: {error}"))
}

static SHARED: LazyLock<Shared> = LazyLock::new(Shared::open);

/// The server that tests share, and a session on it for making databases.
struct Shared {
    settings: DatabaseSettings,
    is_private: bool,
    admin: Mutex<postgres::Client>,
}

impl Shared {
    fn open() -> Shared {
        match std::env::var("TEST_DATABASE_URL") {
            Ok(text) => {
                let settings = parse(&text);
                let mut admin = connect(&settings);
                drop_abandoned_databases(&mut admin);
                Shared { settings, is_private: false, admin: Mutex::new(admin) }
            }
            Err(_) => {
                let settings = Postgres::start_shared().database_settings();
                let admin = Mutex::new(connect(&settings));
                Shared { settings, is_private: true, admin }
            }
        }
    }

    /// A failed test poisons the lock while the session is fine.
    fn admin(&self) -> MutexGuard<'_, postgres::Client> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh_database(&self) -> Database {
        create_database(&self.settings, &mut self.admin(), true)
    }

    /// For callers that keep only a client or settings: it stays until the server goes, or until the next
    /// run cleans up.
    fn forgotten_database(&self) -> Database {
        create_database(&self.settings, &mut self.admin(), false)
    }
}

/// `test_<process>_<number>`, so that two test binaries on one server keep apart.
fn create_database(
    server: &DatabaseSettings,
    admin: &mut postgres::Client,
    is_dropped_at_end: bool,
) -> Database {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).expect("a fresh database");
    Database { settings: DatabaseSettings { name, ..server.clone() }, is_dropped_at_end }
}

fn drop_abandoned_databases(admin: &mut postgres::Client) {
    let abandoned = "SELECT datname FROM pg_database d WHERE datname ~ '^test_[0-9]+_[0-9]+$' \
                     AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = d.datname)";
    for row in admin.query(abandoned, &[]).expect("the list of databases") {
        // Another test process may be dropping the same.
        let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {}", row.get::<_, String>(0)));
    }
}

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

    fn start_shared() -> &'static Postgres {
        static SERVER: LazyLock<Postgres> =
            LazyLock::new(|| Postgres::start_with(&[("max_connections", "300")]));
        &SERVER
    }

    /// The port of 127.0.0.1 it listens on; the same after every restart.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How to reach its database `postgres`.
    pub(crate) fn database_settings(&self) -> DatabaseSettings {
        parse(&format!("postgres://{SUPERUSER}@127.0.0.1:{}/postgres", self.port))
    }

    /// A pool's settings for its database `postgres`.
    pub(crate) fn pool_settings(&self) -> PoolSettings {
        defaults(self.database_settings())
    }

    /// A new empty database on it.
    pub(crate) fn fresh_database(&self) -> Database {
        create_database(&self.database_settings(), &mut self.client(), false)
    }

    /// A plain client on its database `postgres`.
    pub(crate) fn client(&self) -> postgres::Client {
        connect(&self.database_settings())
    }

    /// Stops it as an operator does: sessions are ended, everything is written out.
    pub(crate) fn stop_fast(&self) {
        self.end(Shutdown::Fast);
    }

    /// Stops it at once; the next start repairs.
    pub(crate) fn stop_immediate(&self) {
        self.end(Shutdown::Immediate);
    }

    /// `kill -9` of every process of it, as in a crash of the machine.
    pub(crate) fn kill(&self) {
        let processes = self.processes();
        self.end(Shutdown::Crash);
        for pid in processes {
            let _ = kill(pid, Signal::SIGKILL);
        }
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
        kill(postmaster, Signal::SIGSTOP).expect("the postmaster stops");
        for pid in children_of(postmaster) {
            let _ = kill(pid, Signal::SIGSTOP);
        }
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
        running.stop(how, Duration::from_secs(10)).expect("the server ends");
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
        cluster.create(SUPERUSER, "not asked for").unwrap_or_else(|error| or_panic(error));
        let rules = format!(
            "host all {GUEST} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n\
             host replication all 127.0.0.1/32 trust\n"
        );
        fs::write(data.join("pg_hba.conf"), rules).expect("pg_hba.conf");
        Base { directory, programs, account, servers: AtomicU32::new(0), _watchdog: watchdog }
    }

    fn new_server(&self, options: &[(&'static str, &str)]) -> Postgres {
        let number = self.servers.fetch_add(1, Ordering::Relaxed);
        let home = self.directory.join(number.to_string());
        fs::create_dir(&home).expect("a directory for the server");
        let data = home.join("data");
        copy_directory(&self.directory.join("template"), &data);
        let mut settings = vec![("fsync", "off".to_owned())];
        settings.extend(options.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let port = cluster::free_port().expect("a free port");
        let cluster = Cluster::new(self.programs.clone(), data, self.account.clone());
        let server = Mutex::new(None);
        let postgres = Postgres { cluster, home, options: settings, port, server };
        postgres.start_again();
        let guest = format!("CREATE ROLE {GUEST} LOGIN PASSWORD '{GUEST_PASSWORD}'");
        postgres.client().batch_execute(&guest).expect("the guest's role");
        postgres
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

/// Owners and permissions included.
fn copy_directory(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-Rp").arg(from).arg(to).stdin(Stdio::null()).status();
    assert!(status.expect("cp runs").success(), "cannot copy {} to {}", from.display(), to.display());
}

/// The processes whose parent is `parent`.
fn children_of(parent: Pid) -> Vec<Pid> {
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().expect("ps runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    pairs
        .filter(|(_, of)| of.trim() == parent.to_string())
        .filter_map(|(pid, _)| pid.parse().ok().map(Pid::from_raw))
        .collect()
}

pub(crate) fn parse(url: &str) -> DatabaseSettings {
    let config: postgres::Config = url.parse().expect("a database URL");
    let host = match config.get_hosts() {
        [postgres::config::Host::Tcp(host)] => host.clone(),
        other => panic!("TEST_DATABASE_URL must name one TCP host, not {other:?}"),
    };
    let password = config.get_password().map(|text| Secret::new(String::from_utf8_lossy(text).into_owned()));
    DatabaseSettings {
        hosts: vec![(host, config.get_ports().first().copied().unwrap_or(5432))],
        name: config.get_dbname().unwrap_or("postgres").to_owned(),
        user: config.get_user().unwrap_or(SUPERUSER).to_owned(),
        password,
        sslmode: SslMode::Disable,
        sslrootcert: None,
        target_session_attrs: TargetSessionAttrs::Any,
        application_name: "poolhouse".to_owned(),
    }
}

fn defaults(database: DatabaseSettings) -> PoolSettings {
    PoolSettings {
        database,
        min_connections: 2,
        max_connections: 10,
        max_overflow: 0,
        acquire_timeout: Duration::from_secs(5),
        max_waiting: 1000,
        connect_timeout: Duration::from_secs(5),
        statement_timeout: Some(Duration::from_secs(30)),
        idle_timeout: Some(Duration::from_secs(300)),
        max_lifetime: Some(Duration::from_secs(1800)),
        keepalive: None,
        pre_ping: PrePing::Auto,
        validate_after: Duration::from_millis(500),
        leak_threshold: None,
        statement_cache_size: 100,
        outage_grace: Duration::from_secs(2),
    }
}
