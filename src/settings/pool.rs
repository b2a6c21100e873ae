//! How the pool is sized and how long it waits.

use crate::error::{Result, SettingsError};
use crate::settings::database::DatabaseSettings;
use crate::settings::database_url::is_name;
use crate::settings::pool_size;
use crate::settings::reader::{Reader, Said, Source, one_of};
use crate::settings::tier::Tier;
use crate::settings::variables::{
    DATABASE_MAX_OVERFLOW, DATABASE_POOL_PRE_PING, DATABASE_POOL_RECYCLE, DATABASE_POOL_TIMEOUT,
    DATABASE_STATEMENT_TIMEOUT, DB_APPLICATION_NAME, DB_CONNECT_TIMEOUT_S, DB_HOST, DB_NAME,
    DB_PGBOUNCER_MODE, DB_POOL_ACQUIRE_TIMEOUT_S, DB_POOL_IDLE_TIMEOUT_S, DB_POOL_KEEPALIVE_S,
    DB_POOL_LEAK_THRESHOLD_S, DB_POOL_MAX_CONNECTIONS, DB_POOL_MAX_LIFETIME_S, DB_POOL_MAX_WAITING,
    DB_POOL_MIN_CONNECTIONS, DB_POOL_NAME, DB_POOL_OUTAGE_GRACE_S, DB_POOL_PRE_PING,
    DB_POOL_QUEUE_INTERVAL_MS, DB_POOL_QUEUE_TARGET_MS, DB_POOL_VALIDATE_AFTER_MS, DB_PORT, DB_RETRY_READS,
    DB_SSLROOTCERT, DB_START, DB_STATEMENT_CACHE_SIZE, DB_STATEMENT_TIMEOUT_MS, DB_USER, Variable,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// How the pool is sized and how long it waits. [`VARIABLES`](super::VARIABLES) tells the ranges and defaults;
/// [`PoolSettings::validate`] holds values built in code to the same ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// The database the pool connects to.
    pub database: DatabaseSettings,
    /// `DB_POOL_NAME`: the pool's name in errors, log lines and the health report.
    pub name: String,
    /// `DB_START`: whether the pool can be opened without the database.
    pub start: Start,
    /// `DB_POOL_MIN_CONNECTIONS`: connections kept open.
    pub min_connections: u32,
    /// `DB_POOL_MAX_CONNECTIONS`: the most connections open at once, overflow included.
    pub max_connections: u32,
    /// `DATABASE_MAX_OVERFLOW`: how many of `max_connections` are overflow, closed soon after use.
    pub max_overflow: u32,
    /// `DB_POOL_ACQUIRE_TIMEOUT_S`: how long a caller waits for a connection.
    pub acquire_timeout: Duration,
    /// `DB_POOL_MAX_WAITING`: how many callers may wait; the next one is refused at once.
    pub max_waiting: u32,
    /// `DB_CONNECT_TIMEOUT_S`: how long one attempt to connect may take, handshake and login included. One that is
    /// silent for 20 times what connecting usually takes, and for at least 0.5 s, is cut short, because it would
    /// hide that the server is back; the next one gets four times that, and the third all of this timeout.
    pub connect_timeout: Duration,
    /// `DB_STATEMENT_TIMEOUT_MS`: how long a statement may run; `None` is for ever.
    pub statement_timeout: Option<Duration>,
    /// `DB_POOL_IDLE_TIMEOUT_S`: how long a connection above the minimum may stay idle; `None` is for ever. Others
    /// follow one at a time, an eighth of it apart, so that load that comes in pulses finds most of them.
    pub idle_timeout: Option<Duration>,
    /// `DB_POOL_MAX_LIFETIME_S`: how old a connection may become; each gets up to 10 % less, so that they do
    /// not all end together. `None` is any age.
    pub max_lifetime: Option<Duration>,
    /// `DB_POOL_KEEPALIVE_S`: how often an idle connection is checked in the background; `None` is never.
    pub keepalive: Option<Duration>,
    /// `DB_POOL_PRE_PING`: whether a connection is checked before it is lent.
    pub pre_ping: PrePing,
    /// `DB_POOL_VALIDATE_AFTER_MS`: with [`PrePing::Auto`], a connection the server has answered on
    /// within this time is lent unchecked.
    pub validate_after: Duration,
    /// `DB_POOL_LEAK_THRESHOLD_S`: a connection held longer is reported as leaked; `None` reports none.
    pub leak_threshold: Option<Duration>,
    /// `DB_STATEMENT_CACHE_SIZE`: prepared statements kept per connection, or with
    /// [`PgBouncerMode::Transaction`] the types of their parameters; 0 keeps none, and each statement takes two
    /// round trips, with PgBouncer five.
    pub statement_cache_size: usize,
    /// `DB_PGBOUNCER_MODE`: whether a PgBouncer stands before the server, and how it pools.
    pub pgbouncer_mode: PgBouncerMode,
    /// `DB_RETRY_READS`: whether a query that can only read, outside a transaction, is run again on another
    /// connection where its own breaks on the way.
    pub retry_reads: bool,
    /// `DB_POOL_OUTAGE_GRACE_S`: how long an outage is waited out before callers are told *down* at once.
    pub outage_grace: Duration,
    /// `DB_POOL_QUEUE_TARGET_MS`: sheds load by queue delay (controlled delay): once callers have waited longer
    /// than this for a whole `queue_interval`, those who waited longer are refused as *saturated*, until one
    /// is met who did not; `None` sheds none.
    pub queue_target: Option<Duration>,
    /// `DB_POOL_QUEUE_INTERVAL_MS`: how long the delay may be above the target.
    pub queue_interval: Duration,
}

