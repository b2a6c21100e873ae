//! Settings: environment variables → one validated value, every problem reported at once.
//!
//! Nothing is repaired: a value out of range, a mistyped name in a file, or two variables that contradict each
//! other end the start, with a message that names the variable, its value and what would be right.
//!
//! Three sources, each overruling the one before: the defaults, the tier's file, the process environment.
//! [`VARIABLES`] is the table that all of it follows.

mod database;
mod database_reader;
mod database_url;
mod env_file;
mod http;
mod pool;
mod pool_size;
mod reader;
mod secret;
mod tier;
mod variables;

pub use database::{DatabaseSettings, SslMode, TargetSessionAttrs};
pub use http::{ApiToken, HttpSettings};
pub use pool::{PgBouncerMode, PoolSettings, PrePing, Start};
pub use reader::{EffectiveValue, Source};
pub use secret::Secret;
pub use tier::Tier;
pub use variables::{VARIABLES, Variable};

use crate::error::{Problem, Result, SettingsError};
use reader::{Given, Reader};
use std::collections::BTreeMap;
use std::path::Path;
use variables::{APP_ENV, LOG_LEVEL, RUST_LOG};

/// Everything the reference service needs to start, validated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The tier these settings were loaded for.
    pub tier: Tier,
    /// The pool, and the database behind it.
    pub pool: PoolSettings,
    /// Whether any variable names a database. Where none does, which only the dev tier allows,
    /// `pool.database` has no host; the binary starts a private one and puts it there.
    pub is_database_configured: bool,
    /// The HTTP service.
    pub http: HttpSettings,
    /// `RUST_LOG`, else `LOG_LEVEL`: a filter as `env_logger` reads it. It leaves the parameters of statements out,
    /// which the driver logs at `debug`, unless it names the target `tokio_postgres`.
    pub log_filter: String,
    effective: Vec<EffectiveValue>,
}

impl Settings {
    /// Loads the settings of the tier that `APP_ENV` names, from its file in the current directory and from
    /// the process environment, which wins. The process environment is read and not changed.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): everything that is wrong: an unknown tier; a file that is
    ///   missing (the dev tier does without), unreadable or malformed; every variable out of range.
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
        let environment = give(environment);
        let tier: Tier = match environment.get(APP_ENV.name) {
            Some(given) => given.text.parse()?,
            None => Tier::Dev,
        };
        let mut file =
            env_file::read(dir, tier).map_err(|problem| SettingsError { problems: vec![problem] })?;
        // The file was picked before it was read: what it says about the tier can only be right or a mistake.
        if let Some(named) = file.given.remove(APP_ENV.name).filter(|named| named.text != tier.as_str()) {
            file.problems.push(Problem {
                variable: APP_ENV.name.to_owned(),
                value: format!("{} in {}", named.text, tier.env_file()),
                allowed: format!("{tier} in this file, or no APP_ENV: it is read from the environment"),
            });
        }
        file.given.extend(environment);
        read(file.given, file.problems)
    }

    /// Validates variables as they stand, reading no `.env` file and no process environment. Of the outer
    /// world it looks only at whether the file that `DB_SSLROOTCERT` names exists, and at the number of
    /// processors.
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
        read(give(variables), Vec::new())
    }

    /// Every variable of [`VARIABLES`], in its order, with the value in force and where it came from. Secrets
    /// are masked.
    pub fn effective(&self) -> &[EffectiveValue] {
        &self.effective
    }
}

/// The variables of an environment: trimmed, the empty ones left out.
fn give(environment: &BTreeMap<String, String>) -> BTreeMap<String, Given> {
    let given = environment.iter().map(|(name, text)| {
        (name.clone(), Given { text: text.trim().to_owned(), source: Source::Environment })
    });
    given.filter(|(_, given)| !given.text.is_empty()).collect()
}

/// Reads all there is, and adds what is wrong with it to the problems already known.
fn read(given: BTreeMap<String, Given>, mut problems: Vec<Problem>) -> Result<Settings> {
    // With an unknown tier the other variables are still judged, by the most forgiving rules.
    let named = given.get(APP_ENV.name).map(|given| Tier::named(&given.text));
    let tier = named.map_or(Tier::Dev, |tier| tier.unwrap_or(Tier::Dev));
    let mut reader = Reader::new(tier, given);
    reader.said(&APP_ENV, Tier::named);

    let read = database_reader::read(&mut reader);
    let pool = pool::read(&mut reader, read.database, read.connect_timeout);
    let http = http::read(&mut reader);
    let log_filter = read_log_filter(&mut reader);
    let (effective, found) = reader.finish();
    problems.extend(found);
    if !problems.is_empty() {
        return Err(SettingsError { problems }.into());
    }
    Ok(Settings { tier, pool, is_database_configured: read.is_configured, http, log_filter, effective })
}

/// `RUST_LOG` can say more than `LOG_LEVEL`: where both stand in one place they do not disagree, the filter wins.
fn read_log_filter(reader: &mut Reader) -> String {
    let filter = reader.said(&RUST_LOG, |text| is_filter(text).then(|| text.to_owned()));
    let level = reader.said(&LOG_LEVEL, |text| LOG_LEVEL.allowed.word(text).map(str::to_owned));
    let level = match (&filter, level) {
        (Some(filter), Some(level)) if level.source.rank() <= filter.source.rank() => None,
        (_, level) => level,
    };
    let filter = reader.settle(&LOG_LEVEL, [level, filter], |text| Some(text.to_owned()), String::clone);
    without_parameters(&filter)
}

/// The driver logs the parameters of its statements at `debug`: they are its users' data, and in a log only where its
/// target is asked for by name.
fn without_parameters(filter: &str) -> String {
    let (names, pattern) = filter.split_at(filter.find('/').unwrap_or(filter.len()));
    let is_talkative = ["debug", "trace"].iter().any(|level| names.to_lowercase().contains(level));
    match is_talkative && !names.contains("tokio_postgres") {
        true => format!("{names},tokio_postgres=info{pattern}"),
        false => filter.to_owned(),
    }
}

/// Whether `env_logger` reads this as it is meant. It takes whatever it does not know for the name of a module, and
/// would log that module only: nothing at all.
fn is_filter(text: &str) -> bool {
    let names = text.split('/').next().unwrap_or_default().split(',').map(|part| part.split('=').next());
    let is_name_char = |c: char| c.is_alphanumeric() || "_:-.".contains(c);
    let has_names = names.flatten().all(|name| name.trim().chars().all(is_name_char));
    has_names && env_filter::Builder::new().try_parse(text).is_ok()
}
