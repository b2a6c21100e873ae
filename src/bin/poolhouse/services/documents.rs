//! The documents: their operations, and the meaning of a violated constraint. It knows no HTTP and no SQL.

use crate::repositories::documents::{self as repository, GREATER, Hit, LESS, MARK_END, MARK_START};
use crate::services::document_text::{Content, NotText, Prepared};
use poolhouse::settings::DocumentSettings;
use poolhouse::{DatabasePool, Error};
use serde::Serialize;
use std::fmt;

pub(crate) use crate::repositories::documents::Document;

/// A document as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submission {
    pub(crate) source: String,
    /// Where there is none, the document's own, or the end of its source.
    pub(crate) title: Option<String>,
    pub(crate) media_type: String,
    /// In UTF-8.
    pub(crate) content: Vec<u8>,
}

/// A place in the results of a search, which are ordered by rank, best first, then by id.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    pub(crate) rank: f32,
    pub(crate) document_id: i64,
}

/// As the query string has it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.rank, self.document_id)
    }
}

/// A page of documents.
#[derive(Debug, Serialize)]
pub(crate) struct DocumentPage<D> {
    pub(crate) documents: Vec<D>,
    /// The `after` of the next page; `None` on the last page.
    pub(crate) next_after: Option<String>,
}

/// Why an operation on documents failed.
#[derive(Debug)]
pub(crate) enum DocumentError {
    /// There is no document with this id.
    Unknown(i64),
    /// There is already a document with this source.
    Taken(String),
    /// The content is no text.
    NotText(NotText),
    /// No word of the search can be looked for.
    NoWords,
    /// A limit of the tables is exceeded; the text is for the client.
    Invalid(&'static str),
    /// The server's disk is full; nothing was changed.
    DiskFull(Error),
    /// Any other error of the database.
    Database(Error),
}

/// The document of this id, with its chunks if asked for.
pub(crate) fn find_document(document_id: i64, with_chunks: bool) -> Result<Document, DocumentError> {
    let found = match with_chunks {
        true => repository::find_document_with_chunks(&DatabasePool, document_id)?,
        false => repository::find_document(&DatabasePool, document_id)?,
    };
    found.ok_or(DocumentError::Unknown(document_id))
}

/// The first `limit` documents after an id.
pub(crate) fn list_documents(after: i64, limit: u16) -> Result<DocumentPage<Document>, DocumentError> {
    let documents = repository::list_documents(&DatabasePool, after, i64::from(limit) + 1)?;
    Ok(page(documents, limit, |document| document.document_id.to_string()))
}

/// The first `limit` documents after a place that match a search. Their snippets are HTML: words found are in `<mark>`, and
/// everything else is escaped.
///
/// # Errors
///
/// `NoWords`: the search has nothing but stop words and excluded words.
pub(crate) fn search_documents(
    search: &str,
    after: Option<Place>,
    limit: u16,
) -> Result<DocumentPage<Hit>, DocumentError> {
    // As the chunks are searched: see the table.
    let search = &search.replace(['<', '>'], " ");
    let place = after.map(|place| (place.rank, place.document_id));
    let mut hits = repository::search_documents(&DatabasePool, search, place, i64::from(limit) + 1)?;
    if hits.is_empty() && !repository::has_search_words(&DatabasePool, search)? {
        return Err(DocumentError::NoWords);
    }
    for hit in &mut hits {
        hit.snippet = as_html(&hit.snippet);
    }
    let place_of = |hit: &Hit| Place { rank: hit.rank, document_id: hit.document.document_id }.to_string();
    Ok(page(hits, limit, place_of))
}

/// A page of at most `limit` of `found`, which has one more where there is a next page.
fn page<D>(mut found: Vec<D>, limit: u16, place: impl Fn(&D) -> String) -> DocumentPage<D> {
    let limit = usize::from(limit);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next_after = found.last().filter(|_| has_more).map(place);
    DocumentPage { documents: found, next_after }
}

/// Adds a document; returns it without its chunks.
pub(crate) fn add_document(
    submission: Submission,
    settings: &DocumentSettings,
) -> Result<Document, DocumentError> {
    let Submission { source, title, media_type, content } = submission;
    let content = Content::decode(content).map_err(DocumentError::NotText)?;
    let prepared = Prepared::new(source, title, &media_type, content, settings);
    let prepared = prepared.map_err(DocumentError::NotText)?;
    let added = repository::insert_document(&DatabasePool, &prepared.document, &prepared.chunks());
    let added = added.map_err(|error| refusal(error, &prepared.document.source))?;
    added.ok_or(DocumentError::Database(Error::TooManyRows))
}

/// Removes a document.
pub(crate) fn remove_document(document_id: i64) -> Result<(), DocumentError> {
    match repository::delete_document(&DatabasePool, document_id)? {
        0 => Err(DocumentError::Unknown(document_id)),
        _ => Ok(()),
    }
}

/// Escapes a snippet as HTML, and turns what encloses the words found into `<mark>`.
fn as_html(snippet: &str) -> String {
    let mut html = String::with_capacity(snippet.len() + 64);
    for c in snippet.chars() {
        match c {
            MARK_START => html.push_str("<mark>"),
            MARK_END => html.push_str("</mark>"),
            '&' => html.push_str("&amp;"),
            '<' | LESS => html.push_str("&lt;"),
            '>' | GREATER => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

fn refusal(error: Error, source: &str) -> DocumentError {
    match error.constraint() {
        Some("documents_source_key") => DocumentError::Taken(source.to_owned()),
        Some("documents_source_length") => DocumentError::Invalid("source: must have 1 to 2048 bytes"),
        _ => error.into(),
    }
}

impl From<Error> for DocumentError {
    fn from(error: Error) -> DocumentError {
        match error.sqlstate() {
            Some("53100") => DocumentError::DiskFull(error),
            _ => DocumentError::Database(error),
        }
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DocumentError::Unknown(document_id) => write!(f, "there is no document {document_id}"),
            DocumentError::Taken(source) => write!(f, "there is a document with the source '{source}' already"),
            DocumentError::NotText(why) => write!(f, "the document {why}"),
            DocumentError::NoWords => f.write_str(
                "search: has no word to look for: words as common as 'the' are not indexed, and an excluded word \
                 alone finds nothing",
            ),
            DocumentError::Invalid(message) => f.write_str(message),
            DocumentError::DiskFull(error) => write!(f, "the database's disk is full: {error}"),
            DocumentError::Database(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DocumentError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_is_safe_to_put_into_html() {
        let snippet = format!("a<b> & {MARK_START}\"it's\"{MARK_END} </mark>");
        assert_eq!(as_html(&snippet), "a&lt;b&gt; &amp; <mark>&quot;it&#39;s&quot;</mark> &lt;/mark&gt;");
    }
}