/// What opening a pool does about a database that cannot be used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Opens the pool all the same, without waiting. It connects as soon as that is possible, also where what is
    /// to be mended first is the login; until then callers are told what is the matter.
    Wait,
    /// Fails.
    Fail,
}

impl Start {
    /// Every choice.
    pub const ALL: [Start; 2] = [Start::Wait, Start::Fail];

    /// The name as `DB_START` gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            Start::Wait => "wait",
            Start::Fail => "fail",
        }
    }
}

/// Whether a connection is checked before it is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrePing {
    /// Always: one round trip per acquire.
    On,
    /// Never.
    Off,
    /// Only when the server has not answered on it for a while, or another connection has just broken.
    Auto,
}

impl PrePing {
    /// Every choice.
    pub const ALL: [PrePing; 3] = [PrePing::On, PrePing::Off, PrePing::Auto];

    /// The name as `DB_POOL_PRE_PING` gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            PrePing::On => "on",
            PrePing::Off => "off",
            PrePing::Auto => "auto",
        }
    }
}

/// Whether a PgBouncer stands before the server, and how it pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PgBouncerMode {
    /// There is none, or it gives each connection a server connection of its own (`pool_mode = session`).
    Off,
    /// A server connection for each transaction (`pool_mode = transaction`): nothing lasts from one to the next.
    /// Statements are sent whole each time instead of being prepared by name, and nothing is asked of the
    /// session: no startup option, no `DISCARD ALL`.
    Transaction,
}

impl PgBouncerMode {
    /// Every choice.
    pub const ALL: [PgBouncerMode; 2] = [PgBouncerMode::Off, PgBouncerMode::Transaction];

    /// The name as `DB_PGBOUNCER_MODE` gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            PgBouncerMode::Off => "off",
            PgBouncerMode::Transaction => "transaction",
        }
    }
}

/// What [`PoolSettings::validate`] judges, and the variables by whose rules.
const FIELDS: [(&str, &Variable); 23] = [
    ("database.hosts", &DB_HOST),
    ("database.hosts", &DB_PORT),
    ("database.name", &DB_NAME),
    ("database.user", &DB_USER),
    ("database.sslrootcert", &DB_SSLROOTCERT),
    ("database.application_name", &DB_APPLICATION_NAME),
    ("name", &DB_POOL_NAME),
    ("min_connections", &DB_POOL_MIN_CONNECTIONS),
    ("max_connections", &DB_POOL_MAX_CONNECTIONS),
    ("max_overflow", &DATABASE_MAX_OVERFLOW),
    ("max_waiting", &DB_POOL_MAX_WAITING),
    ("statement_cache_size", &DB_STATEMENT_CACHE_SIZE),
    ("statement_timeout", &DB_STATEMENT_TIMEOUT_MS),
    ("idle_timeout", &DB_POOL_IDLE_TIMEOUT_S),
    ("max_lifetime", &DB_POOL_MAX_LIFETIME_S),
    ("keepalive", &DB_POOL_KEEPALIVE_S),
    ("leak_threshold", &DB_POOL_LEAK_THRESHOLD_S),
    ("queue_target", &DB_POOL_QUEUE_TARGET_MS),
    ("connect_timeout", &DB_CONNECT_TIMEOUT_S),
    ("acquire_timeout", &DB_POOL_ACQUIRE_TIMEOUT_S),
    ("validate_after", &DB_POOL_VALIDATE_AFTER_MS),
    ("outage_grace", &DB_POOL_OUTAGE_GRACE_S),
    ("queue_interval", &DB_POOL_QUEUE_INTERVAL_MS),
];

