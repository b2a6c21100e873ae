//! One file becomes one document, in one transaction. An outage of the database is waited out.

use crate::repositories::documents as repository;
use crate::services::document_text::{Content, Prepared};
use crate::services::ingest::files;
use poolhouse::settings::DocumentSettings;
use poolhouse::{Error, Pool, with_deadline};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The pause before an attempt to reach the database again.
const PAUSE: Duration = Duration::from_millis(200);

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// It is a new document.
    Added { chunks: usize },
    /// The document had other content, or was split by other sizes.
    Replaced { chunks: usize },
    /// The document had this content already.
    Unchanged,
}

/// Why a file was not loaded.
#[derive(Debug)]
pub(super) enum NotLoaded {
    /// It cannot be: the reason, which follows its path in a message.
    Bad(String),
    /// The run was stopped while the database was away.
    Stopped,
    /// No file can be.
    Fatal(Error),
}

/// The way to the database, for all workers.
pub(super) struct Loader<'a> {
    pub(super) pool: &'a Pool,
    pub(super) settings: DocumentSettings,
    /// How long to wait for a database that is away.
    pub(super) patience: Duration,
    /// Waits until the run is stopped, at most for this long; returns whether it is.
    pub(super) is_stopped: &'a (dyn Fn(Duration) -> bool + Sync),
    /// Whether some worker waits, for one line in the log about each outage.
    is_waiting: AtomicBool,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        pool: &'a Pool,
        settings: DocumentSettings,
        patience: Duration,
        is_stopped: &'a (dyn Fn(Duration) -> bool + Sync),
    ) -> Loader<'a> {
        Loader { pool, settings, patience, is_stopped, is_waiting: AtomicBool::new(false) }
    }

    /// Loads a file; returns its length too.
    pub(super) fn load(&self, path: &Path) -> Result<(Loaded, u64), NotLoaded> {
        let source =
            path.to_str().ok_or_else(|| NotLoaded::Bad("has a path that is not UTF-8".to_owned()))?;
        let bytes = files::read(path, &self.settings).map_err(NotLoaded::Bad)?;
        let length = bytes.len() as u64;
        let content = Content::decode(bytes).map_err(|why| NotLoaded::Bad(why.to_string()))?;
        let sha256 = content.sha256();
        let version = || repository::find_version(self.pool, source, &sha256, &self.settings);
        let known = match self.patiently(version)? {
            Some((_, true)) => return Ok((Loaded::Unchanged, length)),
            known => known.map(|(document_id, _)| document_id),
        };
        let prepared =
            Prepared::new(source.to_owned(), None, files::media_type(path), content, &self.settings);
        let prepared = prepared.map_err(|why| NotLoaded::Bad(why.to_string()))?;
        let mut attempts = 0;
        let chunks = self.patiently(|| {
            attempts += 1;
            // An earlier attempt may have been committed without an answer.
            let version = if attempts == 1 { known.map(|id| (id, false)) } else { version()? };
            self.write(&prepared, version)
        })?;
        let loaded = if known.is_some() { Loaded::Replaced { chunks } } else { Loaded::Added { chunks } };
        Ok((loaded, length))
    }

    /// Writes a document; returns the number of its chunks. `version` is the id of the present one, and whether it is the
    /// same.
    fn write(&self, prepared: &Prepared, mut version: Option<(i64, bool)>) -> Result<usize, Error> {
        let (document, chunks) = (&prepared.document, prepared.chunks());
        loop {
            let is_written = match version {
                Some((_, true)) => true,
                Some((id, false)) => {
                    self.pool.transaction(|tx| repository::replace_document(tx, id, document, &chunks))? == 1
                }
                None => match repository::insert_document(self.pool, document, &chunks) {
                    Err(error) if error.constraint() == Some("documents_source_key") => false,
                    added => added?.is_some(),
                },
            };
            if is_written {
                return Ok(chunks.texts.len());
            }
            // Another run has added or removed it in between.
            let (source, sha256) = (&document.source, &document.sha256);
            version = repository::find_version(self.pool, source, sha256, &self.settings)?;
        }
    }

    /// Runs `work`, again and again while the database is away, for as long as there is patience.
    pub(super) fn patiently<R>(&self, mut work: impl FnMut() -> Result<R, Error>) -> Result<R, NotLoaded> {
        let (mut away_since, mut late): (Option<Instant>, u32) = (None, 0);
        loop {
            let outcome = match away_since {
                None => work(),
                Some(since) => with_deadline(since + self.patience, &mut work),
            };
            let error = match outcome {
                Ok(done) => {
                    if away_since.is_some() && self.is_waiting.swap(false, Ordering::Relaxed) {
                        log::info!("The database is back");
                    }
                    return Ok(done);
                }
                Err(error) => error,
            };
            if let Some(failure) = lasting(&error) {
                return Err(failure(error));
            }
            let since = *away_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.patience {
                return Err(NotLoaded::Fatal(error));
            }
            late += u32::from(matches!(error, Error::DeadlineExceeded(_)));
            if late > 1 {
                // The database was reached both times: it is not away.
                self.is_waiting.store(false, Ordering::Relaxed);
                return Err(NotLoaded::Bad(format!("takes the database too long, twice: {error}")));
            }
            if !self.is_waiting.swap(true, Ordering::Relaxed) {
                log::warn!("Waiting up to {} s for the database: {error}", self.patience.as_secs());
            }
            if (self.is_stopped)(PAUSE) {
                return Err(NotLoaded::Stopped);
            }
        }
    }
}

/// What an error means that waiting does not mend; `None` for another.
fn lasting(error: &Error) -> Option<fn(Error) -> NotLoaded> {
    let state = error.sqlstate().unwrap_or_default();
    match state.get(..2).unwrap_or_default() {
        // A full disk.
        _ if state == "53100" => Some(NotLoaded::Fatal),
        // A value, a constraint or a limit of the server; or the statement was cancelled.
        "22" | "23" | "54" => Some(refused),
        _ if state == "57014" => Some(refused),
        _ if error.is_transient() || matches!(error, Error::OutcomeUnknown(_)) => None,
        _ => Some(NotLoaded::Fatal),
    }
}

fn refused(error: Error) -> NotLoaded {
    NotLoaded::Bad(format!("is refused by the database: {error}"))
}
