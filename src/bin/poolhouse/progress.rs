//! Progress of a command on standard error: a bar on a terminal, a line every two seconds otherwise.

use crate::services::import::ImportObserver;
use crate::services::ingest::{IngestObserver, Skipped};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// The time between two lines if standard error is no terminal, so as not to fill a log.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Shows the progress of an import.
pub(crate) struct Progress {
    /// The size of the input in bytes; `None` for a stream.
    size: Option<u64>,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Progress through `size` bytes.
    pub(crate) fn new(size: Option<u64>) -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let (bar, template) = match size {
                Some(size) => (
                    ProgressBar::new(size),
                    "{bar:40} {percent:>3} %  {msg}  {decimal_bytes_per_sec}, {eta} left",
                ),
                None => (ProgressBar::new_spinner(), "{spinner} {msg}  {decimal_bytes_per_sec}"),
            };
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        Progress { size, bar, last_line: Instant::now() }
    }

    /// Removes the bar from the screen.
    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

impl ImportObserver for Progress {
    fn on_read(&mut self, movies: u64, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(format!("{movies} movies"));
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            match self.size {
                Some(size) if size > 0 => {
                    eprintln!("Read {movies} movies, {} %", bytes.min(size) * 100 / size)
                }
                _ => eprintln!("Read {movies} movies"),
            }
        }
    }

    fn on_merge(&mut self, movies: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(ProgressStyle::default_spinner());
                bar.set_message(format!("{movies} movies read, the database takes them over"));
                bar.enable_steady_tick(Duration::from_millis(100));
            }
            None => eprintln!("Read {movies} movies, the database takes them over"),
        }
    }
}

/// Shows the progress of `ingest`: how much is done, how fast, how long the rest will take; and each file left out.
pub(crate) struct IngestProgress {
    bar: Option<ProgressBar>,
    files: u64,
    bytes: u64,
    start: Instant,
    last_line: Instant,
}

impl IngestProgress {
    pub(crate) fn new() -> IngestProgress {
        let now = Instant::now();
        IngestProgress { bar: None, files: 0, bytes: 0, start: now, last_line: now }
    }

    /// Removes the bar from the screen.
    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, files: u64, bytes: u64) -> String {
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = bytes as f64 / seconds.max(0.001);
        let left = self.bytes.saturating_sub(bytes) as f64 / rate.max(1.0);
        format!("{files} of {} files, {:.1} MB/s, {left:.0} s left", self.files, rate / 1e6)
    }
}

impl IngestObserver for IngestProgress {
    fn on_start(&mut self, files: u64, bytes: u64) {
        (self.files, self.bytes) = (files, bytes);
        self.start = Instant::now();
        self.bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(bytes);
            let template = "{bar:40} {percent:>3} %  {msg}  {decimal_bytes_per_sec}, {eta} left";
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
    }

    fn on_file(&mut self, files: u64, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(format!("{files} of {} files", self.files));
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            eprintln!("Loaded {}", self.line(files, bytes));
        }
    }

    fn on_skipped(&mut self, skipped: &Skipped) {
        let line = || eprintln!("Left out: {} {}", skipped.path, skipped.reason);
        match &self.bar {
            Some(bar) => bar.suspend(line),
            None => line(),
        }
    }
}
