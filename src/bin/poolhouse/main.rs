//! The reference service of poolhouse: a catalogue of movies, and documents with full-text search, served through the pool.
//!
//! It uses only the library's public API. Start with `cli`, which defines the commands, then `commands`, which runs
//! them; a request travels `http` → `services` → `repositories`.
//!
//! `main` is not async: the pool opens before the actix system starts and closes after it has ended, because a
//! driver's client that is used or dropped inside async code panics.

mod cli;
mod commands;
mod dev_postgres;
mod http;
mod log_lines;
mod problems;
mod process;
mod progress;
mod repositories;
mod schema;
mod services;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        // Includes help and version: clap knows the stream and the exit code of each.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(cli::USAGE));
        }
    };
    match commands::run(cli.into_command()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("poolhouse: {failure}");
            failure.exit_code()
        }
    }
}
