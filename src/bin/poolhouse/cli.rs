//! The command line: the commands, the exit codes, and a command's failure as text. It runs nothing.

use clap::{Args, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use poolhouse::Error;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The exit code for an invalid command line or invalid settings; the same as clap's.
pub(crate) const USAGE: u8 = 2;

/// The exit code for a run that was done, but for a part.
const INCOMPLETE: u8 = 3;

/// A catalogue of movies, served through poolhouse: a blocking PostgreSQL connection pool whose deadlines hold
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
APP_ENV (dev, preprod, production) picks the file the settings come from: .env.dev, .env.preprod or
.env.production in the current directory; variables of the environment win over it. In the dev tier, and with no
database set, a private PostgreSQL is started, whose data stays in .poolhouse/.

Exit codes: 0 done; 1 it could not be done, standard error says why; 2 the command line or the settings cannot
be used; 3 a part of it was left out, as files of `ingest`: standard error names it; 4 and 5 `status` found the
pool in the state warning, or error; 128 and a signal's number: that signal ended it at once.

Colours are for terminals only; NO_COLOR=1 turns them off.";

const SERVE_EXAMPLES: &str = "\
Examples:
  poolhouse serve                             on 127.0.0.1:5000, with the settings in .env.dev
  APP_ENV=production poolhouse serve          with those in .env.production
  HTTP_BIND=0.0.0.0:8080 poolhouse serve      for other machines, on another port";

const SCHEMA_EXAMPLES: &str = "\
Examples:
  poolhouse schema
  DATABASE_URL=postgres://me:password@db:5432/movies poolhouse schema";

const CHECK_EXAMPLES: &str = "\
Examples:
  poolhouse check
  APP_ENV=production poolhouse check && systemctl restart poolhouse
  poolhouse check --json | jq -r '.settings[] | select(.source != \"default\") | .variable'

Exit codes: 0 all is well; 1 the database is at fault; 2 the settings are.";

const STATUS_EXAMPLES: &str = "\
Examples:
  export TOKEN=…                              a token of the service's API_TOKENS
  poolhouse status                            the service of these settings, at HTTP_BIND
  poolhouse status http://10.0.0.7:5000       another one
  poolhouse status --watch                    again every second, until Ctrl-C
  poolhouse status --json | jq .report.pool_stats.in_use
  poolhouse status --token-file /run/secrets/poolhouse-token http://10.0.0.7:5000

Exit codes: 0 healthy; 4 warning; 5 error; 1 the service gave no answer, or one that is not poolhouse's; 2 the command
line, the settings or the token cannot be used. With --watch: 0 when ended by Ctrl-C.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  poolhouse import movies.csv
  poolhouse import --timeout 60 movies.csv    in a minute, or not at all
  unzip -p ml-latest.zip '*/movies.csv' | poolhouse import -";

const INGEST_EXAMPLES: &str = "\
Examples:
  poolhouse ingest ~/notes
  poolhouse ingest ~/notes --only md,html --prune
  poolhouse ingest manual.html --chunk-bytes 1000 --json

Exit code 3: files were left out, standard error names them; or it was stopped before the end.";

const BENCH_EXAMPLES: &str = "\
Examples:
  poolhouse bench
  poolhouse bench --seconds 60 --connect-delay 20ms      as if each connect took 20 ms longer
  poolhouse bench --json";

const TOKEN_EXAMPLES: &str = "\
Examples:
  poolhouse token new ops                     a new token, and its entry for API_TOKENS
  poolhouse token hash ops < token.txt        the entry of a token that you have";

const TOKEN_NEW_EXAMPLES: &str = "\
Examples:
  poolhouse token new ops
  poolhouse token new ops --json | jq -r .entry

The token is shown this once and stored nowhere; the entry of API_TOKENS has its hash only.";

const TOKEN_HASH_EXAMPLES: &str = "\
Examples:
  poolhouse token hash ops < token.txt
  openssl rand -hex 24 | tee token.txt | poolhouse token hash ops

The token is read from standard input, because other users see the arguments of a command. One that production would refuse
is refused in every tier: nobody can see from a hash how long its token is.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  poolhouse completions bash > ~/.local/share/bash-completion/completions/poolhouse
  poolhouse completions zsh > ~/.zfunc/_poolhouse         with ~/.zfunc in fpath, before compinit
  poolhouse completions fish > ~/.config/fish/completions/poolhouse.fish";

/// A command of the program.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Serve the movies over HTTP until SIGTERM or Ctrl-C (without a command: this)
    #[command(after_help = SERVE_EXAMPLES)]
    Serve,
    /// Show the settings in force, and try the database with them
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask a running service for its pool: use, waiting callers, verdict, advice, and the lines that hold connections
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArguments),
    /// Make the tables in the database; again without harm
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema,
    /// Load a MovieLens file: all of it or nothing, again without harm
    #[command(after_help = IMPORT_EXAMPLES)]
    Import {
        /// The file (movieId,title,genres), or - for standard input
        file: PathBuf,
        /// Give up after so many seconds, and load nothing; each piece of rows has DB_STATEMENT_TIMEOUT_MS in any case
        #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=86_400))]
        timeout: Option<u64>,
    },
    /// Load text, Markdown and HTML files as documents: new and changed ones only, again without harm
    #[command(after_help = INGEST_EXAMPLES)]
    Ingest(IngestArguments),
    /// Measure a connection per query against the pool, on the database of the settings
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArguments),
    /// Make a token for API_TOKENS, or hash one
    #[command(subcommand, after_help = TOKEN_EXAMPLES)]
    Token(TokenCommand),
    /// Print a script that completes this program's command line in a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The command line of `status`.
