//! The helpers for many rows, and the memory of `poolhouse ingest`.

use super::{Stage, documents, import};
use crate::measure::median;
use crate::report::{Table, time, title};
use crate::support::postgres::Database;
use crate::support::proxy::Proxy;
use poolhouse::{Bulk, Execute, Pool, PoolSettings};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rows for one statement each.
const ROWS: i32 = 1000;
/// What a network adds to a round trip.
const DELAY: Duration = Duration::from_millis(1);
/// Rows of one query.
const MANY: u64 = 10_000_000;
/// `DOCUMENT_MAX_BYTES`.
const DOCUMENT: usize = 4 * 1024 * 1024;
/// What the documentation says a worker takes at most, in documents of the largest size.
const PER_WORKER: usize = 5;

const COLUMNS: [&str; 4] = ["movie_id", "title", "year", "genres"];

#[derive(Serialize, Deserialize)]
struct Movie {
    movie_id: i32,
    title: String,
    year: Option<i32>,
    genres: Vec<String>,
}

pub(crate) fn run(stage: &Stage) {
    copy_in(stage);
    execute_many(stage);
    for_each_row(stage);
    memory(stage);
}

fn pool(settings: PoolSettings) -> Pool {
    Pool::open(&settings.with_min_connections(1).with_max_connections(1)).expect("a pool")
}

