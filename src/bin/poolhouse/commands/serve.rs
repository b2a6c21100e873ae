//! `poolhouse serve`, from settings to exit: the database, the pool, the tables, the server, and all of it in
//! reverse.

use crate::cli::{Failure, spelled};
use crate::commands::database::prepare_database;
use crate::commands::target::{Place, missing_schema, not_applied, unusable};
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

/// How long connections in use may take to come back where the time for requests is over.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// How long an attempt to connect may take to end once nobody waits for it: a healthy one takes less.
const CONNECT_PATIENCE: Duration = Duration::from_millis(200);

/// How often a database that is away is asked about; the pool's own counters answer.
const ROUND: Duration = Duration::from_millis(100);

/// How long after a failure the tables are looked at again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How often the same trouble is told again.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// A few hundred films, so that a first run has something to show. Their ids are ones that the MovieLens file uses
/// too: loading that leaves nothing of the sample behind.
const SAMPLE: &str = include_str!("../../../../config/sample_movies.csv");

/// Serves until it is asked to end, or cannot go on.
pub(crate) fn serve(mut settings: Settings) -> Result<(), Failure> {
    server::try_address(settings.http.bind).map_err(|error| Failure::Failed(error.to_string()))?;
    // Declared first, ended last: the pool's connections go before their server.
    let mut local = match prepare_database(&mut settings, Sharing::Refuse) {
        Err(_) if signals::is_asked() => {
            server::say_stopping();
            return Ok(());
        }
        outcome => outcome?,
    };
    let opening = Opening {
        settings: settings.pool.clone(),
        is_private: local.is_some(),
        place: Place::of(&settings, local.as_ref()),
    };
    let preparing = Arc::new(AtomicBool::new(false));
    let served = match settings.pool.start {
        Start::Fail => match signals::unless_asked(move || opening.open_and_prepare()) {
            Ok(None) => {
                server::say_stopping();
                close_pool(Instant::now(), u32::MAX);
                return Ok(());
            }
            Ok(Some(Ok(movies))) => run(&settings, &mut local, || say_started(movies)),
            Ok(Some(Err(failure))) => Err(failure),
            Err(error) => Err(Failure::during("cannot start a thread")(error)),
        },
        Start::Wait => opening.open().and_then(|()| {
            run(&settings, &mut local, || {
                let preparing = preparing.clone();
                let thread = thread::Builder::new().name("poolhouse-start".to_owned());
                if let Err(error) = thread.spawn(move || opening.prepare_when_possible(&preparing)) {
                    log::error!("Cannot look after the tables: {error}");
                }
            })
        }),
    };
    let deadline =
        signals::asked_at().map_or_else(Instant::now, |asked| asked + settings.http.shutdown_timeout);
    close_pool(deadline, u32::from(preparing.load(Ordering::Relaxed)));
    served
}

fn run(
    settings: &Settings,
    local: &mut Option<LocalPostgres>,
    once_listening: impl FnOnce(),
) -> Result<(), Failure> {
    let lost = || {
        let why = local.as_mut().and_then(LocalPostgres::end);
        reaper::reap(local.as_ref().and_then(LocalPostgres::process));
        why
    };
    server::run(settings, once_listening, lost).map_err(|error| Failure::Failed(error.to_string()))
}

/// Closes the pool. A statement that is still running, whose caller may have left, has until `deadline`; nobody waits
/// for those on `ours` connections.
fn close_pool(deadline: Instant, ours: u32) {
    let Ok(pool) = DatabasePool::get() else { return };
    let left = deadline.saturating_duration_since(Instant::now());
    let patience = if pool.status().in_use > ours { left.max(CLOSE_PATIENCE) } else { CONNECT_PATIENCE };
    if !DatabasePool::close(patience) {
        log::warn!("Some connections were still in use after {:.1} s", patience.as_secs_f64());
    }
}

/// What there is to do before the first request can be answered, other than listening.
struct Opening {
    settings: PoolSettings,
    /// The private database is ours to fill; any other has its tables, or its operator is told how to make them.
    is_private: bool,
    place: Place,
}

impl Opening {
    fn open(&self) -> Result<(), Failure> {
        DatabasePool::initialize(&self.settings).map_err(unusable(&self.place))
    }

    /// Returns the number of movies.
    fn open_and_prepare(&self) -> Result<i64, Failure> {
        self.open()?;
        self.prepare()
    }

    /// Sees to the tables; returns the number of movies.
    fn prepare(&self) -> Result<i64, Failure> {
        let pool = DatabasePool::get()?;
        if self.is_private {
            schema::apply(&mut pool.get_connection()?).map_err(not_applied(&self.place))?;
        } else if !schema::is_present(pool).map_err(unusable(&self.place))? {
            return Err(missing_schema(&self.place));
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
            // An import was faster.
            None => movies::count_movies().map_err(without_movies),
        }
    }

    /// Does the same as soon as there is a connection, and again until it succeeds or the program is asked to end:
    /// whatever is wrong is told, and can be mended meanwhile. `preparing` is set while it has a connection.
    fn prepare_when_possible(&self, preparing: &AtomicBool) {
        let mut told: Option<(bool, Instant)> = None;
        while let Ok(pool) = DatabasePool::get() {
            let status = pool.status();
            let is_away = status.available + status.in_use == 0;
            let trouble = match is_away {
                false => {
                    preparing.store(true, Ordering::Relaxed);
                    let prepared = self.prepare();
                    preparing.store(false, Ordering::Relaxed);
                    match prepared {
                        Ok(movies) => return say_started(movies),
                        Err(failure) => Some(failure.to_string()),
                    }
                }
                // Why, the pool has said already. Until its first attempt has ended there is nothing to say.
                true => status.last_failure.is_some().then(|| {
                    format!("the database {} is away: calls that need it are answered with 503", self.place)
                }),
            };
            if signals::is_asked() {
                return;
            }
            let is_news =
                told.is_none_or(|(was_away, at)| was_away != is_away || at.elapsed() > LINE_INTERVAL);
            if let Some(trouble) = trouble
                && is_news
            {
                told = Some((is_away, Instant::now()));
                log::warn!("Not ready yet: {trouble}");
                sd_notify::status(&format!("Not ready yet: {}", trouble.replace('\n', " ")));
            }
            if signals::wait(if is_away { ROUND } else { RETRY_PAUSE }) {
                return;
            }
        }
    }
}

fn say_started(movies: i64) {
    log::info!("Application started with {movies} movies");
    sd_notify::status(&format!("Serving {movies} movies as of the start"));
}

fn without_movies(error: MovieError) -> Failure {
    match &error {
        // No such table, no such column.
        MovieError::Database(database) if matches!(database.sqlstate(), Some("42P01" | "42703")) => {
            Failure::Failed(format!(
                "the database has not the tables of this version: run {} first ({database})",
                spelled("schema")
            ))
        }
        _ => Failure::during("cannot count the movies")(error),
    }
}
