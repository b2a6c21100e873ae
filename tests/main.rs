//! One binary for every story that needs a real PostgreSQL.

mod decode;
mod pool;
mod settings;
mod support;
