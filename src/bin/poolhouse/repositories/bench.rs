//! SQL of `poolhouse bench`: its query, its lock, and the schema that it writes documents to.
//!
//! What the pool's helpers run is here a second time for the driver's client, which is what code without a pool uses. It
//! names the parameters' types, which saves the driver the round trip that prepares a statement.

use poolhouse::postgres::Client;
use poolhouse::postgres::types::Type;
use poolhouse::{Connection, Execute, Pool, Result, Transaction};

/// The schema; it exists while documents are measured.
pub(crate) const SCHEMA: &str = "poolhouse_bench";

/// The comment on a schema that this command has made, and may therefore drop.
const MARK: &str = "Made by poolhouse bench, which drops it.";

const QUERY: &str = "SELECT $1::integer";

const INSERT_DOCUMENT: &str =
    "INSERT INTO poolhouse_bench.documents (source, title) VALUES ($1, $2) RETURNING document_id";

const INSERT_CHUNKS: &str = "INSERT INTO poolhouse_bench.chunks (document_id, ordinal, text)
     SELECT $1, ordinal - 1, text FROM unnest($2::text[]) WITH ORDINALITY AS chunk (text, ordinal)";

/// A document to write.
pub(crate) struct BenchDocument {
    pub(crate) source: String,
    pub(crate) title: String,
    pub(crate) chunks: Vec<String>,
}

pub(crate) fn query(db: &impl Execute) -> Result<()> {
    db.execute_query_one::<i32>(QUERY, &[&1]).map(drop)
}

pub(crate) fn query_on_client(client: &mut Client) -> Result<()> {
    Ok(client.query_typed(QUERY, &[(&1, Type::INT4)]).map(drop)?)
}

/// Whether the connection is encrypted up to the server.
pub(crate) fn is_encrypted(db: &impl Execute) -> Result<bool> {
    let sql = "SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)";
    Ok(db.execute_query_one(sql, &[])?.unwrap_or(false))
}

/// Takes the lock that one run on a database holds, until the transaction ends; returns whether it was free.
pub(crate) fn try_lock(tx: &Transaction<'_>) -> Result<bool> {
    let sql = "SELECT pg_try_advisory_xact_lock(hashtext('poolhouse bench'))";
    Ok(tx.execute_query_one(sql, &[])?.unwrap_or(false))
}

/// Has the server keep the transaction however long it is idle.
pub(crate) fn allow_idle(tx: &Transaction<'_>) -> Result<()> {
    let sql = "SELECT set_config('idle_in_transaction_session_timeout', '0', true)";
    tx.execute_query_one::<String>(sql, &[]).map(drop)
}

/// Creates the schema, in place of one that an earlier run has left. Returns false, and does nothing, if there is one that
/// this command has not made.
pub(crate) fn create_schema(pool: &Pool) -> Result<bool> {
    pool.transaction(|tx| {
        if has_schema(tx)? && !drop_own_schema(tx)? {
            return Ok(false);
        }
        tx.execute_write("CREATE SCHEMA poolhouse_bench", &[])?;
        tx.execute_write(&format!("COMMENT ON SCHEMA poolhouse_bench IS '{MARK}'"), &[])?;
        let documents = "CREATE TABLE poolhouse_bench.documents (
            document_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, source text NOT NULL, title text NOT NULL)";
        tx.execute_write(documents, &[])?;
        let chunks = "CREATE TABLE poolhouse_bench.chunks (
            document_id bigint NOT NULL REFERENCES poolhouse_bench.documents, ordinal integer NOT NULL,
            text text NOT NULL, PRIMARY KEY (document_id, ordinal))";
        tx.execute_write(chunks, &[])?;
        Ok(true)
    })
}

fn has_schema(db: &impl Execute) -> Result<bool> {
    Ok(db.execute_query_one("SELECT to_regnamespace('poolhouse_bench') IS NOT NULL", &[])?.unwrap_or(false))
}

/// Drops the schema if this command has made it; returns whether it did.
pub(crate) fn drop_schema(pool: &Pool) -> Result<bool> {
    pool.transaction(|tx| drop_own_schema(tx))
}

fn drop_own_schema(tx: &Transaction<'_>) -> Result<bool> {
    let sql =
        "SELECT obj_description(to_regnamespace('poolhouse_bench'), 'pg_namespace') IS NOT DISTINCT FROM $1";
    if !tx.execute_query_one(sql, &[&MARK])?.unwrap_or(false) {
        return Ok(false);
    }
    // By name, so that nothing is dropped that another has put there.
    for sql in ["DROP TABLE poolhouse_bench.chunks, poolhouse_bench.documents", "DROP SCHEMA poolhouse_bench"]
    {
        tx.execute_write(sql, &[])?;
    }
    Ok(true)
}

/// Writes a document and its chunks in one transaction.
pub(crate) fn insert_document(connection: &mut Connection, document: &BenchDocument) -> Result<()> {
    connection.transaction(|tx| {
        let id: Option<i64> = tx.execute_query_one(INSERT_DOCUMENT, &[&document.source, &document.title])?;
        tx.execute_write(INSERT_CHUNKS, &[&id, &document.chunks]).map(drop)
    })
}

/// The same.
pub(crate) fn insert_document_on_client(client: &mut Client, document: &BenchDocument) -> Result<()> {
    let mut tx = client.transaction()?;
    let texts = [(&document.source as _, Type::TEXT), (&document.title as _, Type::TEXT)];
    let added = tx.query_typed_one(INSERT_DOCUMENT, &texts)?;
    let id: i64 = added.get(0);
    tx.execute_typed(INSERT_CHUNKS, &[(&id, Type::INT8), (&document.chunks, Type::TEXT_ARRAY)])?;
    Ok(tx.commit()?)
}
