//! `poolhouse import` of the real file against psql's `\copy`.

use super::Stage;
use crate::measure::median;
use crate::report::{Table, time, title};
use crate::support::postgres::url;
use poolhouse::settings::DatabaseSettings;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 3;

pub(crate) fn run(stage: &Stage) {
    let Some(csv) = &stage.movies_csv else {
        println!("import: skipped; MOVIELENS_CSV names no file\n");
        return;
    };
    if !stage.program.is_file() {
        println!("import: skipped; no program at {}\n", stage.program.display());
        return;
    }
    let lines = std::fs::File::open(csv).map(|file| BufReader::new(file).lines().count());
    let rows = lines.expect("the file of movies").saturating_sub(1);
    let directory = tempfile::tempdir().expect("a directory");
    let converted = directory.path().join("movies.copy");

    let mut seconds: [Vec<f64>; 3] = Default::default();
    for round in 0..ROUNDS {
        let database = stage.server.fresh_database().with_schema();
        seconds[0].push(import(&stage.program, directory.path(), &database.url(), csv));
        if round == 0 {
            let columns = "movies (movie_id, title, year, genres)";
            psql(&database.settings(), &format!("\\copy {columns} TO '{}'", converted.display()));
        }
        let database = stage.server.fresh_database().with_schema();
        let sql = format!("\\copy movies (movie_id, title, year, genres) FROM '{}'", converted.display());
        seconds[1].push(psql(&database.settings(), &sql));
        let database = stage.server.fresh_database();
        let staging = "CREATE TABLE staging (movieid integer PRIMARY KEY, title text, genres text)";
        database.client().batch_execute(staging).expect("a staging table");
        let sql = format!("\\copy staging FROM '{}' (FORMAT csv, HEADER)", csv.display());
        seconds[2].push(psql(&database.settings(), &sql));
    }
    title(&format!("import of {rows} movies into an empty table, start of the program to its end"));
    let mut table = Table::new(&["", "took", "rows/s", "to \\copy into movies"]);
    let names = [
        "poolhouse import: the file, into movies",
        "psql \\copy: the rows made of it, into movies (same indexes, checks, search column)",
        "psql \\copy: the file as it is, into a staging table (movieid, title, genres)",
    ];
    for (name, own) in names.iter().zip(&seconds) {
        let ratios = own.iter().zip(&seconds[1]).map(|(own, copy)| copy / own);
        table.row([
            (*name).to_owned(),
            time(median(own.iter().copied())),
            format!("{:.0}", rows as f64 / median(own.iter().copied())),
            format!("{:.2}", median(ratios)),
        ]);
    }
    table.print();
}

/// In a directory without `.env` files, so that only what is said here holds.
pub(super) fn import(program: &Path, directory: &Path, url: &str, csv: &Path) -> f64 {
    let csv = csv.canonicalize().expect("the file of movies");
    let mut command = Command::new(program);
    command.arg("import").arg(csv).current_dir(directory).env("DATABASE_URL", url);
    timed(super::without_settings(&mut command).env("DATABASE_URL", url))
}

pub(super) fn psql(database: &DatabaseSettings, command: &str) -> f64 {
    let url = url(database);
    timed(Command::new("psql").args(["--no-psqlrc", "--quiet", "--command", command, &url]))
}

fn timed(command: &mut Command) -> f64 {
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    let took = begun.elapsed().as_secs_f64();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    took
}
