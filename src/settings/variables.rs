//! The table of variables: name, default, allowed values, meaning. Parsing, range checks, error messages and the table in
//! `docs/settings.md` all follow it; no other file holds a default or a range.
//!
//! A new setting is a row here and a field of `PoolSettings` or `HttpSettings`, with the lines beside that field that the
//! compiler then asks for.

use crate::settings::modes::{
    LogFormat, PgBouncerMode, PrePing, ShareRoundTrips, SslMode, Start, TargetSessionAttrs,
};
use crate::settings::tier::Tier;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One variable that [`Settings`](super::Settings) reads.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Variable {
    /// Its name in the environment and in `.env` files.
    pub name: &'static str,
    /// What it sets, in one sentence.
    pub meaning: &'static str,
    pub(super) default: DefaultValue,
    pub(super) allowed: Allowed,
}

impl Variable {
    /// Returns the default as text for people: empty if there is none, `dev 2, preprod 5, production 8` if it depends on
    /// the tier.
    pub fn default(&self) -> String {
        match self.default {
            DefaultValue::Unset => String::new(),
            DefaultValue::Same(text) | DefaultValue::Computed(text) => text.to_owned(),
            DefaultValue::ByTier([dev, preprod, production]) => {
                format!("dev {dev}, preprod {preprod}, production {production}")
            }
        }
    }

    /// Returns the range with its unit, or the accepted values, as error messages show them.
    pub fn allowed(&self) -> String {
        self.allowed.to_string()
    }

    /// The text of the default in one tier; empty if the table has none.
    pub(super) fn default_in(&self, tier: Tier) -> &'static str {
        match self.default {
            DefaultValue::Unset | DefaultValue::Computed(_) => "",
            DefaultValue::Same(text) => text,
            DefaultValue::ByTier([dev, preprod, production]) => match tier {
                Tier::Dev => dev,
                Tier::Preprod => preprod,
                Tier::Production => production,
            },
        }
    }

    /// Parses one of the words, in any case, into the type that stands for them.
    pub(super) fn word<T: FromStr>(&self, text: &str) -> Option<T> {
        self.allowed.word(text)?.parse().ok()
    }
}

