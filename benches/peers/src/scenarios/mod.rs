//! The scenarios, and the server they share.

pub(crate) mod acquire;
pub(crate) mod bulk;
pub(crate) mod documents;
pub(crate) mod faults;
pub(crate) mod first_answer;
pub(crate) mod growth;
pub(crate) mod import;
pub(crate) mod recovery;
pub(crate) mod spike;
pub(crate) mod throughput;

use crate::measure::Rounds;
use crate::support::server::Postgres;
use std::path::PathBuf;
use std::process::Command;
use tokio::runtime::Runtime;

/// What scenarios are given.
pub(crate) struct Stage {
    pub(crate) server: Postgres,
    /// Where async contestants live: two workers, as this is what the machine has.
    pub(crate) runtime: Runtime,
    pub(crate) rounds: Rounds,
    pub(crate) movies_csv: Option<PathBuf>,
    pub(crate) program: PathBuf,
}

impl Stage {
    pub(crate) fn new(rounds: Rounds, movies_csv: Option<PathBuf>, program: PathBuf) -> Stage {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        // Vacuuming is done between rounds, so that no contestant has it in its own.
        let server = Postgres::start_with(&[("max_connections", "400"), ("autovacuum", "off")]);
        for sql in [FILMS, "VACUUM ANALYZE films"] {
            server.client().batch_execute(sql).expect("the table of films");
        }
        Stage { server, runtime, rounds, movies_csv, program }
    }
}

/// Takes the variables of the service's settings out of a command's environment: the defaults are measured.
pub(crate) fn without_settings(command: &mut Command) -> &mut Command {
    for variable in poolhouse::settings::VARIABLES {
        command.env_remove(variable.name);
    }
    command
}

/// Ten thousand rows like those of the service. Half-empty pages leave room for updates in place.
const FILMS: &str = "
    CREATE TABLE films (
        movie_id integer PRIMARY KEY, title text NOT NULL, year integer, genres text[] NOT NULL
    ) WITH (fillfactor = 50);
    INSERT INTO films
        SELECT n, 'The Long Journey of Film Number ' || n, CASE WHEN n % 50 > 0 THEN 1900 + n % 120 END,
            CASE n % 3 WHEN 0 THEN '{Drama}' WHEN 1 THEN '{Comedy,Romance}' ELSE '{Action,Sci-Fi,Thriller}' END::text[]
        FROM generate_series(1, 10000) n;
";
