//! Loads a MovieLens file: all of it in one transaction, or nothing.

use crate::problems::Problems;
use crate::repositories::import::{self as repository, MovieRow, Target};
use crate::services::movie_file::{MovieFile, MovieLine};
use poolhouse::{Error, Pool, Transaction};
use std::fmt;
use std::io::{self, Read};
use std::iter;

/// The observer is called after this many movies.
const OBSERVE_EVERY: u64 = 1024;

/// The counts of a completed import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Imported {
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) unchanged: u64,
}

impl Imported {
    pub(crate) fn total(&self) -> u64 {
        self.inserted + self.updated + self.unchanged
    }
}

/// Why an import failed, or may have failed.
#[derive(Debug)]
pub(crate) enum ImportError {
    /// Lines of the file are invalid.
    BadLines(Problems),
    /// Reading the file failed.
    Unreadable(io::Error),
    /// The database, or the way to it, failed.
    Database(Error),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::BadLines(problems) => {
                write!(f, "nothing was loaded:\n  {}", problems.joined("\n  "))
            }
            ImportError::Unreadable(error) => write!(f, "nothing was loaded, reading failed: {error}"),
            ImportError::Database(error @ Error::OutcomeUnknown(_)) => {
                write!(f, "{error}; all of it is loaded or nothing, and importing it again does no harm")
            }
            ImportError::Database(error) => write!(f, "nothing was loaded: {error}"),
        }
    }
}

impl std::error::Error for ImportError {}

impl From<Error> for ImportError {
    fn from(error: Error) -> ImportError {
        ImportError::Database(error)
    }
}

/// An observer of an import's progress.
pub(crate) trait ImportObserver {
    /// Called now and then: how many movies and bytes have been read.
    fn on_read(&mut self, movies: u64, bytes: u64);
    /// Called when all movies are read and the database merges them.
    fn on_merge(&mut self, movies: u64);
}

/// Observes nothing.
impl ImportObserver for () {
    fn on_read(&mut self, _movies: u64, _bytes: u64) {}
    fn on_merge(&mut self, _movies: u64) {}
}

/// How soon the end of an input comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it is read.
    OfAFile,
    /// When another program has written it: no writer of the table may be made to wait for that.
    OfItsWriter,
}

/// Loads the movies of `input`: inserts new ones, updates changed ones, and keeps those that are not in the file.
///
/// # Blocking
///
/// Until the whole file is loaded: a second or two for the MovieLens file of 86,537 movies. Each piece of rows, and each other
/// statement, takes at most the statement timeout. If the answer to COMMIT is lost, for the acquire timeout more, to ask the
/// server for the commit's status. The thread's deadline bounds all of it, except for the reading of `input`.
pub(crate) fn import_movies(
    pool: &Pool,
    mut input: impl Read,
    pace: Pace,
    observer: &mut impl ImportObserver,
) -> Result<Imported, ImportError> {
    in_transaction(pool, pace, |tx, target| {
        let total = send(tx, target, &mut input, observer)?;
        if target == Target::Movies {
            return Ok(Imported { inserted: total, updated: 0, unchanged: 0 });
        }
        observer.on_merge(total);
        let (inserted, updated) = repository::merge_incoming(tx)?;
        let (inserted, updated) = (inserted.cast_unsigned(), updated.cast_unsigned());
        Ok(Imported { inserted, updated, unchanged: total.saturating_sub(inserted + updated) })
    })
}

/// Loads the movies of `input` if the table is empty, and returns how many; `None` if it is not. The check runs in
/// the transaction that loads, under the locks of [`import_movies`]: a concurrent import comes entirely before or
/// entirely after.
pub(crate) fn load_sample(pool: &Pool, input: impl Read) -> Result<Option<u64>, ImportError> {
    in_transaction(pool, Pace::OfAFile, |tx, target| match target {
        Target::Movies => send(tx, target, input, &mut ()).map(Some),
        Target::Incoming => Ok(None),
    })
}

/// Runs `load` in a verified transaction, with the table that its movies go to.
fn in_transaction<R>(
    pool: &Pool,
    pace: Pace,
    load: impl FnOnce(&mut Transaction<'_>, Target) -> Result<R, ImportError>,
) -> Result<R, ImportError> {
    let loaded = pool.transaction_verified(|tx| {
        let target = repository::prepare(tx, pace == Pace::OfAFile)?;
        load(tx, target).map_err(|error| match error {
            ImportError::Database(error) => error,
            other => Error::application(other),
        })
    });
    loaded.map_err(|error| match error {
        Error::Application(inner) => match inner.downcast() {
            Ok(own) => *own,
            Err(inner) => ImportError::Database(Error::Application(inner)),
        },
        error => ImportError::Database(error),
    })
}

/// Sends every movie of `input` to `target`; returns how many.
fn send(
    tx: &mut Transaction<'_>,
    target: Target,
    input: impl Read,
    observer: &mut impl ImportObserver,
) -> Result<u64, ImportError> {
    let mut file = MovieFile::new(input);
    let (mut movies, mut unreadable) = (0, None);
    let rows = iter::from_fn(|| {
        loop {
            let row = match file.next() {
                Ok(Some(movie)) => MovieRow::from(movie),
                Ok(None) => return None,
                Err(error) => {
                    unreadable = Some(error);
                    return None;
                }
            };
            movies += 1;
            if movies % OBSERVE_EVERY == 0 {
                observer.on_read(movies, file.bytes());
            }
            // After the first bad line the rest is only read to report more of them.
            if file.is_good() {
                return Some(row);
            }
        }
    });
    let copied = repository::copy_in(tx, target, rows)?;
    observer.on_read(movies, file.bytes());
    match unreadable {
        Some(error) => Err(ImportError::Unreadable(error)),
        None if !file.is_good() => Err(ImportError::BadLines(file.into_problems())),
        None => Ok(copied),
    }
}

impl From<MovieLine<'_>> for MovieRow {
    fn from(movie: MovieLine<'_>) -> MovieRow {
        let MovieLine { movie_id, title, year, genres } = movie;
        let genres = genres.into_iter().map(str::to_owned).collect();
        MovieRow { movie_id, title: title.to_owned(), year, genres }
    }
}
