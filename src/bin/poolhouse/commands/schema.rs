//! `poolhouse schema`: creates the tables in the database that the settings name.

use crate::cli::Failure;
use crate::commands::database::{one_connection, prepare_database, print_line, with_pool};
use crate::commands::target::{Target, not_applied};
use crate::dev_postgres::Sharing;
use crate::schema;
use poolhouse::Settings;

pub(crate) fn apply_schema(mut settings: Settings) -> Result<(), Failure> {
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let target = Target::of(&settings, local.as_ref());
    with_pool(&one_connection(&settings.pool), &target, |pool| {
        schema::apply(&mut pool.get_connection()?).map_err(not_applied(&target))
    })?;
    print_line(&format!("The schema is in place: {target}"));
    Ok(())
}
