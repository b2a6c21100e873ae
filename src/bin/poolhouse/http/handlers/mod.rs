//! HTTP in, HTTP out: each handler reads its input, makes one call to a service on a blocking thread, and
//! writes the answer.

mod input;
pub(crate) mod movies;
