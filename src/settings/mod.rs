//! Settings: environment variables become one validated value, and every problem is reported at once.
//!
//! Nothing is repaired: a value out of range, a mistyped name in a file, or two variables that contradict each
//! other are errors, with a message that names the variable, its value and the allowed values.
//!
//! There are three sources, each overriding the previous: the defaults, the tier's file, the process environment.
//! [`VARIABLES`] is the table of variables, and the only place of defaults and ranges. This module opens no connection and
//! knows nothing of the pool.

mod choice;
mod database;
mod database_reader;
mod database_url;
mod documents;
mod env_file;
mod http;
mod modes;
mod pool;
mod pool_size;
mod reader;
mod secret;
mod tier;
mod variables;
pub(crate) mod with_methods;

pub use database::DatabaseSettings;
pub use documents::DocumentSettings;
pub use http::{ApiToken, HttpSettings};
pub use modes::{LogFormat, PgBouncerMode, PrePing, ShareRoundTrips, SslMode, Start, TargetSessionAttrs};
pub use pool::PoolSettings;
pub use reader::{EffectiveValue, Source};
pub use secret::Secret;
pub use tier::Tier;
pub use variables::{VARIABLES, Variable};

use crate::error::{Problem, Result, SettingsError};
use reader::{RawValue, Reader};
use std::collections::BTreeMap;
use std::path::Path;
use variables::{APP_ENV, LOG_FORMAT, LOG_LEVEL, RUST_LOG};

/// Everything the reference service needs to start, validated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The tier these settings were loaded for.
    pub tier: Tier,
    /// The pool, and the database behind it.
    pub pool: PoolSettings,
    /// Whether any variable identifies a database. Without one, which only the dev tier allows, `pool.database` has no
    /// host; the binary then starts a private server and sets it there.
    pub is_database_configured: bool,
    /// The HTTP service.
    pub http: HttpSettings,
    /// The documents of the reference service.
    pub documents: DocumentSettings,
    /// `RUST_LOG`, else `LOG_LEVEL`: a filter for `env_logger`. It excludes statement parameters, which the driver logs at
    /// `debug`, unless the filter names the target `tokio_postgres`.
    pub log_filter: String,
    /// `LOG_FORMAT`: how log lines are written.
    pub log_format: LogFormat,
    effective: Vec<EffectiveValue>,
}

impl Settings {
    /// Loads the settings of the tier in `APP_ENV`, from its file in the current directory and from the process
    /// environment, which overrides the file. The process environment is not changed.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): all problems: an unknown tier; a file that is missing (the dev
    ///   tier needs none), unreadable or malformed; every variable out of range.
    pub fn load() -> Result<Settings> {
        let mut environment = BTreeMap::new();
        let mut problems = Vec::new();
        for variable in VARIABLES {
            match std::env::var(variable.name) {
                Ok(text) => {
                    environment.insert(variable.name.to_owned(), text);
                }
                Err(std::env::VarError::NotPresent) => {}
                Err(std::env::VarError::NotUnicode(_)) => problems.push(Problem {
                    variable: variable.name.to_owned(),
                    value: "not UTF-8".to_owned(),
                    allowed: variable.allowed(),
                }),
            }
        }
        if !problems.is_empty() {
            return Err(SettingsError { problems }.into());
        }
        let dir = std::env::current_dir().unwrap_or_else(|_| ".".into());
        Settings::load_from(&dir, &environment)
    }

    /// Loads the settings from the tier's file in `dir` and from `environment`, as [`Settings::load`] does
    /// from the current directory and the process.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): as for [`Settings::load`].
    pub fn load_from(dir: &Path, environment: &BTreeMap<String, String>) -> Result<Settings> {
        let environment = raw_values(environment);
        let tier: Tier = match environment.get(APP_ENV.name) {
            Some(raw) => raw.text.parse()?,
            None => Tier::Dev,
        };
        let mut file =
            env_file::read(dir, tier).map_err(|problem| SettingsError { problems: vec![problem] })?;
        // The tier selected the file, so the file cannot change the tier.
        if let Some(named) = file.values.remove(APP_ENV.name).filter(|named| named.text != tier.as_str()) {
            file.problems.push(Problem {
                variable: APP_ENV.name.to_owned(),
                value: format!("{} in {}", named.text, tier.env_file()),
                allowed: format!("{tier} in this file, or no APP_ENV: it is read from the environment"),
            });
        }
        file.values.extend(environment);
        read(file.values, file.problems)
    }

