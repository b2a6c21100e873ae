//! A blocking PostgreSQL connection pool for Rust services, built on r2d2, whose deadlines hold in every fault.

mod database_pool;
mod decode;
mod error;
pub mod health;
mod pool;
mod query;
pub mod settings;
pub mod web;

pub use database_pool::{DatabasePool, execute_query, execute_query_one, execute_write, transaction};
pub use error::{
    ConnectFailure, DecodeError, Error, Interruption, PoolNumbers, Problem, QueryError, Result, SettingsError,
};
pub use pool::{ClosedCounts, Connection, Histogram, LongHeld, Pool, PoolState, PoolStatus};
pub use postgres;
pub use postgres::types::ToSql;
pub use query::{Execute, Transaction};
pub use settings::{PoolSettings, Settings};
