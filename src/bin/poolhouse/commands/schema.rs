//! `poolhouse schema`: the tables, in whatever database the settings name.

use crate::cli::Failure;
use crate::commands::database::{one_connection, prepare_database, say, with_pool};
use crate::commands::target::{Place, not_applied};
use crate::dev_postgres::Sharing;
use crate::schema;
use poolhouse::Settings;

pub(crate) fn apply_schema(mut settings: Settings) -> Result<(), Failure> {
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let place = Place::of(&settings, local.as_ref());
    with_pool(&one_connection(&settings.pool), &place, |pool| {
        schema::apply(&mut pool.get_connection()?).map_err(not_applied(&place))
    })?;
    say(&format!("The schema is in place: {place}"));
    Ok(())
}
