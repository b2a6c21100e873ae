//! Documents, one after the other: a connection for each, against the pool.

use super::figures::ms;
use super::stage::{Halt, Stage, go_on};
use crate::repositories::bench::{self as repository, BenchDocument};
use poolhouse::{DatabaseSettings, Error, Pool};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How many documents the guides speak of.
pub(super) const DOCUMENTS: usize = 1000;

/// The figures of both contestants.
#[derive(Debug, Serialize)]
pub(super) struct Documents {
    pub(super) connection_per_document: Etl,
    pub(super) pool: Etl,
}

/// The time for [`DOCUMENTS`].
#[derive(Debug, Serialize)]
pub(super) struct Etl {
    /// How many were written; the time for the rest is extrapolated.
    pub(super) documents: usize,
    /// The part of the total that went by until there was a connection.
    pub(super) connecting_ms: f64,
    pub(super) total_ms: f64,
}

/// Why documents were not measured, and what to do about it.
pub(super) type Missing = String;

/// Measures in a schema of its own, which exists for as long as this runs.
///
/// # Errors
///
/// The outer error ends the run. The inner one concerns this part only.
pub(super) fn measure(
    stage: &Stage,
    database: &DatabaseSettings,
) -> Result<Result<Documents, Missing>, Halt> {
    let missing = |error| missing(error, database);
    let opening = Instant::now();
    let pool = stage.open_pool(1)?;
    let opening = opening.elapsed();
    match repository::create_schema(&pool) {
        Ok(true) => {}
        Ok(false) => {
            let schema = repository::SCHEMA;
            return Ok(Err(format!("there is a schema {schema} that this command has not made: rename it")));
        }
        Err(error) => return missing(error).map(Err),
    }
    let measured = write_documents(stage, &pool, opening);
    let dropped = repository::drop_schema(&pool);
    if let Err(error) = &dropped {
        log::warn!("The schema {} is left for the next run to remove: {error}", repository::SCHEMA);
    }
    match measured {
        Ok(documents) => {
            dropped?;
            Ok(Ok(documents))
        }
        Err(Halt::Stopped) => Err(Halt::Stopped),
        Err(Halt::Failed(error)) => missing(error).map(Err),
    }
}

/// Tells what concerns this part only from what ends the run.
fn missing(error: Error, database: &DatabaseSettings) -> Result<Missing, Halt> {
    match error.sqlstate() {
        Some("42501") => Ok(format!(
            "this makes a schema of its own, which GRANT CREATE ON DATABASE \"{}\" TO \"{}\" allows: {error}",
            database.name, database.user
        )),
        Some("25006") => Ok(format!("this writes, and the server or the user only reads: {error}")),
        Some("53100") => Ok(format!("the server's disk is full: {error}")),
        _ => Err(error.into()),
    }
}

/// What one contestant has done so far.
#[derive(Debug, Default)]
struct Written {
    documents: usize,
    connecting: Duration,
    total: Duration,
}

impl Written {
    /// Writes documents for a while: at least one, unless all are written.
    fn advance(
        &mut self,
        turn: Duration,
        mut write: impl FnMut(&BenchDocument) -> Result<(Duration, Duration), Error>,
    ) -> Result<(), Halt> {
        let start = Instant::now();
        for _ in self.documents..DOCUMENTS {
            go_on()?;
            let (connecting, total) = write(&document(self.documents))?;
            self.documents += 1;
            self.connecting += connecting;
            self.total += total;
            if start.elapsed() >= turn {
                break;
            }
        }
        Ok(())
    }

    /// `opening` is what was spent once, before the first document.
    fn etl(&self, opening: Duration) -> Etl {
        let scale = DOCUMENTS as f64 / self.documents.max(1) as f64;
        Etl {
            documents: self.documents,
            connecting_ms: ms(opening) + ms(self.connecting) * scale,
            total_ms: ms(opening) + ms(self.total) * scale,
        }
    }
}

fn write_documents(stage: &Stage, pool: &Pool, opening: Duration) -> Result<Documents, Halt> {
    let (share, start) = (stage.share(30), Instant::now());
    let turn = share / 20;
    let (mut without, mut with) = (Written::default(), Written::default());
    loop {
        without.advance(turn, |document| {
            let once =
                stage.connect_once(|client| repository::insert_document_on_client(client, document))?;
            Ok((once.connecting, once.total))
        })?;
        with.advance(turn, |document| {
            let start = Instant::now();
            let mut connection = pool.get_connection()?;
            let connecting = start.elapsed();
            repository::insert_document(&mut connection, document)?;
            drop(connection);
            Ok((connecting, start.elapsed()))
        })?;
        let is_complete = without.documents == DOCUMENTS && with.documents == DOCUMENTS;
        if is_complete || start.elapsed() >= share {
            return Ok(Documents {
                connection_per_document: without.etl(Duration::ZERO),
                pool: with.etl(opening),
            });
        }
    }
}

/// About 2 kB of text in four chunks.
fn document(number: usize) -> BenchDocument {
    let sentence = format!("Document {number} has a sentence of some length about connections. ");
    BenchDocument {
        source: format!("/bench/{number}.txt"),
        title: format!("Document {number}"),
        chunks: vec![sentence.repeat(8); 4],
    }
}
