//! SQL, and nothing else: each function is one call to a helper of the library, and so one round trip.

pub(crate) mod import;
pub(crate) mod movies;
