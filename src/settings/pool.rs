//! The pool's settings: the fields, their checks, and how they are read from the variables.
//!
//! A new setting is a row in `variables`, a field of [`PoolSettings`] and its use. Every list of fields below is complete by
//! construction: until it reads, checks and sets the new field, this file does not compile. A test compares the checks with
//! the ranges of the table.

use crate::error::{Result, SettingsError};
use crate::settings::database::DatabaseSettings;
use crate::settings::database_url::is_name;
use crate::settings::modes::{PgBouncerMode, PrePing, ShareRoundTrips, Start};
use crate::settings::pool_size;
use crate::settings::reader::{Parsed, Reader, Source};
use crate::settings::tier::Tier;
use crate::settings::variables::{
    DATABASE_MAX_OVERFLOW, DATABASE_POOL_PRE_PING, DATABASE_POOL_RECYCLE, DATABASE_POOL_TIMEOUT,
    DATABASE_STATEMENT_TIMEOUT, DB_CONNECT_TIMEOUT_S, DB_MAX_REPLY_BYTES, DB_PGBOUNCER_MODE,
    DB_POOL_ACQUIRE_TIMEOUT_S, DB_POOL_IDLE_TIMEOUT_S, DB_POOL_KEEPALIVE_S, DB_POOL_LEAK_THRESHOLD_S,
    DB_POOL_MAX_CONNECTIONS, DB_POOL_MAX_LIFETIME_S, DB_POOL_MAX_WAITING, DB_POOL_MIN_CONNECTIONS,
    DB_POOL_NAME, DB_POOL_OUTAGE_GRACE_S, DB_POOL_PRE_PING, DB_POOL_QUEUE_INTERVAL_MS,
    DB_POOL_QUEUE_TARGET_MS, DB_POOL_SHARE_ROUND_TRIPS, DB_POOL_VALIDATE_AFTER_MS, DB_RETRY_READS,
    DB_SLOW_ACQUIRE_MS, DB_SLOW_STATEMENT_MS, DB_START, DB_STATEMENT_CACHE_SIZE, DB_STATEMENT_TIMEOUT_MS,
    Variable,
};
use crate::settings::with_methods::with_methods;
use std::collections::BTreeMap;
use std::time::Duration;

