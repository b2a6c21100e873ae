//! SQL only: each function is one call to a helper of the library, and so one round trip. They know no rules and no
//! HTTP.

pub(crate) mod import;
pub(crate) mod movies;
