//! Loads files as documents: a walk finds them, workers load them, the calling thread counts.
//!
//! Memory: a queue of a few paths, and for each worker the bytes, the text and the chunks of one document. A run that was
//! killed leaves whole documents only; the next run finds them unchanged and goes on.

mod files;
mod load;

pub(crate) use files::Roots;
pub(crate) use load::Loaded;

use crate::repositories::documents as repository;
use files::Found;
use load::{Loader, NotLoaded};
use poolhouse::settings::DocumentSettings;
use poolhouse::{Error, Pool};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How many paths a summary lists by name.
const NAMED: usize = 100;

/// How many sources are compared with the files at once.
const SOURCES: i64 = 1000;

/// How to load.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) documents: DocumentSettings,
    pub(crate) workers: usize,
    /// How long to wait for a database that is away.
    pub(crate) patience: Duration,
    /// Remove the documents whose files are gone.
    pub(crate) prune: bool,
}

/// A file that was not loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// The counts of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    /// Files that were looked at.
    pub(crate) files: u64,
    /// The bytes of those that were read.
    pub(crate) bytes: u64,
    pub(crate) added: u64,
    pub(crate) replaced: u64,
    pub(crate) unchanged: u64,
    pub(crate) skipped: u64,
    /// Documents below the folders whose files are gone.
    pub(crate) vanished: u64,
    /// How many of these were removed.
    pub(crate) pruned: u64,
    /// Chunks that were written.
    pub(crate) chunks: u64,
    /// Every file was looked at.
    pub(crate) is_complete: bool,
    /// The first of them.
    pub(crate) skipped_files: Vec<Skipped>,
    /// The first of them.
    pub(crate) vanished_sources: Vec<String>,
}

impl Summary {
    fn add(&mut self, loaded: Loaded, bytes: u64) {
        self.bytes += bytes;
        let (count, chunks) = match loaded {
            Loaded::Added { chunks } => (&mut self.added, chunks),
            Loaded::Replaced { chunks } => (&mut self.replaced, chunks),
            Loaded::Unchanged => (&mut self.unchanged, 0),
        };
        *count += 1;
        self.chunks += chunks as u64;
    }
}

/// An observer of a run's progress.
pub(crate) trait IngestObserver {
    /// Called once, with the number of files and their bytes.
    fn on_start(&mut self, files: u64, bytes: u64);
    /// Called after each file, with the number of files and bytes so far.
    fn on_file(&mut self, files: u64, bytes: u64);
    /// Called for each file that was not loaded.
    fn on_skipped(&mut self, skipped: &Skipped);
}

/// What a thread reports: a file, and what became of it.
type Report = (PathBuf, Result<(Loaded, u64), NotLoaded>);

/// Loads every file of `roots` whose document is missing or different.
///
/// `is_stopped` waits until the run is to stop, at most for the time given, and returns whether it is. A run that is stopped
/// completes the documents in work.
///
/// # Blocking
///
/// Until all is loaded. While the database is away, at most for the patience of the options.
///
/// # Errors
///
/// The counts are returned in any case. The error is the database's, where it let no file be loaded.
pub(crate) fn ingest(
    pool: &Pool,
    roots: &Roots,
    options: &Options,
    is_stopped: &(dyn Fn(Duration) -> bool + Sync),
    observer: &mut impl IngestObserver,
) -> (Summary, Option<Error>) {
    let limit = u64::from(options.documents.max_bytes);
    let (files, bytes) = roots.measure(limit, || is_stopped(Duration::ZERO));
    observer.on_start(files, bytes);
    let mut run = Run::default();
    // A failure stops the other workers as well.
    let has_failed = AtomicBool::new(false);
    let is_over = |timeout| has_failed.load(Ordering::Relaxed) || is_stopped(timeout);
    let loader = Loader::new(pool, options.documents, options.patience, &is_over);
    let is_walked = thread::scope(|scope| {
        let (to_load, paths) = sync_channel(2 * options.workers);
        let (report, reports) = sync_channel(4 * options.workers);
        // The workers own the receiver, so that the walk ends when they have.
        let paths = Arc::new(Mutex::new(paths));
        for _ in 0..options.workers {
            let (paths, report, loader) = (paths.clone(), report.clone(), &loader);
            scope.spawn(move || work(loader, &paths, &report));
        }
        drop(paths);
        let walk = scope.spawn(|| walk(roots, &is_over, to_load, report));
        for (path, outcome) in reports {
            run.count(&path, outcome, observer);
            if run.fatal.is_some() {
                has_failed.store(true, Ordering::Relaxed);
            }
        }
        walk.join().unwrap_or(false)
    });
    run.summary.is_complete = is_walked && run.fatal.is_none() && !run.is_cut;
    if run.summary.is_complete
        && let Err(failure) = run.find_vanished(&loader, roots, options.prune)
    {
        run.summary.is_complete = false;
        match failure {
            NotLoaded::Fatal(error) => run.fatal = Some(error),
            NotLoaded::Bad(reason) => log::error!("The comparison of documents with files {reason}"),
            NotLoaded::Stopped => {}
        }
    }
    (run.summary, run.fatal)
}

