//! Many movies at once: straight into an empty table, else into one of this transaction's own and from there, where
//! they differ, into `movies`.

use poolhouse::postgres::CopyInWriter;
use poolhouse::{Execute, Result, Transaction};

/// Where incoming movies are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The table itself, which is empty and stays locked for other writers: nothing can be in the way, and a row
    /// is written once.
    Movies,
    /// A table of this transaction's own, to be merged.
    Incoming,
}

/// Makes the place for incoming movies, and lets other imports wait for this one: two that update the same movies
/// in a different order would deadlock.
pub(crate) fn prepare(tx: &mut Transaction<'_>) -> Result<Target> {
    tx.execute_write("SELECT pg_advisory_xact_lock(hashtext('poolhouse import'))", &[])?;
    // Locked only where it looks empty, and then looked at again: somebody may have been faster.
    if is_empty(tx)? {
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

/// Takes rows in the text format of COPY; they count once it is finished.
pub(crate) fn copy_in<'a>(tx: &'a mut Transaction<'_>, target: Target) -> Result<CopyInWriter<'a>> {
    tx.copy_in(match target {
        Target::Movies => "COPY movies (movie_id, title, year, genres) FROM STDIN",
        Target::Incoming => "COPY incoming_movies (movie_id, title, year, genres) FROM STDIN",
    })
}

/// Takes over what is new or different; returns how many movies were inserted and how many updated.
pub(crate) fn merge_incoming(tx: &Transaction<'_>) -> Result<(i64, i64)> {
    // The join leaves out what is there unchanged: ON CONFLICT alone would lock and log each of those rows, and
    // compute its search column for nothing. It is still needed for a movie that appears while we look.
    // A row that this statement has inserted has never been locked or replaced by anybody: its xmax is 0.
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