    /// Validates these variables alone, without any `.env` file and the process environment. It depends on nothing else
    /// but whether the file in `DB_SSLROOTCERT` exists, and the number of processors.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): every variable out of range.
    ///
    /// # Examples
    ///
    /// ```
    /// use poolhouse::Settings;
    /// use std::collections::BTreeMap;
    ///
    /// let variables = BTreeMap::from([("DB_POOL_MAX_CONNECTIONS".to_owned(), "30".to_owned())]);
    /// assert_eq!(Settings::from_vars(&variables)?.pool.max_connections, 30);
    /// # Ok::<(), poolhouse::Error>(())
    /// ```
    pub fn from_vars(variables: &BTreeMap<String, String>) -> Result<Settings> {
        read(raw_values(variables), Vec::new())
    }

    /// Returns every variable of [`VARIABLES`], in the same order, with its effective value and its source. Secrets are
    /// masked.
    pub fn effective(&self) -> &[EffectiveValue] {
        &self.effective
    }
}

/// The variables of an environment: trimmed, without the empty ones.
fn raw_values(environment: &BTreeMap<String, String>) -> BTreeMap<String, RawValue> {
    let trimmed = environment.iter().map(|(name, text)| (name.clone(), text.trim().to_owned()));
    let set = trimmed.filter(|(_, text)| !text.is_empty());
    set.map(|(name, text)| (name, RawValue { text, source: Source::Environment })).collect()
}

/// Reads all settings, and adds the problems found to `problems`.
fn read(values: BTreeMap<String, RawValue>, mut problems: Vec<Problem>) -> Result<Settings> {
    let named = |text: &str| text.parse::<Tier>().ok();
    // With an unknown tier the other variables are still checked, by the rules of the least strict tier.
    let tier = values.get(APP_ENV.name).and_then(|raw| named(&raw.text)).unwrap_or(Tier::Dev);
    let mut reader = Reader::new(tier, values);
    reader.parse(&APP_ENV, named);

    let read = database_reader::read(&mut reader);
    let pool = pool::read(&mut reader, read.database, read.connect_timeout);
    let http = http::read(&mut reader);
    let documents = documents::read(&mut reader);
    let log_filter = read_log_filter(&mut reader);
    let log_format = reader.word(&LOG_FORMAT);
    let (effective, found) = reader.finish();
    problems.extend(found);
    if !problems.is_empty() {
        return Err(SettingsError { problems }.into());
    }
    let is_database_configured = read.is_configured;
    Ok(Settings { tier, pool, is_database_configured, http, documents, log_filter, log_format, effective })
}

/// Reads the log filter. `RUST_LOG` is more specific than `LOG_LEVEL`: if one source sets both, they do not contradict each
/// other and `RUST_LOG` applies.
fn read_log_filter(reader: &mut Reader) -> String {
    let filter = reader.parse(&RUST_LOG, |text| is_filter(text).then(|| text.to_owned()));
    let level = reader.parse(&LOG_LEVEL, |text| LOG_LEVEL.allowed.word(text).map(str::to_owned));
    let level = match (&filter, level) {
        (Some(filter), Some(level)) if level.source.rank() <= filter.source.rank() => None,
        (_, level) => level,
    };
    let filter = reader.resolve(&LOG_LEVEL, [level, filter], |text| Some(text.to_owned()), String::clone);
    without_parameters(&filter)
}

/// Excludes the driver's `debug` lines from a filter that does not name its target: they contain statement parameters, which
/// are the users' data.
fn without_parameters(filter: &str) -> String {
    let (names, pattern) = filter.split_at(filter.find('/').unwrap_or(filter.len()));
    let is_verbose = ["debug", "trace"].iter().any(|level| names.to_lowercase().contains(level));
    match is_verbose && !names.contains("tokio_postgres") {
        true => format!("{names},tokio_postgres=info{pattern}"),
        false => filter.to_owned(),
    }
}

/// Whether this is a valid filter. `env_logger` accepts almost any text as the name of a module, and would then log nothing
/// but that module.
fn is_filter(text: &str) -> bool {
    let names = text.split('/').next().unwrap_or_default().split(',').map(|part| part.split('=').next());
    let is_name_char = |c: char| c.is_alphanumeric() || "_:-.".contains(c);
    let has_names = names.flatten().all(|name| name.trim().chars().all(is_name_char));
    has_names && env_filter::Builder::new().try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_of_the_table_is_read() {
        for variable in VARIABLES {
            // A control character that trimming leaves: no variable accepts it.
            let variables = BTreeMap::from([(variable.name.to_owned(), "\u{7f}".to_owned())]);
            let Err(crate::Error::Settings(error)) = Settings::from_vars(&variables) else {
                panic!("{} is in the table, and nothing reads it", variable.name)
            };
            let is_named = error.problems.iter().any(|problem| problem.variable.contains(variable.name));
            assert!(is_named, "{}: {error}", variable.name);
        }
    }
}
