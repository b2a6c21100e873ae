//! SQL only: each function is one call to a helper of the library, and so one round trip, unless it says more. They know no rules and no
//! HTTP.

pub(crate) mod bench;
pub(crate) mod documents;
pub(crate) mod import;
pub(crate) mod movies;
