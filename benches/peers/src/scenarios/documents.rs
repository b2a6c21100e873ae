//! `poolhouse ingest` of a folder of HTML, against the ways to write the rows that it makes: a connection for each document
//! with an INSERT for each row, and psql's `\copy`.

use super::Stage;
use super::bulk::memory_of;
use crate::measure::median;
use crate::report::{Table, time, title};
use crate::support::postgres::{Database, url};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;

/// How often the program's memory is read.
const LOOK: Duration = Duration::from_millis(2);

const DOCUMENTS: &str =
    "documents (source, title, media_type, sha256, byte_length, chunk_bytes, overlap_bytes)";
const CHUNKS: &str = "chunks (document_id, ordinal, byte_start, byte_end, text)";

pub(crate) fn run(stage: &Stage, folder: &Path) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut seconds: [Vec<f64>; 3] = Default::default();
    let (mut peaks, mut documents, mut bytes) = (Vec::new(), 0, 0);
    for _ in 0..ROUNDS {
        let loaded = stage.server.fresh_database().with_schema();
        let (took, peak) = ingest(&stage.program, directory.path(), &loaded, folder, &["--only", "html"]);
        seconds[0].push(took);
        peaks.push(peak as f64);
        let counts = "SELECT count(*), sum(byte_length) FROM documents";
        let row = loaded.client().query_one(counts, &[]).expect("the counts");
        (documents, bytes) = (row.get::<_, i64>(0), row.get::<_, i64>(1));

        let database = stage.server.fresh_database().with_schema();
        seconds[1].push(row_by_row(&loaded, &database));

        let database = stage.server.fresh_database().with_schema();
        let file = |name: &str| directory.path().join(name).display().to_string();
        let columns = |table: &str| table.replace("documents (", "documents (document_id, ");
        let copies = |way: &str| {
            [(columns(DOCUMENTS), "documents"), (CHUNKS.to_owned(), "chunks")]
                .map(|(table, name)| format!("\\copy {table} {way} '{}'", file(name)))
        };
        psql(&loaded, &copies("TO"));
        seconds[2].push(psql(&database, &copies("FROM")));
    }
    title(&format!("ingest of {documents} HTML files, {:.1} MB, into empty tables", bytes as f64 / 1e6));
    let mut table = Table::new(&["", "took", "documents/s", "MB/s", "speed to ingest", "peak memory"]);
    let names = [
        "poolhouse ingest: the files, read, made text, split, written",
        "the rows made of them: a connection for each document, an INSERT for each row",
        "the rows made of them: psql \\copy (same indexes, checks, search column)",
    ];
    for (index, (name, own)) in names.iter().zip(&seconds).enumerate() {
        let took = median(own.iter().copied());
        let memory =
            if index == 0 { format!("{:.0} MB", median(peaks.iter().copied()) / 1e6) } else { "-".into() };
        table.row([
            (*name).to_owned(),
            time(took),
            format!("{:.0}", documents as f64 / took),
            format!("{:.1}", bytes as f64 / 1e6 / took),
            format!("{:.2}", median(own.iter().zip(&seconds[0]).map(|(own, ingest)| ingest / own))),
            memory,
        ]);
    }
    table.print();
}

/// Returns the seconds, and the peak of the program's memory in bytes.
pub(super) fn ingest(
    program: &Path,
    directory: &Path,
    database: &Database,
    folder: &Path,
    arguments: &[&str],
) -> (f64, u64) {
    let mut command = Command::new(program);
    super::without_settings(&mut command).arg("ingest").arg(folder).args(arguments);
    command.current_dir(directory).env("DATABASE_URL", database.url()).env("LOG_LEVEL", "warn");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().expect("the program starts");
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the state of the program") {
            break status;
        }
        // Empty at the very end.
        peak = peak.max(memory_of(&child.id().to_string(), "VmHWM:"));
        sleep(LOOK);
    };
    let took = begun.elapsed().as_secs_f64();
    assert!(status.success(), "poolhouse ingest: {status}");
    (took, peak)
}

/// Writes what is in `loaded` to `database`: as a script would that opens a connection wherever it needs one. Reading it is not
/// counted.
fn row_by_row(loaded: &Database, database: &Database) -> f64 {
    let mut source = loaded.client();
    let ids = source.query("SELECT document_id FROM documents ORDER BY document_id", &[]).expect("the ids");
    let mut took = Duration::ZERO;
    for id in ids.iter().map(|row| row.get::<_, i64>(0)) {
        let (_, columns) = DOCUMENTS.split_once('(').expect("columns");
        let read = format!("SELECT {} FROM documents WHERE document_id = $1", columns.trim_end_matches(')'));
        let row = source.query_one(&read, &[&id]).expect("the document");
        let read =
            "SELECT ordinal, byte_start, byte_end, text FROM chunks WHERE document_id = $1 ORDER BY ordinal";
        let chunks = source.query(read, &[&id]).expect("its chunks");

        let begun = Instant::now();
        let mut client = database.client();
        let mut tx = client.transaction().expect("a transaction");
        let (source, title, media_type): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let (sha256, length, chunk, overlap): (&[u8], i32, i32, i32) =
            (row.get(3), row.get(4), row.get(5), row.get(6));
        let sql =
            format!("INSERT INTO {DOCUMENTS} VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING document_id");
        let added = tx
            .query_one(&sql, &[&source, &title, &media_type, &sha256, &length, &chunk, &overlap])
            .expect("the document is added");
        let id: i64 = added.get(0);
        let sql = format!("INSERT INTO {CHUNKS} VALUES ($1, $2, $3, $4, $5)");
        for row in &chunks {
            let (ordinal, start, end, text): (i32, i32, i32, &str) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            tx.execute(&sql, &[&id, &ordinal, &start, &end, &text]).expect("a chunk is added");
        }
        tx.commit().expect("the document is committed");
        drop(client);
        took += begun.elapsed();
    }
    took.as_secs_f64()
}

fn psql(database: &Database, commands: &[String]) -> f64 {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]);
    for one in commands {
        command.args(["--command", one]);
    }
    let begun = Instant::now();
    let output = command.arg(url(&database.settings())).stdin(Stdio::null()).output().expect("psql runs");
    let took = begun.elapsed().as_secs_f64();
    assert!(output.status.success(), "{commands:?}: {}", String::from_utf8_lossy(&output.stderr));
    took
}
