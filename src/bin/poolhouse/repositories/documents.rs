//! SQL for the tables `documents` and `chunks`. A violated constraint is returned as the database's own error.
//!
//! The functions take any [`Execute`]: requests use the process's pool, `ingest` a pool and transactions of its own.

use chrono::{DateTime, Utc};
use poolhouse::settings::DocumentSettings;
use poolhouse::{Execute, Result, Transaction};
use serde::{Deserialize, Serialize};

/// A row of `documents`, and its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) document_id: i64,
    pub(crate) source: String,
    pub(crate) title: String,
    pub(crate) media_type: String,
    /// Of the document as it was sent, in hex.
    pub(crate) sha256: String,
    /// Of the document as it was sent.
    pub(crate) byte_length: i32,
    pub(crate) loaded_at: String,
    /// In order; `None` where they were not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chunks: Option<Vec<Chunk>>,
}

/// A piece of a document's text, and its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(crate) ordinal: i32,
    /// The piece is the bytes from `start` to `end` of the document's text.
    pub(crate) start: i32,
    pub(crate) end: i32,
    pub(crate) text: String,
}

/// A document that matches a search, with its best chunk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hit {
    #[serde(flatten)]
    pub(crate) document: Document,
    pub(crate) rank: f32,
    /// Which chunk the snippet is from.
    pub(crate) ordinal: i32,
    /// Parts of that chunk, in which [`MARK_START`] and [`MARK_END`] enclose the words found, and [`LESS`] and [`GREATER`]
    /// stand for `<` and `>`.
    pub(crate) snippet: String,
}

/// What encloses a word that was found, in [`Hit::snippet`]: characters that Unicode reserves for use inside a program.
/// Those of the chunk's own text are removed.
pub(crate) const MARK_START: char = '\u{fdd0}';
pub(crate) const MARK_END: char = '\u{fdd1}';

/// What stands for `<` and `>` in [`Hit::snippet`]: ts_headline leaves out what looks like a tag.
pub(crate) const LESS: char = '\u{fdd2}';
pub(crate) const GREATER: char = '\u{fdd3}';

/// What is written for a document, but its chunks.
#[derive(Debug, Clone)]
pub(crate) struct NewDocument {
    pub(crate) source: String,
    pub(crate) title: String,
    pub(crate) media_type: String,
    pub(crate) sha256: [u8; 32],
    pub(crate) byte_length: i32,
    pub(crate) chunk_bytes: i32,
    pub(crate) overlap_bytes: i32,
}

/// The chunks of one document, as columns.
#[derive(Debug, Default)]
pub(crate) struct NewChunks<'a> {
    pub(crate) starts: Vec<i32>,
    pub(crate) ends: Vec<i32>,
    pub(crate) texts: Vec<&'a str>,
}

const COLUMNS: &str =
    "document_id, source, title, media_type, encode(sha256, 'hex') AS sha256, byte_length, loaded_at";

pub(crate) fn find_document(db: &impl Execute, document_id: i64) -> Result<Option<Document>> {
    let sql = format!("SELECT {COLUMNS} FROM documents WHERE document_id = $1");
    db.execute_query_one(&sql, &[&document_id])
}

/// The same with its chunks. One statement, because a replacement between two would mix two versions.
pub(crate) fn find_document_with_chunks(db: &impl Execute, document_id: i64) -> Result<Option<Document>> {
    let sql = format!(
        "SELECT {COLUMNS}, (
             SELECT coalesce(json_agg(json_build_object(
                 'ordinal', ordinal, 'start', byte_start, 'end', byte_end, 'text', text) ORDER BY ordinal), '[]')
             FROM chunks WHERE chunks.document_id = documents.document_id) AS chunks
         FROM documents WHERE document_id = $1"
    );
    db.execute_query_one(&sql, &[&document_id])
}

/// The first `limit` documents in the order of their ids.
pub(crate) fn list_documents(db: &impl Execute, after: i64, limit: i64) -> Result<Vec<Document>> {
    let sql = format!("SELECT {COLUMNS} FROM documents WHERE document_id > $1 ORDER BY document_id LIMIT $2");
    db.execute_query(&sql, &[&after, &limit])
}

/// The first `limit` documents that match, best first, after the one with this rank and id. A document has the rank of its
/// best chunk.
pub(crate) fn search_documents(
    db: &impl Execute,
    search: &str,
    after: Option<(f32, i64)>,
    limit: i64,
) -> Result<Vec<Hit>> {
    // Without indexable words, as in `-cats`, every chunk would have to be read: such a query matches nothing.
    // ts_headline parses the whole chunk: it runs for the page only.
    let sql = format!(
        "WITH best AS MATERIALIZED (
             SELECT DISTINCT ON (document_id) document_id, ordinal, ts_rank_cd(search, query) AS rank
             FROM chunks, websearch_to_tsquery('poolhouse_documents', $1) AS query
             WHERE search @@ query AND querytree(query) NOT IN ('', 'T')
             ORDER BY document_id, rank DESC, ordinal),
         page AS MATERIALIZED (
             SELECT document_id, ordinal, rank FROM best
             WHERE $2::real IS NULL OR rank < $2 OR rank = $2 AND document_id > $3
             ORDER BY rank DESC, document_id LIMIT $4)
         SELECT {COLUMNS}, rank, ordinal, ts_headline(
             'poolhouse_documents', translate(text, '<>{LESS}{GREATER}{MARK_START}{MARK_END}', '{LESS}{GREATER}'),
             websearch_to_tsquery('poolhouse_documents', $1),
             'StartSel={MARK_START}, StopSel={MARK_END}, MaxFragments=2, MaxWords=30, MinWords=10') AS snippet
         FROM page JOIN documents USING (document_id) JOIN chunks USING (document_id, ordinal)
         ORDER BY rank DESC, document_id"
    );
    let (rank, id) = after.unzip();
    db.execute_query(&sql, &[&search, &rank, &id, &limit])
}

