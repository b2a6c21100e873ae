//! One binary for every story that needs a real PostgreSQL.

mod pool;
mod support;