/// Sends every file to the workers; returns whether it came to the end.
fn walk(
    roots: &Roots,
    is_over: &(dyn Fn(Duration) -> bool + Sync),
    to_load: SyncSender<PathBuf>,
    report: SyncSender<Report>,
) -> bool {
    for found in roots.walk() {
        if is_over(Duration::ZERO) {
            return false;
        }
        let is_sent = match found {
            Found::File(path) => to_load.send(path).is_ok(),
            Found::Bad(path, reason) => report.send((path, Err(NotLoaded::Bad(reason)))).is_ok(),
        };
        if !is_sent {
            return false;
        }
    }
    true
}

/// Loads files until there are no more, or the run is over.
fn work(loader: &Loader<'_>, paths: &Mutex<Receiver<PathBuf>>, report: &SyncSender<Report>) {
    loop {
        // Locked while it waits: the others would wait for the same.
        let next = paths.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(path) = next else { return };
        // A path that was taken is reported, so that the counts show whether all were looked at.
        let outcome = match (loader.is_stopped)(Duration::ZERO) {
            true => Err(NotLoaded::Stopped),
            false => loader.load(&path),
        };
        if report.send((path, outcome)).is_err() {
            return;
        }
    }
}

/// What is known of a run so far.
#[derive(Default)]
struct Run {
    summary: Summary,
    fatal: Option<Error>,
    /// A file was left because the run was stopped.
    is_cut: bool,
}

impl Run {
    fn count(
        &mut self,
        path: &Path,
        outcome: Result<(Loaded, u64), NotLoaded>,
        observer: &mut impl IngestObserver,
    ) {
        let summary = &mut self.summary;
        match outcome {
            Ok((loaded, bytes)) => summary.add(loaded, bytes),
            Err(NotLoaded::Bad(reason)) => {
                let skipped = Skipped { path: path.display().to_string(), reason };
                observer.on_skipped(&skipped);
                summary.skipped += 1;
                if summary.skipped_files.len() < NAMED {
                    summary.skipped_files.push(skipped);
                }
            }
            Err(NotLoaded::Stopped) => {
                self.is_cut = true;
                return;
            }
            Err(NotLoaded::Fatal(error)) => {
                self.fatal.get_or_insert(error);
                return;
            }
        }
        summary.files += 1;
        observer.on_file(summary.files, summary.bytes);
    }

    /// Counts the documents below the folders whose files are gone, and removes them if `prune`.
    fn find_vanished(&mut self, loader: &Loader<'_>, roots: &Roots, prune: bool) -> Result<(), NotLoaded> {
        for folder in roots.folders() {
            let mut after = String::new();
            loop {
                let page =
                    loader.patiently(|| repository::list_folder(loader.pool, folder, &after, SOURCES))?;
                let Some(last) = page.last() else { break };
                after.clone_from(&last.source);
                let gone: Vec<_> =
                    page.into_iter().filter(|one| files::is_gone(Path::new(&one.source))).collect();
                self.summary.vanished += gone.len() as u64;
                if prune && !gone.is_empty() {
                    self.summary.pruned +=
                        loader.patiently(|| repository::delete_listed(loader.pool, &gone))?;
                }
                let room = NAMED.saturating_sub(self.summary.vanished_sources.len());
                self.summary.vanished_sources.extend(gone.into_iter().take(room).map(|one| one.source));
                if (loader.is_stopped)(Duration::ZERO) {
                    return Err(NotLoaded::Stopped);
                }
            }
        }
        Ok(())
    }
}
