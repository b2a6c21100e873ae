//! `poolhouse import`: loads a MovieLens file into the table of movies.

use crate::cli::Failure;
use crate::commands::database::{one_connection, prepare_database, print_line, with_pool};
use crate::commands::target::{Target, missing_schema, not_applied};
use crate::dev_postgres::Sharing;
use crate::progress::Progress;
use crate::schema;
use crate::services::import::{ImportError, Pace, import_movies};
use poolhouse::{Settings, with_deadline};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

/// Imports `file`, or nothing of it where that takes longer than `timeout`, counted from here.
pub(crate) fn import(mut settings: Settings, file: &Path, timeout: Option<Duration>) -> Result<(), Failure> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    // First, so that an unreadable file does not start the private server.
    let (name, input, size): (_, Box<dyn Read>, _) = match file == Path::new("-") {
        true => ("standard input".to_owned(), Box::new(io::stdin().lock()), None),
        false => {
            let name = file.display().to_string();
            let input = File::open(file).map_err(Failure::during(format!("cannot read {name}")))?;
            let size = input.metadata().map_or(None, |metadata| metadata.is_file().then_some(metadata.len()));
            (name, Box::new(input), size)
        }
    };
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let target = Target::of(&settings, local.as_ref());
    let pool_settings = one_connection(&settings.pool);
    let start = Instant::now();
    let imported = with_pool(&pool_settings, &target, |pool| {
        if local.is_some() {
            schema::apply(&mut pool.get_connection()?).map_err(not_applied(&target))?;
        }
        let mut progress = Progress::new(size);
        let pace = if size.is_some() { Pace::OfAFile } else { Pace::OfItsWriter };
        let load = || import_movies(pool, input, pace, &mut progress);
        let imported = match deadline {
            Some(deadline) => with_deadline(deadline, load),
            None => load(),
        };
        progress.end();
        imported.map_err(|error| match error {
            ImportError::Database(error) if error.sqlstate() == Some("42P01") => missing_schema(&target),
            error => Failure::Failed(format!("import of {name}: {error}")),
        })
    })?;
    let seconds = start.elapsed().as_secs_f64();
    print_line(&format!(
        "Imported {} movies in {seconds:.1} s (inserted {}, updated {}, unchanged {}; {:.0} rows/s)",
        imported.total(),
        imported.inserted,
        imported.updated,
        imported.unchanged,
        imported.total() as f64 / seconds
    ));
    Ok(())
}
