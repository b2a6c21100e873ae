//! The commands, from settings to exit.

mod check;
mod database;
mod import;
mod schema;
mod serve;
mod target;

use crate::cli::{Command, Failure};
use crate::process::signals::{self, Manner};
use poolhouse::Settings;
use poolhouse::settings::Source;

/// Does what was asked.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let manner = if command == Command::Serve { Manner::InOrder } else { Manner::AtOnce };
    signals::watch(manner).map_err(Failure::during("cannot receive signals"))?;
    let settings = Settings::load()?;
    env_logger::Builder::new().parse_filters(&log_filter(&settings)).init();
    match command {
        Command::Serve => serve::serve(settings),
        Command::Schema => schema::apply_schema(settings),
        Command::Check => check::check(settings),
        Command::Import { file } => import::import(settings, &file),
    }
}

/// actix reports every start and stop of its own too, and as an error each request that a client has garbled: anyone
/// could fill the log with them. Who wants that says so with `RUST_LOG`, or a level below info.
fn log_filter(settings: &Settings) -> String {
    let mut rows = settings.effective().iter();
    let is_level = rows.any(|row| row.variable == "LOG_LEVEL" && row.source != Source::Variable("RUST_LOG"));
    match settings.log_filter.as_str() {
        "info" if is_level => "info,actix_server=warn,actix_http=off".to_owned(),
        level @ ("warn" | "error") if is_level => format!("{level},actix_http=off"),
        filter => filter.to_owned(),
    }
}
