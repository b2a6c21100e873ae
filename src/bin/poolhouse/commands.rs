//! The commands, from settings to exit.

use crate::check;
use crate::cli::{Command, Failure};
use crate::local_postgres::{LocalPostgres, Sharing};
use crate::place::{Place, missing_schema, not_applied, unusable};
use crate::progress::Progress;
use crate::schema;
use crate::serve::serve;
use crate::services::import::{ImportError, import_movies};
use crate::stop::{self, Manner};
use poolhouse::settings::{Source, Start, Tier};
use poolhouse::{Pool, PoolSettings, Settings};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long connections in use may take to come back at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Does what was asked.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let manner = if command == Command::Serve { Manner::InOrder } else { Manner::AtOnce };
    stop::watch(manner).map_err(Failure::during("cannot receive signals"))?;
    let settings = Settings::load()?;
    env_logger::Builder::new().parse_filters(&log_filter(&settings)).init();
    match command {
        Command::Serve => serve(settings),
        Command::Schema => apply_schema(settings),
        Command::Check => check(settings),
        Command::Import { file } => import(settings, &file),
    }
}

/// actix reports every start and stop of its own too, and as an error each request that a client has garbled: anyone
/// could fill the log with them. Who wants that says so with `RUST_LOG`, or a level below info.
fn log_filter(settings: &Settings) -> String {
    let mut rows = settings.effective().iter();
    let is_level = rows.any(|row| row.variable == "LOG_LEVEL" && row.source != Source::Variable("RUST_LOG"));
    match settings.log_filter.as_str() {
        "info" if is_level => "info,actix_server=warn,actix_http=off".to_owned(),
        level @ ("warn" | "error") if is_level => format!("{level},actix_http=off"),
        filter => filter.to_owned(),
    }
}

fn apply_schema(mut settings: Settings) -> Result<(), Failure> {
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let place = Place::of(&settings, local.as_ref());
    with_pool(&one_connection(&settings.pool), &place, |pool| {
        schema::apply(&mut pool.get_connection()?).map_err(not_applied(&place))
    })?;
    say(&format!("The schema is in place: {place}"));
    Ok(())
}

fn check(mut settings: Settings) -> Result<(), Failure> {
    say(&check::describe_settings(&settings));
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let place = Place::of(&settings, local.as_ref());
    say(&format!("Database {place}"));
    let found = with_pool(&one_connection(&settings.pool), &place, |pool| {
        Ok(check::look_at_database(pool, &settings.pool, local.is_some())?)
    })?;
    say(&found.to_string());
    match found.problems() {
        problems if problems.is_empty() => {
            say("All is well.");
            Ok(())
        }
        problems => Err(Failure::Failed(problems.join("\n"))),
    }
}

fn import(mut settings: Settings, file: &Path) -> Result<(), Failure> {
    // Before a server is started for it.
    let (name, input, size): (_, Box<dyn Read>, _) = match file == Path::new("-") {
        true => ("standard input".to_owned(), Box::new(io::stdin().lock()), None),
        false => {
            let name = file.display().to_string();
            let input = File::open(file).map_err(Failure::during(format!("cannot read {name}")))?;
            let size = input.metadata().map_or(None, |metadata| metadata.is_file().then_some(metadata.len()));
            (name, Box::new(input), size)
        }
    };
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let place = Place::of(&settings, local.as_ref());
    let pool_settings = one_connection(&settings.pool);
    let start = Instant::now();
    let imported = with_pool(&pool_settings, &place, |pool| {
        if local.is_some() {
            schema::apply(&mut pool.get_connection()?).map_err(not_applied(&place))?;
        }
        let mut progress = Progress::new(size);
        let imported = import_movies(pool, input, &mut progress);
        progress.end();
        imported.map_err(|error| match error {
            ImportError::Database(error) if error.sqlstate() == Some("42P01") => missing_schema(&place),
            error => Failure::Failed(format!("import of {name}: {error}")),
        })
    })?;
    let seconds = start.elapsed().as_secs_f64();
    say(&format!(
        "Imported {} movies in {seconds:.1} s (inserted {}, updated {}, unchanged {}; {:.0} rows/s)",
        imported.total(),
        imported.inserted,
        imported.updated,
        imported.unchanged,
        imported.total() as f64 / seconds
    ));
    Ok(())
}

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
fn one_connection(settings: &PoolSettings) -> PoolSettings {
    let mut settings = settings.clone();
    settings.start = Start::Fail;
    settings.min_connections = 1;
    settings.max_connections = 1;
    settings.max_overflow = 0;
    settings.statement_timeout = None;
    settings
}

/// Opens a pool for `work` and closes it after.
fn with_pool<R>(
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
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
