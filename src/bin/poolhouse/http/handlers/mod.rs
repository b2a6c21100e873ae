//! The handlers: each parses its input, calls one service function on a thread that may block, and writes the
//! response. They know no SQL.

pub(crate) mod documents;
mod input;
pub(crate) mod movies;
pub(crate) mod openapi;