#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct StatusArguments {
    /// The service, as in http://127.0.0.1:5000 [default: HTTP_BIND of the settings]
    pub(crate) url: Option<String>,
    /// Ask again every second until Ctrl-C; on a terminal, redraw
    #[arg(long)]
    pub(crate) watch: bool,
    /// Print the answer as JSON, one object in a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Read the token from the first line of this file, in place of the variable TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How many seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = value_parser!(u64).range(1..=60))]
    pub(crate) timeout: u64,
}

/// A command of `token`.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a new random token, and its entry for API_TOKENS
    #[command(after_help = TOKEN_NEW_EXAMPLES)]
    New {
        /// The name that log lines show for it
        #[arg(default_value = "default")]
        name: String,
        /// Print both as JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a token from standard input, and print its entry for API_TOKENS
    #[command(after_help = TOKEN_HASH_EXAMPLES)]
    Hash {
        /// The name that log lines show for it
        #[arg(default_value = "default")]
        name: String,
    },
}

/// The command line of `ingest`.
#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct IngestArguments {
    /// Files, and folders with everything below them but hidden files
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Of the files in folders, load only those with one of these endings, as in --only md,html
    #[arg(long, value_delimiter = ',', value_name = "ENDING")]
    pub(crate) only: Vec<String>,
    /// Remove the documents below the folders whose files are gone
    #[arg(long)]
    pub(crate) prune: bool,
    /// How many documents to load at the same time [default: DB_POOL_MAX_CONNECTIONS, at most twice the processors]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) workers: Option<u32>,
    /// The longest chunk, instead of DOCUMENT_CHUNK_BYTES
    #[arg(long)]
    pub(crate) chunk_bytes: Option<u32>,
    /// What the next chunk may repeat, instead of DOCUMENT_OVERLAP_BYTES
    #[arg(long)]
    pub(crate) overlap_bytes: Option<u32>,
    /// How many seconds to wait for a database that is away
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(crate) wait_s: u32,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The command line of `bench`.
#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct BenchArguments {
    /// About how long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// Sleep so long before each connect, as in 100ms: what network, TLS and authentication cost elsewhere
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_delay)]
    pub(crate) connect_delay: Duration,
    /// Measure in the production tier, too
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `100ms` or `0.1s`.
fn parse_delay(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or_default(), 1.0),
    };
    // Nothing with an exponent or a sign, which `f64` takes.
    let is_plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let seconds = number.parse::<f64>().ok().filter(|_| is_plain).map(|number| number * unit);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a time with its unit is needed, as 100ms or 0.1s".to_owned())
}

impl Cli {
    pub(crate) fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve)
    }
}

/// A command of this program as the user can type it: with the name that started the program, because `make run`
/// does not put it on the `PATH`.
pub(crate) fn spelled(command: &str) -> String {
    let name = std::env::args_os().next().unwrap_or_else(|| "poolhouse".into());
    spelled_with(&name.to_string_lossy(), command)
}

fn spelled_with(name: &str, command: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    match name.chars().all(is_plain) {
        true => format!("`{name} {command}`"),
        false => format!("`'{}' {command}`", name.replace('\'', "'\\''")),
    }
}

/// Why a command failed, as text for the user.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The settings or the arguments are invalid; the command did nothing.
    Settings(String),
    /// The command failed while it ran.
    Failed(String),
    /// The command was done, but for a part.
    Incomplete(String),
}

impl Failure {
    /// For `map_err`: the text is what was attempted, then the error.
    pub(crate) fn during<E: fmt::Display>(doing: impl fmt::Display) -> impl FnOnce(E) -> Failure {
        move |error| Failure::Failed(format!("{doing}: {error}"))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Settings(_) => ExitCode::from(USAGE),
            Failure::Failed(_) => ExitCode::FAILURE,
            Failure::Incomplete(_) => ExitCode::from(INCOMPLETE),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Settings(error) => Failure::Settings(error.to_string()),
            error => Failure::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Settings(text) | Failure::Failed(text) | Failure::Incomplete(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_spelled_so_that_they_can_be_typed() {
        assert_eq!(spelled_with("target/release/poolhouse", "schema"), "`target/release/poolhouse schema`");
        assert_eq!(spelled_with("/it's here/poolhouse", "schema"), r"`'/it'\''s here/poolhouse' schema`");
    }

    #[test]
    fn a_delay_has_a_unit() {
        for (text, ms) in [("100ms", 100), ("0.1s", 100), ("1.5s", 1500), ("0ms", 0)] {
            assert_eq!(parse_delay(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "100", "ms", "s", "-1ms", "+1s", "1e3s", "1 s", "infs", "NaNms", "1m", "9e99s", "1..2s"]
        {
            assert!(parse_delay(text).is_err(), "{text}");
        }
    }

    #[test]
    fn without_a_command_it_serves() {
        let cli = Cli::try_parse_from(["poolhouse"]).unwrap();
        assert!(matches!(cli.into_command(), Command::Serve));
        assert!(Cli::try_parse_from(["poolhouse", "import"]).is_err());
    }
}