/// How the pool is sized, how long it waits, and how it treats its connections. [`VARIABLES`](super::VARIABLES) lists the
/// ranges and defaults; [`PoolSettings::validate`] checks values built in code against the same ranges.
///
/// # Examples
///
/// ```
/// use poolhouse::{DatabaseSettings, PoolSettings};
/// use std::time::Duration;
///
/// let database: DatabaseSettings = "postgres://app@localhost/movies".parse()?;
/// let settings = PoolSettings::new(database)
///     .with_max_connections(30)
///     .with_acquire_timeout(Duration::from_secs(2))
///     .with_statement_timeout(None);
/// settings.validate()?;
/// # Ok::<(), poolhouse::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    /// `DB_POOL_MAX_WAITING`: how many callers may wait; further callers fail immediately.
    pub max_waiting: u32,
    /// `DB_CONNECT_TIMEOUT_S`: how long one attempt to connect may take, handshake and login included. An attempt
    /// without any reply for 20 times the usual connect time, and for at least 0.5 s, is aborted, because it would
    /// delay noticing that the server is back; the next attempt gets four times as long, and the third this whole timeout.
    pub connect_timeout: Duration,
    /// `DB_STATEMENT_TIMEOUT_MS`: how long a statement may run; `None` is without limit.
    pub statement_timeout: Option<Duration>,
    /// `DB_POOL_IDLE_TIMEOUT_S`: how long a connection above the minimum may stay idle; `None` is without
    /// limit. Further idle connections are closed one at a time, an eighth of this time apart, so that the next burst of
    /// load finds most of them open.
    pub idle_timeout: Option<Duration>,
    /// `DB_POOL_MAX_LIFETIME_S`: the greatest age of a connection; each connection's is shortened at random by up to
    /// 10 %, so that they do not all end together. `None` is without limit.
    pub max_lifetime: Option<Duration>,
    /// `DB_POOL_KEEPALIVE_S`: how often an idle connection is checked in the background; `None` is never.
    pub keepalive: Option<Duration>,
    /// `DB_POOL_PRE_PING`: whether a connection is checked before it is lent.
    pub pre_ping: PrePing,
    /// `DB_POOL_VALIDATE_AFTER_MS`: with [`PrePing::Auto`], a connection on which the server has answered
    /// within this time is lent unchecked.
    pub validate_after: Duration,
    /// `DB_POOL_LEAK_THRESHOLD_S`: a connection held longer is reported as leaked; `None` reports none.
    pub leak_threshold: Option<Duration>,
    /// `DB_SLOW_STATEMENT_MS`: a statement of a helper that takes this long is logged; `None` logs none. One line a second at most, which
    /// counts the others.
    pub slow_statement: Option<Duration>,
    /// `DB_SLOW_ACQUIRE_MS`: a caller that waits this long for a connection is logged likewise.
    pub slow_acquire: Option<Duration>,
    /// `DB_STATEMENT_CACHE_SIZE`: prepared statements kept per connection. 0 keeps none: the server then parses each
    /// statement every time it runs, as it does with [`PgBouncerMode::Transaction`].
    pub statement_cache_size: usize,
    /// `DB_MAX_REPLY_BYTES`: the largest reply to one statement of a helper. A larger one is not read to its end: the
    /// connection is closed.
    pub max_reply_bytes: usize,
    /// `DB_PGBOUNCER_MODE`: whether there is a PgBouncer in front of the server, and how it pools.
    pub pgbouncer_mode: PgBouncerMode,
    /// `DB_RETRY_READS`: whether a query that can only read, outside a transaction, is run again on another
    /// connection if its own breaks.
    pub retry_reads: bool,
    /// `DB_POOL_SHARE_ROUND_TRIPS`: which statements of callers that wait for a connection are sent together with that of
    /// the caller who gets one. Only quick single statements of the helpers are, those whose recent calls took less than a
    /// millisecond on average.
    pub share_round_trips: ShareRoundTrips,
    /// `DB_POOL_OUTAGE_GRACE_S`: how long callers wait during an outage before they fail immediately with *down*.
    pub outage_grace: Duration,
    /// `DB_POOL_QUEUE_TARGET_MS`: the acceptable queue delay (controlled delay, CoDel). Once callers have waited longer
    /// than this for a whole `queue_interval`, those that have waited longer fail with *saturated*, until the next caller
    /// that has not. `None` disables this.
    pub queue_target: Option<Duration>,
    /// `DB_POOL_QUEUE_INTERVAL_MS`: how long the queue delay may exceed `queue_target`.
    pub queue_interval: Duration,
}

with_methods! {
    PoolSettings {
        with_database(database: DatabaseSettings),
        with_start(start: Start),
        with_min_connections(min_connections: u32),
        with_max_connections(max_connections: u32),
        with_max_overflow(max_overflow: u32),
        with_acquire_timeout(acquire_timeout: Duration),
        with_max_waiting(max_waiting: u32),
        with_connect_timeout(connect_timeout: Duration),
        with_statement_timeout(statement_timeout: Option<Duration>),
        with_idle_timeout(idle_timeout: Option<Duration>),
        with_max_lifetime(max_lifetime: Option<Duration>),
        with_keepalive(keepalive: Option<Duration>),
        with_pre_ping(pre_ping: PrePing),
        with_validate_after(validate_after: Duration),
        with_leak_threshold(leak_threshold: Option<Duration>),
        with_slow_statement(slow_statement: Option<Duration>),
        with_slow_acquire(slow_acquire: Option<Duration>),
        with_statement_cache_size(statement_cache_size: usize),
        with_max_reply_bytes(max_reply_bytes: usize),
        with_pgbouncer_mode(pgbouncer_mode: PgBouncerMode),
        with_retry_reads(retry_reads: bool),
        with_share_round_trips(share_round_trips: ShareRoundTrips),
        with_outage_grace(outage_grace: Duration),
        with_queue_target(queue_target: Option<Duration>),
        with_queue_interval(queue_interval: Duration),
    } except { name }
}

