//! Real PgBouncers for tests, each of a test's own: configured by `config/pgbouncer.ini` as it is shipped, but for
//! where it listens and what the test changes.
//!
//! ```ignore
//! let bouncer = PgBouncer::before(&database.settings(), &[("default_pool_size", "3")]);
//! let pool = Pool::open(&bouncer.pool_settings())?;
//! bouncer.kill(); bouncer.start_again();
//! ```

use super::SOON;
use super::server::cluster::{Account, Watchdog, tail};
use super::server::freeze;
use super::server::port_of_its_own;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use poolhouse::PoolSettings;
use poolhouse::settings::{DatabaseSettings, PgBouncerMode};
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What an operator starts from.
const SHIPPED: &str = include_str!("../../config/pgbouncer.ini");

/// A running PgBouncer; gone when dropped, and when the test process ends, whatever it ends by.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    home: PathBuf,
    account: Option<Account>,
    settings: DatabaseSettings,
    process: Mutex<Option<Child>>,
    _watchdog: Watchdog,
}

impl PgBouncer {
    /// Starts one before the server of `settings`, with options as in `pgbouncer.ini`. Each statement goes to
    /// another server connection than the last, as far as there are several, and every login is trusted.
    pub(crate) fn before(settings: &DatabaseSettings, options: &[(&str, &str)]) -> PgBouncer {
        let own = [("server_round_robin", "1"), ("auth_type", "trust")];
        PgBouncer::start(settings, &[&own, options].concat(), &format!("\"{}\" \"\"\n", settings.user))
    }

    /// The same with the logins of `userlist`, by password.
    pub(crate) fn with_logins(settings: &DatabaseSettings, userlist: &str) -> PgBouncer {
        PgBouncer::start(settings, &[], userlist)
    }

    fn start(settings: &DatabaseSettings, options: &[(&str, &str)], userlist: &str) -> PgBouncer {
        let home = tempfile::Builder::new().prefix("poolhouse-test-").tempdir().expect("a directory").keep();
        let watchdog = Watchdog::new(SWEEP, [&home]).expect("a watchdog");
        // It refuses to run as root, as PostgreSQL does.
        let account = Account::for_server(&home).unwrap_or_else(|error| panic!("{error}"));
        // Its user writes the log here.
        fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).expect("permissions");
        let port = port_of_its_own();
        let (host, server_port) = &settings.hosts[0];
        // A section that begins again begins with defaults. The last one is open, and what is set later wins.
        let database = format!("[databases]\n* = host={host} port={server_port}\n");
        let mut file = SHIPPED.replacen("[databases]\n", &database, 1);
        file = file.replacen("port=5432", &format!("port={server_port}"), 1);
        let path = |name: &str| home.join(name).display().to_string();
        let (port_text, log, pid, users) = (port.to_string(), path("log"), path("pid"), path("userlist.txt"));
        let fixed = [
            ("listen_port", port_text.as_str()),
            ("logfile", &log),
            ("pidfile", &pid),
            ("auth_file", &users),
            ("unix_socket_dir", home.to_str().expect("a path in UTF-8")),
        ];
        for (name, value) in fixed.iter().chain(options) {
            file.push_str(&format!("{name} = {value}\n"));
        }
        fs::write(home.join("pgbouncer.ini"), file).expect("pgbouncer.ini");
        fs::write(&users, userlist).expect("userlist.txt");
        let settings = settings.clone().with_hosts([("127.0.0.1", port)]);
        let bouncer = PgBouncer { home, account, settings, process: Mutex::new(None), _watchdog: watchdog };
        bouncer.start_again();
        bouncer
    }

    /// How to reach the database through it.
    pub(crate) fn settings(&self) -> DatabaseSettings {
        self.settings.clone()
    }

    /// The same over its Unix socket.
    pub(crate) fn socket_settings(&self) -> DatabaseSettings {
        let directory = self.home.display().to_string();
        self.settings().with_hosts([(directory, self.settings.hosts[0].1)])
    }

    /// A pool's settings for that, in the mode for it.
    pub(crate) fn pool_settings(&self) -> PoolSettings {
        through(self.settings())
    }

    /// `kill -9`.
    pub(crate) fn kill(&self) {
        self.end(Signal::SIGKILL);
        // Or the next one believes that this one still runs.
        let _ = fs::remove_file(self.home.join("pid"));
    }

    /// Starts it on the same port after it was killed, and waits until it listens.
    pub(crate) fn start_again(&self) {
        let mut process = self.process();
        assert!(process.is_none(), "it runs: kill it first");
        let mut command = Command::new(program());
        command.arg("-q").arg(self.home.join("pgbouncer.ini"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        command.process_group(0);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        let child = process.insert(command.spawn().expect("pgbouncer starts"));
        let deadline = Instant::now() + SOON;
        let port = self.settings.hosts[0].1;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().expect("its status");
            assert!(ended.is_none() && Instant::now() < deadline, "pgbouncer, {ended:?}: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it where it stands: connections stay open, nothing answers.
    pub(crate) fn freeze(&self) {
        freeze(&[self.pid()]);
    }

    /// The end of what it has logged.
    pub(crate) fn log(&self) -> String {
        tail(&self.home.join("log"), 0)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process().as_ref().expect("it runs").id().cast_signed())
    }

    fn end(&self, signal: Signal) {
        let pid = self.pid();
        kill(pid, signal).expect("it gets the signal");
        if let Some(mut child) = self.process().take() {
            child.wait().expect("it ends");
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if self.process().is_some() {
            self.kill();
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// A pool's settings for a database behind PgBouncer.
pub(crate) fn through(database: DatabaseSettings) -> PoolSettings {
    PoolSettings::new(database).with_pgbouncer_mode(PgBouncerMode::Transaction)
}

/// Ends what runs from the directory `$1` and removes it.
const SWEEP: &str = r#"pid=$(cat "$1/pid") && [ -n "$pid" ] && kill -KILL "$pid"; rm -rf "$1""#;

/// Debian keeps it where only root looks.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/usr/local/bin"].map(PathBuf::from);
    let mut found = std::env::split_paths(&path).chain(more).map(|directory| directory.join("pgbouncer"));
    found
        .find(|program| Path::is_file(program))
        .expect("pgbouncer is not installed: run `sh config/install-deps.sh test`")
}
