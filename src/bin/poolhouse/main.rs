//! The reference service of poolhouse: a catalogue of movies, served through the pool.
//!
//! It uses nothing but the library's public API. Start with `cli`, which says what can be asked of it, then
//! `commands`; a request travels `server` → `handlers` → `services` → `repositories`.
//!
//! `main` is a plain function: the pool is opened before the actix system starts and closed after it has ended,
//! because a driver's client used or dropped inside async code panics.

mod cli;
mod commands;
mod dev_postgres;
mod http;
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
        // Help and version are such "errors" too; clap knows which stream and which code each takes.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(cli::USAGE));
        }
    };
    match commands::run(cli.into_command()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("poolhouse: {failure}");
            failure.exit_code()
        }
    }
}
