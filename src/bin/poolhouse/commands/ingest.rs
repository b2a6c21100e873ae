//! `poolhouse ingest`: loads files as documents.

use crate::cli::{Failure, IngestArguments};
use crate::commands::database::{prepare_database, print_line, with_pool};
use crate::commands::target::{Target, missing_schema, not_applied};
use crate::dev_postgres::Sharing;
use crate::process::signals;
use crate::progress::IngestProgress;
use crate::schema;
use crate::services::ingest::{Options, Roots, Summary, ingest};
use poolhouse::settings::Start;
use poolhouse::{Error, PoolSettings, Settings};
use serde::Serialize;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

pub(crate) fn ingest_documents(mut settings: Settings, arguments: &IngestArguments) -> Result<(), Failure> {
    let mut documents = settings.documents;
    documents.chunk_bytes = arguments.chunk_bytes.unwrap_or(documents.chunk_bytes);
    documents.overlap_bytes = arguments.overlap_bytes.unwrap_or(documents.overlap_bytes);
    documents.validate()?;
    // Before the private server is started for nothing.
    let roots = Roots::find(&arguments.paths, &arguments.only)
        .map_err(|problems| Failure::Failed(problems.join("\n")))?;
    let workers = arguments.workers.unwrap_or_else(|| default_workers(&settings.pool));
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let target = Target::of(&settings, local.as_ref());
    let options = Options {
        documents,
        workers: workers as usize,
        patience: Duration::from_secs(arguments.wait_s.into()),
        prune: arguments.prune,
    };
    let start = Instant::now();
    let (summary, error) = with_pool(&pool_settings(&settings.pool, workers), &target, |pool| {
        if local.is_some() {
            schema::apply(&mut pool.get_connection()?).map_err(not_applied(&target))?;
        }
        let mut progress = IngestProgress::new();
        let done = ingest(pool, &roots, &options, &signals::wait, &mut progress);
        progress.end();
        Ok(done)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    match arguments.json {
        true => print_line(&as_json(&summary, seconds)),
        false => print_line(&as_table(&summary, seconds, arguments.prune)),
    }
    match error {
        Some(error) => Err(failure(error, &target)),
        None if !summary.is_complete => Err(Failure::Incomplete(
            "stopped before the end: every document is loaded whole or not at all; the same command goes on from here"
                .to_owned(),
        )),
        None if summary.skipped > 0 => {
            Err(Failure::Incomplete(format!("files left out: {}, as named above", summary.skipped)))
        }
        None => Ok(()),
    }
}

/// More than two for each processor would wait for one: the work is splitting here and indexing at the server.
fn default_workers(settings: &PoolSettings) -> u32 {
    let parallelism = available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    settings.max_connections.min(parallelism.saturating_mul(2))
}

/// A pool with a connection for each worker.
fn pool_settings(settings: &PoolSettings, workers: u32) -> PoolSettings {
    let mut settings = settings.clone();
    settings.start = Start::Fail;
    settings.min_connections = 1;
    settings.max_connections = workers;
    settings.max_overflow = 0;
    settings
}

fn failure(error: Error, target: &Target) -> Failure {
    match error.sqlstate() {
        Some("42P01" | "42703" | "42704") => missing_schema(target),
        Some("53100") => Failure::Failed(format!("the disk of the database {target} is full: {error}")),
        _ => Failure::Failed(format!("cannot load more into the database {target}: {error}")),
    }
}

fn as_json(summary: &Summary, seconds: f64) -> String {
    #[derive(Serialize)]
    struct Timed<'a> {
        #[serde(flatten)]
        summary: &'a Summary,
        seconds: f64,
    }
    serde_json::to_string(&Timed { summary, seconds }).unwrap_or_default()
}

fn as_table(summary: &Summary, seconds: f64, prune: bool) -> String {
    let Summary { files, bytes, added, replaced, unchanged, skipped, vanished, pruned, chunks, .. } = summary;
    let megabytes = *bytes as f64 / 1e6;
    let (rate, speed) = (*files as f64 / seconds, megabytes / seconds);
    let fate = match (vanished, prune) {
        (0, _) => String::new(),
        (_, true) => format!(", {pruned} removed"),
        (_, false) => ", kept: --prune removes them".to_owned(),
    };
    format!(
        "Looked at {files} files, {megabytes:.1} MB, in {seconds:.1} s ({rate:.0} files/s, {speed:.1} MB/s)
  added      {added}
  replaced   {replaced}
  unchanged  {unchanged}
  left out   {skipped}
  vanished   {vanished}{fate}
  chunks     {chunks}"
    )
}
