//! What several commands share: starting the private database, opening a pool for one piece of work, printing.

use crate::cli::Failure;
use crate::commands::target::{Target, unusable};
use crate::dev_postgres::{LocalPostgres, Sharing};
use poolhouse::settings::{Start, Tier};
use poolhouse::{Pool, PoolSettings, Settings};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How long closing the pool waits for connections in use.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the private PostgreSQL if the settings name no database. Dropping the returned value stops it.
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

/// The settings for a command that needs one connection and has no time limit.
pub(crate) fn one_connection(settings: &PoolSettings) -> PoolSettings {
    let mut settings = settings.clone();
    settings.start = Start::Fail;
    settings.min_connections = 1;
    settings.max_connections = 1;
    settings.max_overflow = 0;
    settings.statement_timeout = None;
    settings
}

/// Opens a pool, runs `work` on it, and closes it.
pub(crate) fn with_pool<R>(
    settings: &PoolSettings,
    target: &Target,
    work: impl FnOnce(&Pool) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let pool = Pool::open(settings).map_err(unusable(target))?;
    let outcome = work(&pool);
    pool.close(CLOSE_TIMEOUT);
    outcome
}

/// Prints to standard output. Ignores errors: a closed pipe (`| head`) is no failure of the command, and `println!` would
/// panic.
pub(crate) fn print_line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints what the user cannot get again, or what only makes sense whole.
pub(crate) fn print_or_fail(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(Failure::during("cannot write to standard output"))
}
