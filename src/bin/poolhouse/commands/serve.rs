//! `poolhouse serve`, from settings to exit: starts the database, the pool, the tables and the HTTP server, and stops
//! them in reverse order.

use crate::cli::{Failure, spelled};
use crate::commands::database::prepare_database;
use crate::commands::target::{Target, missing_schema, not_applied, unusable};
use crate::dev_postgres::{LocalPostgres, Sharing};
use crate::http::server;
use crate::process::reaper;
use crate::process::sd_notify;
use crate::process::signals;
use crate::schema;
use crate::services::import::load_sample;
use crate::services::movies::{self, MovieError};
use poolhouse::settings::Start;
use poolhouse::{DatabasePool, PoolSettings, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long closing the pool waits for connections in use when the time for requests is over.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long closing the pool waits for an attempt to connect that no caller needs: a healthy one takes less.
const CONNECT_END_TIMEOUT: Duration = Duration::from_millis(200);

/// How often the pool's counters are read to see whether an unavailable database is back.
const ROUND: Duration = Duration::from_millis(100);

/// The pause after a failed check of the tables.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The least time between two log lines about the same problem.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// A few hundred films for the first run. Their ids also occur in the MovieLens file, so that loading that file replaces
/// all of the sample.
const SAMPLE: &str = include_str!("../../../../config/sample_movies.csv");

/// Serves until shutdown is requested or the private database has ended.
pub(crate) fn serve(mut settings: Settings) -> Result<(), Failure> {
    server::try_address(settings.http.bind).map_err(|error| Failure::Failed(error.to_string()))?;
    // Declared first, dropped last: the pool closes before its server stops.
    let mut local = match prepare_database(&mut settings, Sharing::Refuse) {
        Err(_) if signals::is_shutdown_requested() => {
            server::report_stopping();
            return Ok(());
        }
        outcome => outcome?,
    };
    let startup = Startup {
        settings: settings.pool.clone(),
        is_private: local.is_some(),
        target: Target::of(&settings, local.as_ref()),
    };
    let is_preparing = Arc::new(AtomicBool::new(false));
    let served = match settings.pool.start {
        Start::Fail => match signals::unless_shutdown(move || startup.open_and_prepare()) {
            Ok(None) => {
                server::report_stopping();
                close_pool(Instant::now(), u32::MAX);
                return Ok(());
            }
            Ok(Some(Ok(movies))) => run(&settings, &mut local, || report_started(movies)),
            Ok(Some(Err(failure))) => Err(failure),
            Err(error) => Err(Failure::during("cannot start a thread")(error)),
        },
        Start::Wait => startup.open().and_then(|()| {
            run(&settings, &mut local, || {
                let is_preparing = is_preparing.clone();
                let thread = thread::Builder::new().name("poolhouse-start".to_owned());
                if let Err(error) = thread.spawn(move || startup.prepare_when_possible(&is_preparing)) {
                    log::error!("Cannot check the tables: {error}");
                }
            })
        }),
    };
    let deadline = signals::shutdown_requested_at()
        .map_or_else(Instant::now, |requested| requested + settings.http.shutdown_timeout);
    close_pool(deadline, u32::from(is_preparing.load(Ordering::Relaxed)));
    served
}

fn run(
    settings: &Settings,
    local: &mut Option<LocalPostgres>,
    once_listening: impl FnOnce(),
) -> Result<(), Failure> {
    let check_lost = || {
        let why = local.as_mut().and_then(LocalPostgres::end);
        reaper::reap(local.as_ref().and_then(LocalPostgres::process));
        why
    };
    server::run(settings, once_listening, check_lost).map_err(|error| Failure::Failed(error.to_string()))
}

/// Closes the pool. Statements in flight have until `deadline`, except those on the `ours` connections that this command
/// itself uses.
fn close_pool(deadline: Instant, ours: u32) {
    let Ok(pool) = DatabasePool::get() else { return };
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = if pool.status().in_use > ours { left.max(CLOSE_TIMEOUT) } else { CONNECT_END_TIMEOUT };
    if !DatabasePool::close(timeout) {
        log::warn!("Some connections were still in use after {:.1} s", timeout.as_secs_f64());
    }
}

/// The work before the first request can be answered, except listening.
struct Startup {
    settings: PoolSettings,
    /// It is the private database, where this program creates the tables. In any other database it only checks them.
    is_private: bool,
    target: Target,
}

impl Startup {
    fn open(&self) -> Result<(), Failure> {
        DatabasePool::initialize(&self.settings).map_err(unusable(&self.target))
    }

    /// Returns the number of movies.
    fn open_and_prepare(&self) -> Result<i64, Failure> {
        self.open()?;
        self.prepare()
    }

    /// Creates the tables in the private database, or checks them in another; returns the number of movies.
    fn prepare(&self) -> Result<i64, Failure> {
        let pool = DatabasePool::get()?;
        if self.is_private {
            schema::apply(&mut pool.get_connection()?).map_err(not_applied(&self.target))?;
        } else if !schema::is_present(pool).map_err(unusable(&self.target))? {
            return Err(missing_schema(&self.target));
        }
        let movies = movies::count_movies().map_err(without_movies)?;
        if movies > 0 || !self.is_private {
            return Ok(movies);
        }
        let loaded = load_sample(pool, SAMPLE.as_bytes());
        match loaded.map_err(Failure::during("cannot load the sample"))? {
            Some(loaded) => {
                let more = spelled("import movies.csv");
                log::info!("Loaded a sample of {loaded} movies; {more} loads more");
                Ok(loaded.cast_signed())
            }
            // An import has filled the table in the meantime.
            None => movies::count_movies().map_err(without_movies),
        }
    }

    /// Waits for a connection and prepares; repeats that until it succeeds or shutdown is requested. Logs each
    /// problem, so that an operator can repair it. `is_preparing` is set while it uses a connection.
    fn prepare_when_possible(&self, is_preparing: &AtomicBool) {
        let mut reported: Option<(bool, Instant)> = None;
        while let Ok(pool) = DatabasePool::get() {
            let status = pool.status();
            let is_away = status.available + status.in_use == 0;
            let trouble = match is_away {
                false => {
                    is_preparing.store(true, Ordering::Relaxed);
                    let prepared = self.prepare();
                    is_preparing.store(false, Ordering::Relaxed);
                    match prepared {
                        Ok(movies) => return report_started(movies),
                        Err(failure) => Some(failure.to_string()),
                    }
                }
                // The pool has logged the cause. Before its first attempt has ended there is no cause.
                true => status.last_failure.is_some().then(|| {
                    format!("the database {} is away: calls that need it are answered with 503", self.target)
                }),
            };
            if signals::is_shutdown_requested() {
                return;
            }
            let is_news =
                reported.is_none_or(|(was_away, at)| was_away != is_away || at.elapsed() > LINE_INTERVAL);
            if let Some(trouble) = trouble
                && is_news
            {
                reported = Some((is_away, Instant::now()));
                log::warn!("Not ready yet: {trouble}");
                sd_notify::status(&format!("Not ready yet: {}", trouble.replace('\n', " ")));
            }
            if signals::wait(if is_away { ROUND } else { RETRY_PAUSE }) {
                return;
            }
        }
    }
}

fn report_started(movies: i64) {
    log::info!("Application started with {movies} movies");
    sd_notify::status(&format!("Serving {movies} movies as of the start"));
}

fn without_movies(error: MovieError) -> Failure {
    match &error {
        // Undefined table, undefined column.
        MovieError::Database(database) if matches!(database.sqlstate(), Some("42P01" | "42703")) => {
            Failure::Failed(format!(
                "the database has not the tables of this version: run {} first ({database})",
                spelled("schema")
            ))
        }
        _ => Failure::during("cannot count the movies")(error),
    }
}
