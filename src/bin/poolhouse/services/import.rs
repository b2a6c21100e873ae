//! Loads a MovieLens file: all of it in one transaction, or nothing.

use crate::problems::Problems;
use crate::repositories::import::{self as repository, Target};
use crate::services::movie_file::{MovieFile, MovieLine};
use poolhouse::postgres;
use poolhouse::{Error, Pool, Transaction};
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write as _};

/// Rows are sent in pieces of about this many bytes.
const CHUNK: usize = 64 * 1024;

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
    /// Called after a piece: how many movies and bytes have been read.
    fn on_read(&mut self, movies: u64, bytes: u64);
    /// Called when all movies are read and the database merges them.
    fn on_merge(&mut self, movies: u64);
}

/// Observes nothing.
impl ImportObserver for () {
    fn on_read(&mut self, _movies: u64, _bytes: u64) {}
    fn on_merge(&mut self, _movies: u64) {}
}

/// Loads the movies of `input`: inserts new ones, updates changed ones, and keeps those that are not in the file.
///
/// # Blocking
///
/// Until the whole file is loaded: a second or two for the MovieLens file of 86,537 movies. If the answer to COMMIT
/// is lost, for the acquire timeout more, to ask the server for the commit's status.
pub(crate) fn import_movies(
    pool: &Pool,
    mut input: impl Read,
    observer: &mut impl ImportObserver,
) -> Result<Imported, ImportError> {
    in_transaction(pool, |tx, target| {
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
    in_transaction(pool, |tx, target| match target {
        Target::Movies => send(tx, target, input, &mut ()).map(Some),
        Target::Incoming => Ok(None),
    })
}

/// Runs `load` in a verified transaction, with the table that its movies go to.
fn in_transaction<R>(
    pool: &Pool,
    load: impl FnOnce(&mut Transaction<'_>, Target) -> Result<R, ImportError>,
) -> Result<R, ImportError> {
    let loaded = pool.transaction_verified(|tx| {
        let target = repository::prepare(tx)?;
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
    let mut copy = repository::copy_in(tx, target)?;
    let mut chunk = String::with_capacity(2 * CHUNK);
    let mut movies = 0;
    while let Some(movie) = file.next().map_err(ImportError::Unreadable)? {
        write_row(&mut chunk, &movie);
        movies += 1;
        if chunk.len() >= CHUNK {
            // After the first bad line the rest is only read to report more of them.
            if file.is_good() {
                copy.write_all(chunk.as_bytes()).map_err(send_error)?;
            }
            chunk.clear();
            observer.on_read(movies, file.bytes());
        }
    }
    observer.on_read(movies, file.bytes());
    if !file.is_good() {
        return Err(ImportError::BadLines(file.into_problems()));
    }
    copy.write_all(chunk.as_bytes()).map_err(send_error)?;
    copy.finish().map_err(|error| ImportError::Database(error.into()))?;
    Ok(movies)
}

/// The driver wraps its own error into an `io::Error`; the server's message is inside.
fn send_error(error: io::Error) -> ImportError {
    let text = error.to_string();
    let inner = error.into_inner().and_then(|inner| inner.downcast::<postgres::Error>().ok());
    ImportError::Database(match inner {
        Some(error) => Error::from(*error),
        None => Error::application(text),
    })
}

/// One row in the text format of COPY. Of what that escapes, a title can contain only the backslash, and a genre
/// nothing.
fn write_row(chunk: &mut String, movie: &MovieLine<'_>) {
    let MovieLine { movie_id, title, year, genres } = movie;
    // Writing to a string cannot fail.
    let _ = write!(chunk, "{movie_id}\t");
    match title.contains('\\') {
        true => chunk.push_str(&title.replace('\\', "\\\\")),
        false => chunk.push_str(title),
    }
    let _ = match year {
        Some(year) => write!(chunk, "\t{year}\t{{"),
        None => write!(chunk, "\t\\N\t{{"),
    };
    for (index, genre) in genres.iter().enumerate() {
        if index > 0 {
            chunk.push(',');
        }
        chunk.push_str(genre);
    }
    chunk.push_str("}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_escaped_as_copy_reads_them() {
        let mut chunk = String::new();
        let genres = vec!["Film-Noir", "War"];
        write_row(&mut chunk, &MovieLine { movie_id: 1, title: "\\N \\. ", year: Some(1941), genres });
        write_row(&mut chunk, &MovieLine { movie_id: 2, title: "{,\"}", year: None, genres: vec![] });
        assert_eq!(chunk, "1\t\\\\N \\\\. \t1941\t{Film-Noir,War}\n2\t{,\"}\t\\N\t{}\n");
    }
}
