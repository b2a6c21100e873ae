//! The commands: each runs from settings to exit code. SQL is in `repositories`, HTTP in `http`.

mod bench;
mod check;
mod completions;
mod database;
mod import;
mod ingest;
mod schema;
mod serve;
mod status;
mod target;
mod token;

use crate::cli::{Command, Failure};
use crate::log_lines;
use crate::process::signals::{self, FirstSignal};
use poolhouse::Settings;
use poolhouse::settings::Source;
use std::process::ExitCode;
use std::time::Duration;

/// Runs a command, and returns the exit code of one that was done.
pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    let first_signal = match &command {
        Command::Serve => FirstSignal::ShutsDown,
        Command::Status(arguments) if arguments.watch => FirstSignal::ShutsDown,
        Command::Ingest(_) | Command::Bench(_) => FirstSignal::CompletesWork,
        _ => FirstSignal::Exits,
    };
    signals::watch(first_signal).map_err(Failure::during("cannot receive signals"))?;
    match command {
        Command::Serve => serve::serve(settings()?)?,
        Command::Schema => schema::apply_schema(settings()?)?,
        Command::Check { json } => check::check(settings()?, json)?,
        Command::Import { file, timeout } => {
            import::import(settings()?, &file, timeout.map(Duration::from_secs))?;
        }
        Command::Bench(arguments) => bench::bench(settings()?, &arguments)?,
        Command::Ingest(arguments) => ingest::ingest_documents(settings()?, &arguments)?,
        Command::Status(arguments) => return status::status(&arguments),
        Command::Token(command) => token::token(command)?,
        Command::Completions { shell } => completions::completions(shell)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads the settings and starts the log.
fn settings() -> Result<Settings, Failure> {
    let settings = Settings::load()?;
    log_lines::init(&log_filter(&settings), settings.log_format);
    Ok(settings)
}

/// Leaves out actix's own lines: it logs each malformed request as an error, so that any client could fill the log, and
/// each start and stop. `RUST_LOG`, or a level below info, shows them.
fn log_filter(settings: &Settings) -> String {
    let mut rows = settings.effective().iter();
    let is_level = rows.any(|row| row.variable == "LOG_LEVEL" && row.source != Source::Variable("RUST_LOG"));
    match settings.log_filter.as_str() {
        "info" if is_level => "info,actix_server=warn,actix_http=off".to_owned(),
        level @ ("warn" | "error") if is_level => format!("{level},actix_http=off"),
        filter => filter.to_owned(),
    }
}