/// The value of a variable that is not set.
#[derive(Debug, Clone, Copy)]
pub(super) enum DefaultValue {
    Unset,
    /// The same in every tier.
    Same(&'static str),
    /// In the order dev, preprod, production.
    ByTier([&'static str; 3]),
    /// Computed when the settings are read; the text describes how.
    Computed(&'static str),
}

/// The values that a variable accepts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Allowed {
    /// A whole number.
    Count { min: u32, max: u32 },
    /// A duration in the unit of the variable's name. `zero` is the text that stands for [`Duration::ZERO`] although it
    /// is outside the range, and its meaning.
    Duration { unit: Unit, min: Duration, max: Duration, zero: Option<(&'static str, &'static str)> },
    /// One of these words, in any case.
    Words(&'static [&'static str]),
    /// Text that the reader of the variable checks by itself; this describes it.
    Text(&'static str),
}

/// The unit of a duration, which is the suffix of the variable's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
}

impl Allowed {
    /// Parses a whole number within the range.
    pub(super) fn count(&self, text: &str) -> Option<u32> {
        let number = digits(text)?.parse().ok()?;
        self.has_count(number).then_some(number)
    }

    /// Whether a whole number is within the range.
    pub(super) fn has_count(&self, number: u32) -> bool {
        matches!(self, Allowed::Count { min, max } if (*min..=*max).contains(&number))
    }

    /// Parses a duration within the range; [`Duration::ZERO`] for the text of `zero`.
    pub(super) fn duration(&self, text: &str) -> Option<Duration> {
        let Allowed::Duration { unit, zero, .. } = self else { return None };
        if zero.is_some_and(|(special, _)| special == text) {
            return Some(Duration::ZERO);
        }
        let duration = match unit {
            Unit::Milliseconds => Duration::from_millis(digits(text)?.parse().ok()?),
            Unit::Seconds => {
                let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
                digits(whole)?;
                digits(fraction)?;
                Duration::try_from_secs_f64(text.parse().ok()?).ok()?
            }
        };
        self.has_duration(duration).then_some(duration)
    }

    /// Whether a duration is within the range, or is the zero that the variable writes as `0`.
    pub(super) fn has_duration(&self, duration: Duration) -> bool {
        match self {
            Allowed::Duration { min, max, zero, .. } => {
                let is_special_zero = duration.is_zero() && zero.is_some_and(|(text, _)| text == "0");
                (*min..=*max).contains(&duration) || is_special_zero
            }
            _ => false,
        }
    }

    /// The word of the table that equals `text` in any case.
    pub(super) fn word(&self, text: &str) -> Option<&'static str> {
        let Allowed::Words(words) = self else { return None };
        words.iter().copied().find(|word| word.eq_ignore_ascii_case(text))
    }

    /// Formats a duration in the variable's unit.
    pub(super) fn show_duration(&self, duration: Duration) -> String {
        match self {
            // The usual way to write "without limit" in code.
            _ if duration == Duration::MAX => "unlimited (Duration::MAX)".to_owned(),
            Allowed::Duration { unit: Unit::Milliseconds, .. } => {
                (duration.as_secs_f64() * 1000.0).to_string()
            }
            _ => duration.as_secs_f64().to_string(),
        }
    }
}

/// The text, if it consists of ASCII digits only. Rust's own parsers also accept `+5`, `1e3` and `inf`.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Count { min, max } => write!(f, "a whole number from {min} to {max}"),
            Allowed::Duration { unit, min, max, zero } => {
                let unit = match unit {
                    Unit::Seconds => "seconds",
                    Unit::Milliseconds => "whole milliseconds",
                };
                write!(f, "{} to {} {unit}", self.show_duration(*min), self.show_duration(*max))?;
                match zero {
                    Some((text, meaning)) => write!(f, ", or {text} for {meaning}"),
                    None => Ok(()),
                }
            }
            Allowed::Words(words) => f.write_str(&words.join(", ")),
            Allowed::Text(text) => f.write_str(text),
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const MS: Duration = Duration::from_millis(1);
const NEVER: Option<(&str, &str)> = Some(("0", "never"));

const fn seconds(min: Duration, max: Duration, zero: Option<(&'static str, &'static str)>) -> Allowed {
    Allowed::Duration { unit: Unit::Seconds, min, max, zero }
}

const fn milliseconds(min: Duration, max: Duration, zero: Option<(&'static str, &'static str)>) -> Allowed {
    Allowed::Duration { unit: Unit::Milliseconds, min, max, zero }
}

const CONNECTIONS: Allowed = Allowed::Count { min: 1, max: 1000 };
const NAME: Allowed = Allowed::Text("1 to 63 bytes without control characters");
/// The range of PostgreSQL's own `statement_timeout`: milliseconds in a 32-bit integer.
const STATEMENT_TIMEOUT: Allowed = milliseconds(MS, Duration::from_millis(i32::MAX as u64), NEVER);

macro_rules! variables {
    ($($name:ident = $default:expr, $allowed:expr, $meaning:literal;)*) => {
        $(
            pub(super) const $name: Variable = Variable {
                name: stringify!($name), meaning: $meaning, default: $default, allowed: $allowed,
            };
        )*

        /// Every variable, in the order in which problems and effective values are listed.
        pub const VARIABLES: &[Variable] = &[$($name),*];
    };
}

use DefaultValue::{ByTier, Computed, Same, Unset};

variables! {
    APP_ENV = Same("dev"), Allowed::Words(Tier::WORDS),
        "The tier; selects `.env.dev`, `.env.preprod` or `.env.production`.";
    DATABASE_URL = Unset,
        Allowed::Text("postgres://user:password@host:port/database, several hosts separated by commas, special \
            characters as %XX; parameters: sslmode, sslrootcert, target_session_attrs, application_name, \
            connect_timeout"),
        "The database in one line; may be completed, but not contradicted, by the `DB_*` variables.";
    DB_HOST = Unset,
        Allowed::Text("a host name, an IP address or the directory of a Unix socket; several separated by commas"),
        "The server; of several hosts, the first acceptable one is used.";
    DB_PORT = Same("5432"), Allowed::Text("1 to 65535; one for all hosts, or as many as hosts"), "The server's port.";
    DB_NAME = Unset, NAME, "The database.";
    DB_USER = Unset, NAME, "The user to log in as.";
    DB_PASSWORD = Unset,
        Allowed::Text("text without control characters; production refuses placeholders"),
        "The user's password.";
    DB_SSLMODE = Same("prefer"), Allowed::Words(SslMode::WORDS),
        "Encryption of the connection, as in libpq; production refuses `disable` to another machine.";
    DB_SSLROOTCERT = Unset, Allowed::Text("an existing PEM file"),
        "The certificate authorities to trust; `verify-ca` and `verify-full` need it.";
    DB_TARGET_SESSION_ATTRS = Same("any"), Allowed::Words(TargetSessionAttrs::WORDS),
        "Which of several servers is acceptable.";
    DB_APPLICATION_NAME = Same("poolhouse"), NAME, "What `pg_stat_activity` shows.";
    DB_CONNECT_TIMEOUT_S = Same("5"), seconds(MS, HOUR, None),
        "How long one attempt to connect may take, handshake and login included.";
    DB_START = ByTier(["fail", "wait", "wait"]), Allowed::Words(Start::WORDS),
        "What happens if the database cannot be used at start: `wait` serves, answers *down* and connects as \
            soon as possible; `fail` exits.";
    DB_POOL_NAME = Computed("the value of `DB_APPLICATION_NAME`"), NAME,
        "The pool's name in errors, log lines and the health report.";
    DB_POOL_MIN_CONNECTIONS = ByTier(["2", "5", "8"]), Allowed::Count { min: 0, max: 1000 },
        "Connections kept open; the default is lowered to a smaller maximum.";
    DB_POOL_MAX_CONNECTIONS = ByTier(["10", "20", "24"]), CONNECTIONS, "The most connections open at once.";
    DB_POOL_ACQUIRE_TIMEOUT_S = Same("5"), seconds(MS, HOUR, None), "How long a caller waits for a connection.";
    DB_POOL_MAX_WAITING = Same("1000"), Allowed::Count { min: 0, max: 100_000 },
        "How many callers may wait; further callers fail immediately.";
    DB_POOL_IDLE_TIMEOUT_S = Same("600"), seconds(MS, YEAR, NEVER),
        "How long a connection above the minimum may stay idle; further ones are closed one at a time, an \
            eighth of this time apart.";
    DB_POOL_MAX_LIFETIME_S = Same("1800"), seconds(MS, YEAR, NEVER),
        "The greatest age of a connection; each connection's is shortened at random by up to 10 %.";
    DB_POOL_KEEPALIVE_S = Same("0"), seconds(MS, YEAR, NEVER),
        "How often an idle connection is checked in the background.";
    DB_POOL_PRE_PING = Same("auto"), Allowed::Words(PrePing::WORDS),
        "Whether a connection is checked before it is lent; `auto` checks after `DB_POOL_VALIDATE_AFTER_MS`.";
    DB_POOL_VALIDATE_AFTER_MS = Same("500"), milliseconds(Duration::ZERO, HOUR, None),
        "With `DB_POOL_PRE_PING=auto`, a connection on which the server has answered within this time is lent \
            unchecked.";
    DB_POOL_LEAK_THRESHOLD_S = Same("60"), seconds(MS, YEAR, NEVER), "A connection held longer is reported as leaked.";
    DB_POOL_OUTAGE_GRACE_S = Same("2"), seconds(Duration::ZERO, HOUR, None),
        "How long callers wait during an outage before they fail immediately with *down*.";
    DB_POOL_QUEUE_TARGET_MS = Same("0"), milliseconds(MS, HOUR, NEVER),
        "The acceptable queue delay; once the delay has exceeded it for the whole interval, callers who have \
            waited longer fail with *saturated*.";
    DB_POOL_QUEUE_INTERVAL_MS = Same("1000"), milliseconds(MS, HOUR, None),
        "How long the queue delay may exceed its target.";
    DB_STATEMENT_TIMEOUT_MS = Same("30000"), STATEMENT_TIMEOUT, "How long a statement may run.";
    DB_SLOW_STATEMENT_MS = Same("1000"), milliseconds(MS, HOUR, NEVER), "A statement that takes this long is logged.";
    DB_SLOW_ACQUIRE_MS = Same("1000"), milliseconds(MS, HOUR, NEVER),
        "A caller that waits this long for a connection is logged.";
    DB_STATEMENT_CACHE_SIZE = Same("256"), Allowed::Count { min: 0, max: 10_000 },
        "Prepared statements kept per connection; 0 keeps none: the server parses each time.";
    DB_MAX_REPLY_BYTES = Same("268435456"), Allowed::Count { min: 65_536, max: 2_000_000_000 },
        "The largest reply to one statement of a helper, in bytes; a larger one is an error.";
    DB_PGBOUNCER_MODE = Same("off"), Allowed::Words(PgBouncerMode::WORDS),
        "`transaction` if a PgBouncer with `pool_mode = transaction` is in front of the server.";
    DB_RETRY_READS = Same("on"), Allowed::Words(&["on", "off"]),
        "Whether a query that can only read is run again if its connection breaks.";
    DB_POOL_SHARE_ROUND_TRIPS = Same("reads"), Allowed::Words(ShareRoundTrips::WORDS),
        "Which quick statements of waiting callers are sent together in one round trip.";
    DATABASE_POOL_SIZE = Unset, CONNECTIONS,
        "Second spelling: its sum with `DATABASE_MAX_OVERFLOW` is `DB_POOL_MAX_CONNECTIONS`.";
    DATABASE_MAX_OVERFLOW = Unset, Allowed::Count { min: 0, max: 999 },
        "Connections above `DATABASE_POOL_SIZE`, closed soon after use; 0 if not set.";
    DATABASE_POOL_TIMEOUT = Unset, seconds(MS, HOUR, None), "Second spelling of `DB_POOL_ACQUIRE_TIMEOUT_S`.";
    DATABASE_POOL_RECYCLE = Unset, seconds(MS, YEAR, Some(("-1", "never"))),
        "Second spelling of `DB_POOL_MAX_LIFETIME_S`.";
    DATABASE_POOL_PRE_PING = Unset, Allowed::Words(&["true", "false"]),
        "Second spelling of `DB_POOL_PRE_PING`: `true` is `on`, `false` is `off`.";
    DATABASE_STATEMENT_TIMEOUT = Unset, STATEMENT_TIMEOUT, "Second spelling of `DB_STATEMENT_TIMEOUT_MS`.";
    HTTP_BIND = Same("127.0.0.1:5000"), Allowed::Text("address:port, as in `127.0.0.1:5000` or `[::1]:5000`"),
        "Where the service listens; port 0 takes any free one.";
    HTTP_WORKERS = Computed("the machine's parallelism"), Allowed::Count { min: 1, max: 256 }, "Worker threads.";
    HTTP_SHUTDOWN_TIMEOUT_S = Same("30"), seconds(Duration::ZERO, HOUR, None),
        "How long requests in flight may take to finish at shutdown.";
    HTTP_REQUEST_TIMEOUT_MS = Same("30000"), milliseconds(MS, HOUR, NEVER),
        "How long a request may take, from the arrival of its body to the end of its database work; a client \
            can shorten it with `X-Request-Timeout-Ms`.";
    API_TOKENS = Unset,
        Allowed::Text("name=token or name=sha256:<64 hex digits>, separated by commas, or one bare token; at least \
            16 characters in preprod, 32 in production"),
        "The accepted bearer tokens; without any, the dev tier refuses every request that needs one.";
    METRICS_AUTH = Same("on"), Allowed::Words(&["on", "off"]),
        "Whether `/metrics` needs one of the tokens; `off` opens it to whoever reaches the port.";
    DOCUMENT_MAX_BYTES = Same("4194304"), Allowed::Count { min: 64, max: 67_108_864 },
        "The largest document, in bytes: the body of a `POST`, or a file that `ingest` loads.";
    DOCUMENT_CHUNK_BYTES = Same("2000"), Allowed::Count { min: 64, max: 131_072 },
        "The longest chunk of a document's text, in bytes of UTF-8; at most `DOCUMENT_MAX_BYTES`.";
    DOCUMENT_OVERLAP_BYTES = Same("200"), Allowed::Count { min: 0, max: 65_536 },
        "How much of a chunk's end the next one may repeat, in bytes; at most half of `DOCUMENT_CHUNK_BYTES`.";
    RUST_LOG = Unset, Allowed::Text("a filter as in `info,poolhouse=debug`"), "The log filter; overrides `LOG_LEVEL`.";
    LOG_LEVEL = Same("info"), Allowed::Words(&["off", "error", "warn", "info", "debug", "trace"]),
        "The log level of all modules.";
    LOG_FORMAT = Same("text"), Allowed::Words(LogFormat::WORDS), "How log lines are written.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_the_variable_allows() {
        for variable in VARIABLES {
            for &tier in Tier::ALL {
                let text = variable.default_in(tier);
                let fits = match variable.allowed {
                    _ if text.is_empty() => true,
                    Allowed::Count { .. } => variable.allowed.count(text).is_some(),
                    Allowed::Duration { .. } => variable.allowed.duration(text).is_some(),
                    Allowed::Words(_) => variable.allowed.word(text) == Some(text),
                    Allowed::Text(_) => true,
                };
                assert!(fits, "{} in {tier}: {text}", variable.name);
            }
        }
    }

