//! A blocking PostgreSQL connection pool for Rust services, built on r2d2, with shared query helpers, tiered
//! `.env` settings and token-guarded pool health. Its deadlines hold in every fault.
//!
//! It is no ORM, no async pool and no query builder, and has no proxy and no cluster of its own.
//!
//! ```no_run
//! use poolhouse::{DatabasePool, Settings, execute_query};
//! use std::time::Duration;
//!
//! fn titles_of(year: i32) -> poolhouse::Result<Vec<(i32, String)>> {
//!     execute_query("SELECT movie_id, title FROM movies WHERE year = $1", &[&year])
//! }
//!
//! fn main() -> poolhouse::Result<()> {
//!     let settings = Settings::load()?;
//!     DatabasePool::initialize(&settings.pool)?;
//!     for (movie_id, title) in titles_of(1995)? {
//!         println!("{movie_id} {title}");
//!     }
//!     DatabasePool::close(Duration::from_secs(5));
//!     Ok(())
//! }
//! ```
//!
//! # Vocabulary
//!
//! - **tier**: dev, preprod or production; selects the settings' file.
//! - **settings**: validated, built once. A **variable** is one line of a `.env` file, or of the environment.
//! - **pool**: the handle [`Pool`], cheap to clone.
//! - **connection**: the unit that the pool counts and lends. A caller **acquires** and **releases** it.
//! - **session**: the server's state behind a connection.
//! - **waiting**: the callers in the queue.
//! - **exhausted**: no connection became free within the caller's timeout. **Saturated**: the queue is full, and the caller
//!   fails immediately. **Down**: the server cannot be reached, or does not respond. These are three errors with different
//!   advice.
//! - **outcome unknown**: a commit or a write whose reply was lost.
//!
//! # Modules
//!
//! In the order of the data's way from a variable to a response. Each module uses only those before it.
//!
//! 1. `error`: [`Error`], one enum for callers to act on, and [`Result`]. It knows nothing of HTTP.
//! 2. [`settings`]: variables become a validated value, and every problem is reported at once.
//! 3. `rows`: the rows of a reply, as the server sent them.
//! 4. `decode`: a row becomes any serde type.
//! 5. `pool`: [`Pool`] and [`Connection`]. A gate decides which caller gets the next connection; r2d2 stores and opens
//!    connections; the transport sends and receives within deadlines; a background thread maintains idle connections.
//! 6. `query`: [`Execute`], the helpers over a pool, a connection and a [`Transaction`], and [`Bulk`], those for many rows.
//! 7. `database_pool`: [`DatabasePool`], the process-wide pool, and the free functions over it.
//! 8. [`health`]: the pool's numbers become a verdict, warnings and recommendations.
//! 9. `metrics`: the pool's numbers for Prometheus.
//! 10. [`web`]: for actix-web: the bridge from async code, bearer tokens, health routes, errors as HTTP responses.
//!
//! Every function that blocks documents the bound under *Blocking*. A [`Connection`] must not be used or dropped inside async
//! code; use [`web::blocking`].

mod database_pool;
mod decode;
mod error;
pub mod health;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg_attr(
    not(feature = "web"),
    allow(dead_code, unused_imports, reason = "only the bridge from async code uses some of it")
)]
mod pool;
#[cfg_attr(
    not(feature = "web"),
    allow(dead_code, reason = "only the bridge from async code uses some of it")
)]
mod query;
mod rows;
pub mod settings;
#[cfg(feature = "web")]
pub mod web;

pub use database_pool::{
    DatabasePool, copy_in, copy_out, execute_many, execute_query, execute_query_one, execute_write,
    for_each_row, transaction, transaction_verified, transaction_with, try_transaction, try_transaction_with,
};
pub use error::{
    ConnectFailure, DecodeError, Error, Interruption, PoolNumbers, Problem, QueryError, Result, ServerError,
    SettingsError,
};
pub use pool::{
    ClosedCounts, Connection, ErrorCounts, EventCounts, Histogram, Holding, Observation, Pool, PoolState,
    PoolStatus, ServerCapacity, Snapshot, StatementStats, with_deadline,
};
pub use postgres;
pub use postgres::types::ToSql;
pub use query::{
    Bulk, CopyFormat, Execute, Isolation, ParamRow, RetryPolicy, Transaction, TransactionOptions,
};
pub use settings::{DatabaseSettings, PoolSettings, Secret, Settings};

/// The examples in README.md compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The pages of the repository's `docs/`.
#[cfg(any(doc, doctest))]
pub mod guide {
    #[doc = include_str!("../docs/helpers.md")]
    pub mod helpers {}
    #[doc = include_str!("../docs/types.md")]
    pub mod types {}
    #[doc = include_str!("../docs/errors.md")]
    pub mod errors {}
    #[doc = include_str!("../docs/outages.md")]
    pub mod outages {}
    #[doc = include_str!("../docs/deadlines.md")]
    pub mod deadlines {}
    #[doc = include_str!("../docs/settings.md")]
    pub mod settings {}
    #[doc = include_str!("../docs/pgbouncer.md")]
    pub mod pgbouncer {}
    #[doc = include_str!("../docs/operations.md")]
    pub mod operations {}
    #[doc = include_str!("../docs/metrics.md")]
    pub mod metrics {}
    #[doc = include_str!("../docs/security.md")]
    pub mod security {}
    #[doc = include_str!("../docs/limits.md")]
    pub mod limits {}
}
