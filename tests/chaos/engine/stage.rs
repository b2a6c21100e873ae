//! Where it happens: a primary, a standby where there can be one, a proxy before each, and two pools. One pool
//! goes through the proxies and meets their faults too; the other goes straight to the servers.

use super::ledger::{ACCOUNTS, BALANCE, TABLES};
use crate::support::postgres::{self, GUEST, GUEST_PASSWORD};
use crate::support::{Postgres, Proxy, SOON, eventually};
use poolhouse::settings::{Secret, ShareRoundTrips, TargetSessionAttrs};
use poolhouse::{Pool, PoolSettings};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// The pools' deadlines. Each is short, so that what is lost without a word is given up within the second in
/// which a pool has to be well again.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_millis(600);
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Longer than a fast restart takes, as is the outage grace.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the fast restart of a server on a busy machine may take to be waited out.
const OUTAGE_GRACE: Duration = Duration::from_secs(2);

/// How large each pool may become: fewer than the threads that use it.
pub(crate) const MOST_CONNECTIONS: u32 = 6;

/// The servers' settings.
const OPTIONS: &[(&str, &str)] = &[
    // Few enough that an intruder can take them all.
    ("max_connections", "40"),
    // The standby comes back soon, and finds what it has missed.
    ("wal_retrieve_retry_interval", "50ms"),
    ("wal_keep_size", "512MB"),
];

/// The application name of the pools' sessions, and of no others.
pub(crate) const APPLICATION: &str = "ledger";

/// A server and the proxy before it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) server: Postgres,
    pub(crate) proxy: Proxy,
}

impl Node {
    fn new(server: Postgres) -> Node {
        let proxy = Proxy::to(&server.database_settings());
        Node { server, proxy }
    }
}

/// The servers and proxies.
#[derive(Debug)]
pub(crate) struct Stage {
    nodes: Vec<Node>,
    primary: AtomicUsize,
    leniency: Duration,
}

impl Stage {
    /// Starts everything, with the ledger's tables; with a standby where one is asked for and possible. `leniency` is what a
    /// login may take longer than usual.
    pub(crate) fn set(with_standby: bool, leniency: Duration) -> Stage {
        let primary = Node::new(Postgres::start_with(OPTIONS));
        let mut client = primary.server.client();
        client.batch_execute(TABLES).expect("the tables");
        let accounts = "INSERT INTO accounts SELECT id, $1 FROM generate_series(1, $2) id";
        client.execute(accounts, &[&BALANCE, &ACCOUNTS]).expect("the accounts");
        let standby = if with_standby { primary.server.standby().map(Node::new) } else { None };
        Stage {
            nodes: [Some(primary), standby].into_iter().flatten().collect(),
            primary: AtomicUsize::new(0),
            leniency,
        }
    }

    pub(crate) fn has_standby(&self) -> bool {
        self.nodes.len() > 1
    }

    /// The server that takes writes.
    pub(crate) fn primary(&self) -> &Postgres {
        &self.nodes[self.primary.load(Ordering::SeqCst)].server
    }

    /// The other one.
    pub(crate) fn standby(&self) -> &Postgres {
        &self.nodes[1 - self.primary.load(Ordering::SeqCst)].server
    }

    /// The standby is the primary from now on.
    pub(crate) fn swap(&self) {
        self.primary.fetch_xor(1, Ordering::SeqCst);
    }

    /// Does something to every proxy.
    pub(crate) fn proxies(&self, act: impl Fn(&Proxy)) {
        self.nodes.iter().for_each(|node| act(&node.proxy));
    }

    /// The pools, opened; both with few connections, and otherwise as different as may be.
    pub(crate) fn open_pools(&self) -> [Pool; 2] {
        let straight = self.nodes.iter().map(|node| node.server.port());
        let proxied = self.nodes.iter().map(|node| node.proxy.port());
        let mut straight = self.settings(straight.collect());
        straight.max_lifetime = Some(Duration::from_secs(20));
        straight.idle_timeout = Some(Duration::from_secs(1));
        straight.share_round_trips = ShareRoundTrips::All;
        let mut proxied = self.settings(proxied.collect());
        // Less than there are different statements.
        proxied.statement_cache_size = 4;
        proxied.keepalive = Some(300 * MS);
        [straight, proxied].map(|settings| open(&settings))
    }

    fn settings(&self, ports: Vec<u16>) -> PoolSettings {
        let url =
            format!("postgres://{GUEST}@127.0.0.1/postgres?sslmode=disable&application_name={APPLICATION}");
        // A role that can be shut out: it needs a password, and has none of the superuser's reserved places.
        let mut database = postgres::parse(&url);
        database.password = Some(Secret::new(GUEST_PASSWORD));
        database.hosts = ports.into_iter().map(|port| ("127.0.0.1".to_owned(), port)).collect();
        if self.has_standby() {
            database.target_session_attrs = TargetSessionAttrs::ReadWrite;
        }
        let mut settings = PoolSettings::new(database);
        (settings.min_connections, settings.max_connections) = (2, MOST_CONNECTIONS);
        settings.connect_timeout = CONNECT_TIMEOUT + self.leniency;
        settings.acquire_timeout = ACQUIRE_TIMEOUT;
        settings.statement_timeout = Some(STATEMENT_TIMEOUT);
        settings.outage_grace = OUTAGE_GRACE;
        settings
    }
}

/// A pool; a machine that has just started its server may need more than one attempt.
fn open(settings: &PoolSettings) -> Pool {
    let mut pool = None;
    eventually("a pool is opened", SOON, || {
        pool = Pool::open(settings).ok();
        pool.is_some()
    });
    pool.expect("it is opened")
}
