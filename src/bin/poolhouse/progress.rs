//! Progress of an import on standard error: a bar on a terminal, a line every two seconds otherwise.

use crate::services::import::ImportObserver;
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