impl PoolSettings {
    /// Takes the dev tier's defaults for everything but the database.
    pub fn new(database: DatabaseSettings) -> PoolSettings {
        read(&mut Reader::new(Tier::Dev, BTreeMap::new()), database, None)
    }

    /// Checks the ranges that the variables are held to, for settings built in code.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): every field out of range, as `field (VARIABLE)`.
    pub fn validate(&self) -> Result<()> {
        let mut reader = Reader::new(Tier::Dev, BTreeMap::new());
        self.database.check(&mut reader);
        if !is_name(&self.name) {
            let value = if self.name.is_empty() { "not set" } else { &self.name };
            reader.fault(&DB_POOL_NAME, value, DB_POOL_NAME.allowed());
        }
        for (variable, count) in [
            (&DB_POOL_MIN_CONNECTIONS, self.min_connections),
            (&DB_POOL_MAX_CONNECTIONS, self.max_connections),
            (&DB_POOL_MAX_WAITING, self.max_waiting),
            (&DB_STATEMENT_CACHE_SIZE, u32::try_from(self.statement_cache_size).unwrap_or(u32::MAX)),
            (&DATABASE_MAX_OVERFLOW, self.max_overflow),
        ] {
            if !variable.allowed.has_count(count) {
                reader.fault(variable, count.to_string(), variable.allowed());
            }
        }
        for (variable, span) in [
            (&DB_STATEMENT_TIMEOUT_MS, self.statement_timeout),
            (&DB_POOL_IDLE_TIMEOUT_S, self.idle_timeout),
            (&DB_POOL_MAX_LIFETIME_S, self.max_lifetime),
            (&DB_POOL_KEEPALIVE_S, self.keepalive),
            (&DB_POOL_LEAK_THRESHOLD_S, self.leak_threshold),
            (&DB_POOL_QUEUE_TARGET_MS, self.queue_target),
        ] {
            // The variable says never with 0; in code `Some(ZERO)` would read "at once".
            if span.is_some_and(|span| span.is_zero() || !variable.allowed.has_span(span)) {
                let value = span.map(|span| variable.allowed.show_span(span)).unwrap_or_default();
                reader.fault(variable, value, format!("{}, which in code is None", variable.allowed()));
            }
        }
        for (variable, span) in [
            (&DB_CONNECT_TIMEOUT_S, self.connect_timeout),
            (&DB_POOL_ACQUIRE_TIMEOUT_S, self.acquire_timeout),
            (&DB_POOL_VALIDATE_AFTER_MS, self.validate_after),
            (&DB_POOL_OUTAGE_GRACE_S, self.outage_grace),
            (&DB_POOL_QUEUE_INTERVAL_MS, self.queue_interval),
        ] {
            if !variable.allowed.has_span(span) {
                reader.fault(variable, variable.allowed.show_span(span), variable.allowed());
            }
        }
        pool_size::check(&mut reader, self.min_connections, self.max_connections, self.max_overflow);
        let mut problems = reader.finish().1;
        for problem in &mut problems {
            if let Some((field, _)) = FIELDS.iter().find(|(_, variable)| variable.name == problem.variable) {
                problem.variable = format!("{field} ({})", problem.variable);
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems }.into()) }
    }
}