impl PoolSettings {
    /// Returns settings for this database with the dev tier's defaults for everything else.
    pub fn new(database: DatabaseSettings) -> PoolSettings {
        read(&mut Reader::new(Tier::Dev, BTreeMap::new()), database, None)
    }

    /// Sets [`name`](PoolSettings::name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> PoolSettings {
        self.name = name.into();
        self
    }

    /// Checks every field against the range of its variable.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): every field out of range, as `field (VARIABLE)`.
    pub fn validate(&self) -> Result<()> {
        // Without `..`, so that a new field does not compile before it is checked, or listed as one without a range.
        let PoolSettings {
            database,
            name,
            start: _,
            min_connections,
            max_connections,
            max_overflow,
            acquire_timeout,
            max_waiting,
            connect_timeout,
            statement_timeout,
            idle_timeout,
            max_lifetime,
            keepalive,
            pre_ping: _,
            validate_after,
            leak_threshold,
            slow_statement,
            slow_acquire,
            statement_cache_size,
            max_reply_bytes,
            pgbouncer_mode: _,
            retry_reads: _,
            share_round_trips: _,
            outage_grace,
            queue_target,
            queue_interval,
        } = self;
        let mut check = Check::new();
        check.database(database);
        check.name("name", &DB_POOL_NAME, name);
        check.count("min_connections", &DB_POOL_MIN_CONNECTIONS, *min_connections);
        check.count("max_connections", &DB_POOL_MAX_CONNECTIONS, *max_connections);
        check.count("max_overflow", &DATABASE_MAX_OVERFLOW, *max_overflow);
        check.duration("acquire_timeout", &DB_POOL_ACQUIRE_TIMEOUT_S, *acquire_timeout);
        check.count("max_waiting", &DB_POOL_MAX_WAITING, *max_waiting);
        check.duration("connect_timeout", &DB_CONNECT_TIMEOUT_S, *connect_timeout);
        check.optional_duration("statement_timeout", &DB_STATEMENT_TIMEOUT_MS, *statement_timeout);
        check.optional_duration("idle_timeout", &DB_POOL_IDLE_TIMEOUT_S, *idle_timeout);
        check.optional_duration("max_lifetime", &DB_POOL_MAX_LIFETIME_S, *max_lifetime);
        check.optional_duration("keepalive", &DB_POOL_KEEPALIVE_S, *keepalive);
        check.duration("validate_after", &DB_POOL_VALIDATE_AFTER_MS, *validate_after);
        check.optional_duration("leak_threshold", &DB_POOL_LEAK_THRESHOLD_S, *leak_threshold);
        check.optional_duration("slow_statement", &DB_SLOW_STATEMENT_MS, *slow_statement);
        check.optional_duration("slow_acquire", &DB_SLOW_ACQUIRE_MS, *slow_acquire);
        let cache_size = u32::try_from(*statement_cache_size).unwrap_or(u32::MAX);
        check.count("statement_cache_size", &DB_STATEMENT_CACHE_SIZE, cache_size);
        let max_reply = u32::try_from(*max_reply_bytes).unwrap_or(u32::MAX);
        check.count("max_reply_bytes", &DB_MAX_REPLY_BYTES, max_reply);
        check.duration("outage_grace", &DB_POOL_OUTAGE_GRACE_S, *outage_grace);
        check.optional_duration("queue_target", &DB_POOL_QUEUE_TARGET_MS, *queue_target);
        check.duration("queue_interval", &DB_POOL_QUEUE_INTERVAL_MS, *queue_interval);
        pool_size::check(&mut check.reader, *min_connections, *max_connections, *max_overflow);
        check.finish()
    }
}

