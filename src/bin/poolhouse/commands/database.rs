//! What several commands do with their database: starting the private one, opening a pool for one piece of work.

use crate::cli::Failure;
use crate::commands::target::{Place, unusable};
use crate::dev_postgres::{LocalPostgres, Sharing};
use poolhouse::settings::{Start, Tier};
use poolhouse::{Pool, PoolSettings, Settings};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How long connections in use may take to come back at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the private PostgreSQL where the settings name no database; it ends when the answer is dropped.
pub(crate) fn prepare_database(
    settings: &mut Settings,
    sharing: Sharing,
) -> Result<Option<LocalPostgres>, Failure> {
    if settings.is_database_configured || settings.tier != Tier::Dev {
        return Ok(None);
    }
    let local = LocalPostgres::start(Path::new("."), sharing).map_err(|error| {
        Failure::Failed(format!("no database is set, and the private one failed: {error}"))
    })?;
    settings.pool.database = local.database();
    Ok(Some(local))
}

/// For a command that works alone and takes the time it takes.
pub(crate) fn one_connection(settings: &PoolSettings) -> PoolSettings {
    let mut settings = settings.clone();
    settings.start = Start::Fail;
    settings.min_connections = 1;
    settings.max_connections = 1;
    settings.max_overflow = 0;
    settings.statement_timeout = None;
    settings
}

/// Opens a pool for `work` and closes it after.
pub(crate) fn with_pool<R>(
    settings: &PoolSettings,
    place: &Place,
    work: impl FnOnce(&Pool) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let pool = Pool::open(settings).map_err(unusable(place))?;
    let outcome = work(&pool);
    pool.close(CLOSE_TIMEOUT);
    outcome
}

/// Prints to standard output. Whoever closed it does not want to hear more: no reason to fail, let alone to panic.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