/// Whether a search has a word to look for: it may consist of stop words, or of excluded words only.
pub(crate) fn has_search_words(db: &impl Execute, search: &str) -> Result<bool> {
    let sql = "SELECT querytree(websearch_to_tsquery('poolhouse_documents', $1)) NOT IN ('', 'T')";
    Ok(db.execute_query_one(sql, &[&search])?.unwrap_or(false))
}

/// Adds the chunks of the documents of the table that follows.
const INSERT_CHUNKS: &str = "INSERT INTO chunks (document_id, ordinal, byte_start, byte_end, text)
    SELECT document_id, ordinal - 1, byte_start, byte_end, text
    FROM unnest($1::integer[], $2::integer[], $3::text[])
        WITH ORDINALITY AS piece (byte_start, byte_end, text, ordinal),";

/// Adds a document with its chunks in one statement, which is a transaction by itself; returns its row.
pub(crate) fn insert_document(
    db: &impl Execute,
    document: &NewDocument,
    chunks: &NewChunks<'_>,
) -> Result<Option<Document>> {
    let sql = format!(
        "WITH added AS (
             INSERT INTO documents (source, title, media_type, sha256, byte_length, chunk_bytes, overlap_bytes)
             VALUES ($4, $5, $6, $7, $8, $9, $10) RETURNING *),
         pieces AS ({INSERT_CHUNKS} added)
         SELECT {COLUMNS} FROM added"
    );
    let NewDocument { source, title, media_type, sha256, byte_length, chunk_bytes, overlap_bytes } = document;
    let NewChunks { starts, ends, texts } = chunks;
    db.execute_query_one(
        &sql,
        &[
            starts,
            ends,
            texts,
            source,
            title,
            media_type,
            &sha256.as_slice(),
            byte_length,
            chunk_bytes,
            overlap_bytes,
        ],
    )
}

/// The id of a document, and whether it has the content of this hash, split by these sizes.
pub(crate) fn find_version(
    db: &impl Execute,
    source: &str,
    sha256: &[u8; 32],
    settings: &DocumentSettings,
) -> Result<Option<(i64, bool)>> {
    let sql = "SELECT document_id, sha256 = $2 AND chunk_bytes = $3 AND overlap_bytes = $4
               FROM documents WHERE source = $1";
    let (chunk_bytes, overlap_bytes) =
        (settings.chunk_bytes.cast_signed(), settings.overlap_bytes.cast_signed());
    db.execute_query_one(sql, &[&source, &sha256.as_slice(), &chunk_bytes, &overlap_bytes])
}

/// Replaces a document and its chunks; returns the number of documents, 0 or 1.
pub(crate) fn replace_document(
    tx: &Transaction<'_>,
    document_id: i64,
    document: &NewDocument,
    chunks: &NewChunks<'_>,
) -> Result<u64> {
    let NewDocument { source, title, media_type, sha256, byte_length, chunk_bytes, overlap_bytes } = document;
    // Locks the row: of two replacements the second waits, and then replaces all that the first has written.
    let sql =
        "UPDATE documents SET title = $3, media_type = $4, sha256 = $5, byte_length = $6, chunk_bytes = $7,
                   overlap_bytes = $8, loaded_at = now()
               WHERE document_id = $1 AND source = $2";
    let replaced = tx.execute_write(
        sql,
        &[
            &document_id,
            source,
            title,
            media_type,
            &sha256.as_slice(),
            byte_length,
            chunk_bytes,
            overlap_bytes,
        ],
    )?;
    if replaced == 1 {
        tx.execute_write("DELETE FROM chunks WHERE document_id = $1", &[&document_id])?;
        let sql = format!("{INSERT_CHUNKS} (SELECT $4::bigint AS document_id) AS replaced");
        tx.execute_write(&sql, &[&chunks.starts, &chunks.ends, &chunks.texts, &document_id])?;
    }
    Ok(replaced)
}

/// Returns the number of documents, 0 or 1. The chunks go with it.
pub(crate) fn delete_document(db: &impl Execute, document_id: i64) -> Result<u64> {
    db.execute_write("DELETE FROM documents WHERE document_id = $1", &[&document_id])
}

/// A document as it was listed.
#[derive(Debug, Deserialize)]
pub(crate) struct Listed {
    document_id: i64,
    pub(crate) source: String,
    loaded_at: DateTime<Utc>,
}

/// The first `limit` documents below a folder, whose name has no slash at the end, after the source `after`, in the order of the
/// sources' bytes.
pub(crate) fn list_folder(db: &impl Execute, folder: &str, after: &str, limit: i64) -> Result<Vec<Listed>> {
    // The character after the slash is 0: the range is everything that begins with the folder and a slash.
    let sql = "SELECT document_id, source, loaded_at FROM documents
               WHERE source > $1 || '/' AND source < $1 || '0' AND source > $2 ORDER BY source LIMIT $3";
    db.execute_query(sql, &[&folder, &after, &limit])
}

/// Removes documents, except for those that were added or replaced since they were listed; returns how many were removed.
pub(crate) fn delete_listed(db: &impl Execute, listed: &[Listed]) -> Result<u64> {
    let (ids, times): (Vec<_>, Vec<_>) = listed.iter().map(|one| (one.document_id, one.loaded_at)).unzip();
    let sql = "DELETE FROM documents
               USING unnest($1::bigint[], $2::timestamptz[]) AS listed (document_id, loaded_at)
               WHERE documents.document_id = listed.document_id AND documents.loaded_at = listed.loaded_at";
    db.execute_write(sql, &[&ids, &times])
}
