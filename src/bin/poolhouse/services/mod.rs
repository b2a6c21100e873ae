//! What the service does, whoever asks: no HTTP here, and no SQL.

pub(crate) mod import;
pub(crate) mod movie_file;
pub(crate) mod movies;
