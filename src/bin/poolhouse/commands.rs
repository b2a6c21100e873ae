//! The commands, from settings to exit.

use crate::check;
use crate::cli::{Command, Failure, spelled};
use crate::local_postgres::{LocalPostgres, Sharing};
use crate::progress::Progress;
use crate::schema;
use crate::server;
use crate::services::import::{ImportError, import_movies};
use crate::services::movies;
use poolhouse::settings::Tier;
use poolhouse::{DatabasePool, Error, Pool, PoolSettings, Settings};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long connections in use may take to come back once the service ends. Requests have had their own time
/// by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A few hundred films, so that a first run has something to show. Their ids are ones that the MovieLens file uses
/// too: loading that leaves nothing of the sample behind.
const SAMPLE: &str = include_str!("../../../config/sample_movies.csv");

/// Does what was asked.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let settings = Settings::load()?;
    env_logger::Builder::new().parse_filters(&settings.log_filter).init();
    match command {
        Command::Serve => serve(settings),
        Command::Schema => apply_schema(settings),
        Command::Check => check(settings),
        Command::Import { file } => import(settings, &file),
    }
}

fn serve(mut settings: Settings) -> Result<(), Failure> {
    server::try_address(settings.http.bind).map_err(|error| Failure::Failed(error.to_string()))?;
    // Declared first, ended last: the pool's connections go before their server.
    let mut local = prepare_database(&mut settings, Sharing::Refuse)?;
    let place = Place::of(&settings, local.as_ref());
    DatabasePool::initialize(&settings.pool).map_err(unusable(&place))?;
    let served = prepare_tables(local.is_some(), &place).and_then(|()| {
        server::run(&settings, || local.as_mut()?.end()).map_err(|error| Failure::Failed(error.to_string()))
    });
    if !DatabasePool::close(CLOSE_TIMEOUT) {
        log::warn!("Some connections were still in use after {} s", CLOSE_TIMEOUT.as_secs());
    }
    served
}

/// The private database is ours to fill; any other has its tables, or its operator is told how to make them.
fn prepare_tables(is_private: bool, place: &Place) -> Result<(), Failure> {
    let pool = DatabasePool::get()?;
    if !is_private {
        return match schema::is_present(pool).map_err(unusable(place))? {
            true => Ok(()),
            false => Err(missing_schema(place)),
        };
    }
    schema::apply(&mut pool.get_connection()?).map_err(not_applied(place))?;
    if movies::count_movies().map_err(Failure::during("cannot count the movies"))? == 0 {
        let loaded = import_movies(pool, SAMPLE.as_bytes(), &mut ());
        let loaded = loaded.map_err(Failure::during("cannot load the sample"))?;
        let more = spelled("import movies.csv");
        log::info!("Loaded a sample of {} movies; {more} loads more", loaded.total());
    }
    Ok(())
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
fn prepare_database(settings: &mut Settings, sharing: Sharing) -> Result<Option<LocalPostgres>, Failure> {
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

/// The database and the user, for messages.
struct Place {
    name: String,
    /// What to do where the login is refused and the settings are not to blame.
    login_advice: Option<String>,
}

impl Place {
    fn of(settings: &Settings, local: Option<&LocalPostgres>) -> Place {
        let database = &settings.pool.database;
        Place {
            name: format!("{database} as user {}", database.user),
            login_advice: local.map(LocalPostgres::login_advice),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn unusable(place: &Place) -> impl FnOnce(Error) -> Failure {
    move |error| match (error, &place.login_advice) {
        (error @ Error::Settings(_), _) => error.into(),
        (error @ Error::Authentication(_), Some(advice)) => {
            Failure::Failed(format!("cannot use the database {place}: {error}\n{advice}"))
        }
        (error, _) => Failure::Failed(format!("cannot use the database {place}: {error}")),
    }
}

fn not_applied(place: &Place) -> impl FnOnce(Error) -> Failure {
    move |error| {
        let advice = schema::advice(&error).map_or(String::new(), |advice| format!("\n{advice}"));
        Failure::Failed(format!("cannot make the tables in {place}: {error}{advice}"))
    }
}

fn missing_schema(place: &Place) -> Failure {
    Failure::Failed(format!("the database {place} has no movies table yet: run {} first", spelled("schema")))
}

/// Prints to standard output. Whoever closed it does not want to hear more: no reason to fail, let alone to panic.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
