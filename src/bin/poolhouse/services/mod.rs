//! The services: what the catalogue allows, and what its refusals mean. They know no HTTP and no SQL.

mod document_text;
pub(crate) mod documents;
pub(crate) mod import;
pub(crate) mod ingest;
pub(crate) mod movie_file;
pub(crate) mod movies;