/// Against psql's `\copy` of the same rows, and the driver that has their text ready.
fn copy_in(stage: &Stage) {
    let Some(csv) = stage.movies_csv.as_ref().filter(|_| stage.program.is_file()) else {
        println!("copy_in: skipped; MOVIELENS_CSV names no file, or there is no program\n");
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let loaded = stage.server.fresh_database().with_schema();
    import::import(&stage.program, directory.path(), &loaded.url(), csv);
    let columns = COLUMNS.join(", ");
    let sql = format!("SELECT {columns} FROM movies ORDER BY movie_id");
    let movies: Vec<Movie> = pool(loaded.pool_settings()).execute_query(&sql, &[]).expect("the movies");
    let file = directory.path().join("movies.copy");
    import::psql(&loaded.settings(), &format!("\\copy ({sql}) TO '{}'", file.display()));
    let text = fs::read(&file).expect("the file");

    let mut seconds: [Vec<f64>; 3] = Default::default();
    for round in 0..stage.rounds.count {
        for turn in 0..3 {
            let contestant = (round + turn) % 3;
            let database = stage.server.fresh_database().with_schema();
            let took = match contestant {
                0 => {
                    let pool = pool(database.pool_settings());
                    timed(|| pool.copy_in("movies", &COLUMNS, &movies).expect("the movies are copied"))
                }
                1 => {
                    let path = file.display();
                    import::psql(&database.settings(), &format!("\\copy movies ({columns}) FROM '{path}'"))
                }
                _ => {
                    let mut client = database.client();
                    timed(|| {
                        let sql = format!("COPY movies ({columns}) FROM STDIN");
                        let mut writer = client.copy_in(&sql).expect("a COPY");
                        writer.write_all(&text).expect("the text is sent");
                        writer.finish().expect("the movies are copied")
                    })
                }
            };
            let count: i64 =
                database.client().query_one("SELECT count(*) FROM movies", &[]).expect("them").get(0);
            assert_eq!(count, movies.len() as i64);
            seconds[contestant].push(took);
        }
    }
    title(&format!(
        "copy_in of {} movies into an empty table with its indexes, checks and search column",
        movies.len()
    ));
    let mut table = Table::new(&["", "took", "rows/s", "speed to \\copy", "(lowest-highest)"]);
    let names = [
        "poolhouse: copy_in of structs",
        "psql \\copy, start to end of psql",
        "the driver: COPY of the ready text",
    ];
    for (name, own) in names.iter().zip(&seconds) {
        let took = median(own.iter().copied());
        let [ratio, range] = ratios(&seconds[1], own);
        table.row([
            (*name).to_owned(),
            time(took),
            format!("{:.0}", movies.len() as f64 / took),
            ratio,
            range,
        ]);
    }
    table.print();
}

/// Against a loop of `execute_write`, through a proxy that delays each reply.
fn execute_many(stage: &Stage) {
    let database = stage.server.fresh_database();
    database.client().batch_execute("CREATE TABLE t (a int PRIMARY KEY, b text)").expect("a table");
    let proxy = Proxy::to(&database.settings());
    let pool = pool(PoolSettings::new(proxy.settings()));
    proxy.delay_replies(DELAY);
    let sql = "INSERT INTO t VALUES ($1, $2)";
    let row = |number: i32| (number, format!("row {number}"));
    let (mut seconds, mut round_trips): ([Vec<f64>; 3], [u64; 3]) = Default::default();
    for round in 0..stage.rounds.count {
        for turn in 0..3 {
            let contestant = (round + turn) % 3;
            pool.execute_write("TRUNCATE t", &[]).expect("an empty table");
            let before = proxy.round_trips();
            seconds[contestant].push(timed(|| match contestant {
                0 => pool.execute_many(sql, (0..ROWS).map(row)).expect("the rows"),
                1 => {
                    (0..ROWS).map(row).map(|(a, b)| pool.execute_write(sql, &[&a, &b]).expect("a row")).sum()
                }
                _ => pool.copy_in("t", &["a", "b"], (0..ROWS).map(row)).expect("the rows"),
            }));
            round_trips[contestant] = proxy.round_trips() - before;
        }
    }
    title(&format!("{ROWS} rows with one INSERT each, {DELAY:?} added to each round trip"));
    let mut table = Table::new(&["", "took", "round trips", "speed to the loop", "(lowest-highest)"]);
    let names = ["execute_many", "a loop of execute_write", "copy_in"];
    for (index, (name, own)) in names.iter().zip(&seconds).enumerate() {
        let [ratio, range] = ratios(&seconds[1], own);
        let took = time(median(own.iter().copied()));
        table.row([(*name).to_owned(), took, round_trips[index].to_string(), ratio, range]);
    }
    table.print();
}

/// The memory of this process while a large result passes.
fn for_each_row(stage: &Stage) {
    let pool = pool(stage.server.fresh_database().pool_settings());
    let sql = format!("SELECT n, 'row ' || n FROM generate_series(1, {MANY}) n");
    let (mut rows, mut sum, mut early, mut highest) = (0_u64, 0_u64, 0, 0);
    let start = memory_of("self", "VmRSS:");
    let took = timed(|| {
        let passed = pool.for_each_row(&sql, &[], |(number, text): (i32, String)| {
            rows += 1;
            sum += u64::from(number.unsigned_abs()) + text.len() as u64;
            if rows % 100_000 == 0 {
                let now = memory_of("self", "VmRSS:");
                highest = highest.max(now);
                if rows == MANY / 10 {
                    early = now;
                }
            }
            Ok(())
        });
        assert_eq!(passed.expect("the rows"), MANY);
    });
    assert!(sum > MANY * MANY / 2);
    title(&format!("{MANY} rows through for_each_row: the resident set of this process"));
    let mut table =
        Table::new(&["", "took", "rows/s", "at the start", "after a tenth", "at the end", "highest"]);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let end = memory_of("self", "VmRSS:");
    let rate = format!("{:.0}", MANY as f64 / took);
    table.row(
        ["poolhouse".to_owned(), time(took), rate]
            .into_iter()
            .chain([start, early, end, highest].map(megabytes)),
    );
    table.print();
}

/// The peak of `ingest` with documents of the largest size, beyond that with a small one.
fn memory(stage: &Stage) {
    if !stage.program.is_file() {
        println!("memory of ingest: skipped; no program at {}\n", stage.program.display());
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("files");
    let peak = |name: &str, content: &dyn Fn(usize) -> String, workers: usize| {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder");
        for number in 0..3 * workers {
            fs::write(folder.join(format!("{number}.{name}")), content(number)).expect("a file");
        }
        let database: Database = stage.server.fresh_database().with_schema();
        let workers = workers.to_string();
        documents::ingest(&stage.program, directory.path(), &database, &folder, &["--workers", &workers]).1
    };
    let base = peak("txt", &|_| "A small one.".to_owned(), 1);
    title(&format!(
        "peak memory of ingest, three documents of {DOCUMENT} bytes for each worker, beyond the {:.1} MB with a small one",
        base as f64 / 1e6
    ));
    let mut table = Table::new(&["", "workers", "peak", "bound", "of the bound"]);
    let words = |number: usize| (0..).map(move |word| format!("word{word} of {number}. "));
    let attributes = |number: usize| (0..).map(move |name| format!(" a{number}x{name}"));
    let contents: [(&str, &str, &dyn Fn(usize) -> String); 3] = [
        ("text", "txt", &|number| filled("", words(number))),
        ("HTML, one tag of attributes", "html", &|number| filled("words <p", attributes(number))),
        ("HTML, nothing but <", "html", &|number| {
            filled(&format!("{number}"), std::iter::repeat("<".to_owned()))
        }),
    ];
    for (words, name, content) in contents {
        for workers in [1, 2, 4] {
            let (own, bound) =
                (peak(name, content, workers).saturating_sub(base), PER_WORKER * DOCUMENT * workers);
            let megabytes = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
            let share = format!("{:.2}", own as f64 / bound as f64);
            table.row([
                words.to_owned(),
                workers.to_string(),
                megabytes(own as f64),
                megabytes(bound as f64),
                share,
            ]);
        }
    }
    table.print();
}

/// A document of the largest size.
fn filled(start: &str, parts: impl Iterator<Item = String>) -> String {
    let mut text = start.to_owned();
    for part in parts {
        if text.len() + part.len() > DOCUMENT {
            break;
        }
        text.push_str(&part);
    }
    text
}

/// A line of `/proc/…/status` in bytes; 0 where there is none.
pub(super) fn memory_of(process: &str, line: &str) -> u64 {
    let path = Path::new("/proc").join(process).join("status");
    let text = fs::read_to_string(path).unwrap_or_default();
    let rest = text.lines().find_map(|text| text.strip_prefix(line));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The median of how many times as fast as `base` it is, round by round, and the range.
fn ratios(base: &[f64], own: &[f64]) -> [String; 2] {
    let ratios: Vec<f64> = base.iter().zip(own).map(|(base, own)| base / own).collect();
    let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = ratios.iter().copied().fold(0.0, f64::max);
    [format!("{:.2}", median(ratios)), format!("({lowest:.2}-{highest:.2})")]
}

fn timed<R>(work: impl FnOnce() -> R) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}