/// Reads the pool's variables. `url_timeout` is what `DATABASE_URL` says about the time to connect.
pub(super) fn read(
    reader: &mut Reader,
    database: DatabaseSettings,
    url_timeout: Option<Said<Duration>>,
) -> PoolSettings {
    let connect_timeout = reader.span_or(&DB_CONNECT_TIMEOUT_S, url_timeout);
    let start = read_start(reader);
    let name = read_name(reader, &database.application_name);
    let (min_connections, max_connections, max_overflow) = pool_size::read(reader);
    let mut never = |variable: &'static Variable, second| {
        Some(reader.span(variable, second)).filter(|span| !span.is_zero())
    };
    PoolSettings {
        database,
        name,
        start,
        min_connections,
        max_connections,
        max_overflow,
        connect_timeout,
        statement_timeout: never(&DB_STATEMENT_TIMEOUT_MS, Some(&DATABASE_STATEMENT_TIMEOUT)),
        idle_timeout: never(&DB_POOL_IDLE_TIMEOUT_S, None),
        max_lifetime: never(&DB_POOL_MAX_LIFETIME_S, Some(&DATABASE_POOL_RECYCLE)),
        keepalive: never(&DB_POOL_KEEPALIVE_S, None),
        leak_threshold: never(&DB_POOL_LEAK_THRESHOLD_S, None),
        queue_target: never(&DB_POOL_QUEUE_TARGET_MS, None),
        acquire_timeout: reader.span(&DB_POOL_ACQUIRE_TIMEOUT_S, Some(&DATABASE_POOL_TIMEOUT)),
        max_waiting: reader.count(&DB_POOL_MAX_WAITING),
        pre_ping: read_pre_ping(reader),
        validate_after: reader.span(&DB_POOL_VALIDATE_AFTER_MS, None),
        statement_cache_size: reader.count(&DB_STATEMENT_CACHE_SIZE) as usize,
        pgbouncer_mode: read_pgbouncer_mode(reader),
        retry_reads: read_retry_reads(reader),
        outage_grace: reader.span(&DB_POOL_OUTAGE_GRACE_S, None),
        queue_interval: reader.span(&DB_POOL_QUEUE_INTERVAL_MS, None),
    }
}

fn read_name(reader: &mut Reader, default: &str) -> String {
    let said = reader.said(&DB_POOL_NAME, |text| is_name(text).then(|| text.to_owned()));
    match reader.settle_unset(&DB_POOL_NAME, [said], String::clone) {
        Some(said) => said.value,
        None => {
            reader.row(&DB_POOL_NAME, default, Source::Default);
            default.to_owned()
        }
    }
}

fn read_start(reader: &mut Reader) -> Start {
    let parse = |text: &str| one_of(&DB_START.allowed, text, &Start::ALL, Start::as_str);
    let said = reader.said(&DB_START, parse);
    reader.settle(&DB_START, [said], parse, |start| start.as_str().to_owned())
}

fn read_retry_reads(reader: &mut Reader) -> bool {
    let parse = |text: &str| DB_RETRY_READS.allowed.word(text).map(|word| word == "on");
    let show = |is_on: &bool| if *is_on { "on".to_owned() } else { "off".to_owned() };
    let said = reader.said(&DB_RETRY_READS, parse);
    reader.settle(&DB_RETRY_READS, [said], parse, show)
}

fn read_pre_ping(reader: &mut Reader) -> PrePing {
    let parse = |text: &str| one_of(&DB_POOL_PRE_PING.allowed, text, &PrePing::ALL, PrePing::as_str);
    let said = reader.said(&DB_POOL_PRE_PING, parse);
    let second =
        reader.said(&DATABASE_POOL_PRE_PING, |text| match DATABASE_POOL_PRE_PING.allowed.word(text) {
            Some("true") => Some(PrePing::On),
            Some(_) => Some(PrePing::Off),
            None => None,
        });
    reader.settle(&DB_POOL_PRE_PING, [said, second], parse, |ping| ping.as_str().to_owned())
}

fn read_pgbouncer_mode(reader: &mut Reader) -> PgBouncerMode {
    let variable = &DB_PGBOUNCER_MODE;
    let parse = |text: &str| one_of(&variable.allowed, text, &PgBouncerMode::ALL, PgBouncerMode::as_str);
    let said = reader.said(variable, parse);
    reader.settle(variable, [said], parse, |mode| mode.as_str().to_owned())
}
