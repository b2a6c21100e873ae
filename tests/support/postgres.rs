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

use super::server::Postgres;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use poolhouse::PoolSettings;
use poolhouse::settings::DatabaseSettings;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

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
        PoolSettings::new(self.settings())
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

/// A new database on the shared server, as a copy of `template`, which must have no other session.
pub(crate) fn copy_of(template: &Database) -> Database {
    create_database(&SHARED.settings, &mut SHARED.admin(), &template.settings.name, true)
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
    let (user, name, sslmode) = (encoded(&settings.user), encoded(&settings.name), settings.sslmode.as_str());
    format!("postgres://{user}{password}@{}/{name}?sslmode={sslmode}", hosts.join(","))
}

/// Settings from a URL; panics when it is none.
pub(crate) fn parse(url: &str) -> DatabaseSettings {
    DatabaseSettings::parse(url).unwrap_or_else(|error| panic!("{error}"))
}

/// A plain client for `settings`; panics when there is none to be had.
pub(crate) fn connect(settings: &DatabaseSettings) -> postgres::Client {
    let config = settings.driver_config();
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
                static SERVER: LazyLock<Postgres> =
                    LazyLock::new(|| Postgres::start_with(&[("max_connections", "300")]));
                let settings = SERVER.database_settings();
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
        create_database(&self.settings, &mut self.admin(), "template0", true)
    }

    /// For callers that keep only a client or settings: it stays until the server goes, or until the next
    /// run cleans up.
    fn forgotten_database(&self) -> Database {
        create_database(&self.settings, &mut self.admin(), "template0", false)
    }
}

/// `test_<process>_<number>`, so that two test binaries on one server keep apart.
pub(crate) fn create_database(
    server: &DatabaseSettings,
    admin: &mut postgres::Client,
    template: &str,
    is_dropped_at_end: bool,
) -> Database {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).expect("a fresh database");
    Database { settings: server.clone().with_name(name), is_dropped_at_end }
}

/// What earlier test processes have left on a server that is not ours.
fn drop_abandoned_databases(admin: &mut postgres::Client) {
    let abandoned = "SELECT datname, split_part(datname, '_', 2)::integer FROM pg_database \
                     WHERE datname ~ '^test_[0-9]{1,9}_[0-9]+$'";
    for row in admin.query(abandoned, &[]).expect("the list of databases") {
        let (name, process): (String, i32) = (row.get(0), row.get(1));
        if kill(Pid::from_raw(process), None) == Err(Errno::ESRCH) {
            // Another test process may be doing the same.
            let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        }
    }
}