/// Checks fields against the ranges of their variables, and names the field in each problem.
struct Check {
    reader: Reader,
    /// The field of each variable.
    fields: BTreeMap<&'static str, &'static str>,
}

impl Check {
    fn new() -> Check {
        Check { reader: Reader::new(Tier::Dev, BTreeMap::new()), fields: BTreeMap::new() }
    }

    fn database(&mut self, database: &DatabaseSettings) {
        self.fields.extend(DatabaseSettings::FIELDS);
        database.check(&mut self.reader);
    }

    fn name(&mut self, field: &'static str, variable: &'static Variable, name: &str) {
        self.fields.insert(variable.name, field);
        if !is_name(name) {
            let value = if name.is_empty() { "not set" } else { name };
            self.reader.report(variable, value, variable.allowed());
        }
    }

    fn count(&mut self, field: &'static str, variable: &'static Variable, count: u32) {
        self.fields.insert(variable.name, field);
        if !variable.allowed.has_count(count) {
            self.reader.report(variable, count.to_string(), variable.allowed());
        }
    }

    fn duration(&mut self, field: &'static str, variable: &'static Variable, duration: Duration) {
        self.fields.insert(variable.name, field);
        if !variable.allowed.has_duration(duration) {
            self.reader.report(variable, variable.allowed.show_duration(duration), variable.allowed());
        }
    }

    /// The variable writes *never* as 0. In code that is `None`; `Some(Duration::ZERO)` would read as *immediately*.
    fn optional_duration(
        &mut self,
        field: &'static str,
        variable: &'static Variable,
        duration: Option<Duration>,
    ) {
        self.fields.insert(variable.name, field);
        let Some(duration) = duration else { return };
        if duration.is_zero() || !variable.allowed.has_duration(duration) {
            let allowed = format!("{}, which in code is None", variable.allowed());
            self.reader.report(variable, variable.allowed.show_duration(duration), allowed);
        }
    }

    fn finish(self) -> Result<()> {
        let mut problems = self.reader.finish().1;
        for problem in &mut problems {
            if let Some(field) = self.fields.get(problem.variable.as_str()) {
                problem.variable = format!("{field} ({})", problem.variable);
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems }.into()) }
    }
}

/// Reads the pool's variables. `url_timeout` is the connect timeout in `DATABASE_URL`.
pub(super) fn read(
    reader: &mut Reader,
    database: DatabaseSettings,
    url_timeout: Option<Parsed<Duration>>,
) -> PoolSettings {
    let name = read_name(reader, &database.application_name);
    let (min_connections, max_connections, max_overflow) = pool_size::read(reader);
    PoolSettings {
        database,
        name,
        start: reader.word(&DB_START),
        min_connections,
        max_connections,
        max_overflow,
        acquire_timeout: reader.duration(&DB_POOL_ACQUIRE_TIMEOUT_S, Some(&DATABASE_POOL_TIMEOUT)),
        max_waiting: reader.count(&DB_POOL_MAX_WAITING),
        connect_timeout: reader.duration_or(&DB_CONNECT_TIMEOUT_S, url_timeout),
        statement_timeout: reader
            .optional_duration(&DB_STATEMENT_TIMEOUT_MS, Some(&DATABASE_STATEMENT_TIMEOUT)),
        idle_timeout: reader.optional_duration(&DB_POOL_IDLE_TIMEOUT_S, None),
        max_lifetime: reader.optional_duration(&DB_POOL_MAX_LIFETIME_S, Some(&DATABASE_POOL_RECYCLE)),
        keepalive: reader.optional_duration(&DB_POOL_KEEPALIVE_S, None),
        pre_ping: read_pre_ping(reader),
        validate_after: reader.duration(&DB_POOL_VALIDATE_AFTER_MS, None),
        leak_threshold: reader.optional_duration(&DB_POOL_LEAK_THRESHOLD_S, None),
        slow_statement: reader.optional_duration(&DB_SLOW_STATEMENT_MS, None),
        slow_acquire: reader.optional_duration(&DB_SLOW_ACQUIRE_MS, None),
        statement_cache_size: reader.count(&DB_STATEMENT_CACHE_SIZE) as usize,
        max_reply_bytes: reader.count(&DB_MAX_REPLY_BYTES) as usize,
        pgbouncer_mode: reader.word(&DB_PGBOUNCER_MODE),
        retry_reads: reader.switch(&DB_RETRY_READS),
        share_round_trips: reader.word(&DB_POOL_SHARE_ROUND_TRIPS),
        outage_grace: reader.duration(&DB_POOL_OUTAGE_GRACE_S, None),
        queue_target: reader.optional_duration(&DB_POOL_QUEUE_TARGET_MS, None),
        queue_interval: reader.duration(&DB_POOL_QUEUE_INTERVAL_MS, None),
    }
}

