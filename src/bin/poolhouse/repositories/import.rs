//! SQL for loading many movies: straight into an empty table, otherwise into a temporary table from which changed
//! rows are merged into `movies`.

use poolhouse::{Bulk, Execute, Result, Transaction};
use serde::Serialize;

/// The table that incoming movies are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The table `movies`, which is empty and locked against other writers: no row can conflict, and each row is
    /// written once.
    Movies,
    /// A temporary table, to be merged.
    Incoming,
}

/// Chooses or creates the table for incoming movies, and makes other imports wait for this one: two imports that
/// update the same movies in different order would deadlock.
///
/// `may_lock`: writers of an empty table may wait for the end of the import.
pub(crate) fn prepare(tx: &mut Transaction<'_>, may_lock: bool) -> Result<Target> {
    tx.execute_write("SELECT pg_advisory_xact_lock(hashtext('poolhouse import'))", &[])?;
    // Locks only an empty table, and checks again under the lock: another writer may have been faster.
    if may_lock && is_empty(tx)? {
        tx.execute_write("LOCK TABLE movies IN SHARE ROW EXCLUSIVE MODE", &[])?;
        if is_empty(tx)? {
            return Ok(Target::Movies);
        }
    }
    let sql = "CREATE TEMPORARY TABLE incoming_movies \
               (movie_id integer, title text, year integer, genres text[]) ON COMMIT DROP";
    tx.execute_write(sql, &[])?;
    Ok(Target::Incoming)
}

fn is_empty(tx: &Transaction<'_>) -> Result<bool> {
    Ok(tx.execute_query_one("SELECT NOT EXISTS (SELECT FROM movies)", &[])?.unwrap_or(false))
}

/// A movie on its way to the database.
#[derive(Debug, Serialize)]
pub(crate) struct MovieRow {
    pub(crate) movie_id: i32,
    pub(crate) title: String,
    pub(crate) year: Option<i32>,
    pub(crate) genres: Vec<String>,
}

/// Copies the movies to the table; returns how many.
pub(crate) fn copy_in(
    tx: &Transaction<'_>,
    target: Target,
    rows: impl Iterator<Item = MovieRow>,
) -> Result<u64> {
    let table = match target {
        Target::Movies => "movies",
        Target::Incoming => "incoming_movies",
    };
    tx.copy_in(table, &["movie_id", "title", "year", "genres"], rows)
}

/// Merges new and changed rows; returns how many movies were inserted and how many updated.
pub(crate) fn merge_incoming(tx: &Transaction<'_>) -> Result<(i64, i64)> {
    // The join leaves out unchanged rows: ON CONFLICT alone would lock and log each of them, and compute its search
    // column. ON CONFLICT is still needed for a movie that appears during the statement. A row that this statement
    // has inserted has xmax 0: no transaction has locked or replaced it.
    let sql = "
        WITH changed AS (
            INSERT INTO movies (movie_id, title, year, genres)
            SELECT incoming.movie_id, incoming.title, incoming.year, incoming.genres
            FROM incoming_movies incoming LEFT JOIN movies present USING (movie_id)
            WHERE present.movie_id IS NULL
               OR (present.title, present.year, present.genres)
                  IS DISTINCT FROM (incoming.title, incoming.year, incoming.genres)
            ON CONFLICT (movie_id) DO UPDATE
                SET title = excluded.title, year = excluded.year, genres = excluded.genres
            RETURNING xmax = 0 AS is_new)
        SELECT count(*) FILTER (WHERE is_new) AS inserted, count(*) FILTER (WHERE NOT is_new) AS updated
        FROM changed";
    Ok(tx.execute_query_one(sql, &[])?.unwrap_or_default())
}