    #[test]
    fn names_are_unique_and_carry_the_unit_of_their_times() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            assert!(VARIABLES[..index].iter().all(|other| other.name != variable.name), "{}", variable.name);
            // The second spelling has the names that other programs use, which have no unit.
            let is_ours = ["DB_", "HTTP_"].iter().any(|prefix| variable.name.starts_with(prefix));
            if let (Allowed::Duration { unit, .. }, true) = (variable.allowed, is_ours) {
                let suffix = if unit == Unit::Seconds { "_S" } else { "_MS" };
                assert!(variable.name.ends_with(suffix), "{}", variable.name);
            }
        }
    }

    #[test]
    fn seconds_take_fractions_and_nothing_that_only_looks_like_a_number() {
        let allowed = seconds(MS, HOUR, NEVER);
        assert_eq!(allowed.duration("5"), Some(Duration::from_secs(5)));
        assert_eq!(allowed.duration("0.25"), Some(Duration::from_millis(250)));
        assert_eq!(allowed.duration("0"), Some(Duration::ZERO));
        for text in
            ["", ".", "5.", ".5", "+5", "-5", "1e3", "inf", "NaN", "5 s", "0x10", "3600.001", "٣", "1_000"]
        {
            assert_eq!(allowed.duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn ranges_are_shown_with_their_unit_and_special_value() {
        assert_eq!(DB_POOL_MAX_CONNECTIONS.allowed(), "a whole number from 1 to 1000");
        assert_eq!(DATABASE_POOL_RECYCLE.allowed(), "0.001 to 31536000 seconds, or -1 for never");
        assert_eq!(DB_STATEMENT_TIMEOUT_MS.allowed(), "1 to 2147483647 whole milliseconds, or 0 for never");
        assert_eq!(DB_POOL_MIN_CONNECTIONS.default(), "dev 2, preprod 5, production 8");
    }
}