fn read_name(reader: &mut Reader, default: &str) -> String {
    let own = reader.parse(&DB_POOL_NAME, |text| is_name(text).then(|| text.to_owned()));
    match reader.resolve_optional(&DB_POOL_NAME, [own], String::clone) {
        Some(winner) => winner.value,
        None => {
            reader.set_effective(&DB_POOL_NAME, default, Source::Default);
            default.to_owned()
        }
    }
}

fn read_pre_ping(reader: &mut Reader) -> PrePing {
    let second = &DATABASE_POOL_PRE_PING;
    let second = reader.parse(second, |text| match second.allowed.word(text)? {
        "true" => Some(PrePing::On),
        _ => Some(PrePing::Off),
    });
    reader.word_or(&DB_POOL_PRE_PING, second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::settings::variables::{Allowed, VARIABLES};

    #[test]
    fn every_range_of_the_table_is_checked_for_settings_built_in_code() {
        let long = Duration::MAX;
        let database = DatabaseSettings::parse("postgres://app@localhost/movies").unwrap();
        // Every field with a range is out of it.
        let settings = PoolSettings {
            name: String::new(),
            min_connections: u32::MAX,
            max_connections: u32::MAX,
            max_overflow: u32::MAX,
            acquire_timeout: long,
            max_waiting: u32::MAX,
            connect_timeout: long,
            statement_timeout: Some(long),
            idle_timeout: Some(long),
            max_lifetime: Some(long),
            keepalive: Some(long),
            validate_after: long,
            leak_threshold: Some(long),
            slow_statement: Some(long),
            slow_acquire: Some(long),
            statement_cache_size: usize::MAX,
            max_reply_bytes: 0,
            outage_grace: long,
            queue_target: Some(long),
            queue_interval: long,
            ..PoolSettings::new(database)
        };
        let Err(Error::Settings(error)) = settings.validate() else { panic!("validate accepts all of it") };
        for variable in VARIABLES {
            let is_second_spelling =
                variable.name.starts_with("DATABASE_") && variable.name != DATABASE_MAX_OVERFLOW.name;
            let has_range = matches!(variable.allowed, Allowed::Count { .. } | Allowed::Duration { .. });
            let is_of_pool = !["HTTP_", "DOCUMENT_"].iter().any(|prefix| variable.name.starts_with(prefix));
            if has_range && !is_second_spelling && is_of_pool {
                let label = format!(" ({})", variable.name);
                assert!(
                    error.problems.iter().any(|problem| problem.variable.ends_with(&label)),
                    "PoolSettings::validate does not check {}",
                    variable.name
                );
            }
        }
    }
}
