//! `poolhouse completions`: a script that completes this program's command line.

use crate::cli::{Cli, Failure};
use crate::commands::database::print_or_fail;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    // Not to standard output directly: a failed write there would panic.
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "poolhouse", &mut script);
    print_or_fail(String::from_utf8_lossy(&script).trim_end())
}
