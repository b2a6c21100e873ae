//! A blocking PostgreSQL connection pool for Rust services, built on r2d2, with shared query helpers, tiered
//! `.env` settings and token-guarded pool health, whose deadlines hold in every fault.
//!
//! No ORM, no async pool, no query builder, no wire protocol of its own, no proxy and no cluster.
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
//! - **tier**: dev, preprod or production; picks the settings' file.
//! - **settings**: validated, built once. A **variable** is one line of a `.env` file, or of the environment.
//! - **pool**: our handle, cheap to clone.
//! - **connection**: what the pool counts and lends. **Acquire** and **release** are its ways out and back.
//! - **session**: the server side's state behind a connection.
//! - **waiting**: callers in the queue.
//! - **exhausted**: no connection came free until the caller's time ran out. **Saturated**: the queue is full,
//!   refused at once. **Down**: the server cannot be reached, or does not answer. Three different errors, with
//!   different advice.
//! - **outcome unknown**: a commit, or a write, whose answer was lost.
//!
//! # The way of the data
//!
//! Modules in the order in which they may use each other; each knows only those before it.
//!
//! 1. `error`: [`Error`], one enum a caller can act on, and [`Result`]. It knows no HTTP.
//! 2. [`settings`]: variables become a validated value, every problem reported at once.
//! 3. `decode`: a row becomes any serde type.
//! 4. `pool`: [`Pool`] and [`Connection`]. A gate decides who gets a connection next; r2d2 stores connections and
//!    makes them; a bounded transport under the driver keeps the deadlines; a keeper does the upkeep behind.
//! 5. `query`: [`Execute`], the helpers over a pool, a connection and a [`Transaction`].
//! 6. `database_pool`: [`DatabasePool`], the one pool of the process, and the free functions over it.
//! 7. [`health`]: the pool's numbers become a verdict, warnings, recommendations.
//! 8. [`web`]: for actix-web: the one bridge from async code, bearer tokens, health routes, errors as answers.
//!
//! Every function that waits says how long, bounded by what, under *Blocking*. A [`Connection`] must not be used
//! or dropped inside async code: go through [`web::blocking`].

mod database_pool;
mod decode;
mod error;
pub mod health;
#[cfg_attr(
    not(feature = "web"),
    allow(dead_code, unused_imports, reason = "what only the bridge from async code uses")
)]
mod pool;
mod query;
pub mod settings;
#[cfg(feature = "web")]
pub mod web;

pub use database_pool::{
    DatabasePool, execute_query, execute_query_one, execute_write, transaction, transaction_verified,
    transaction_with, try_transaction, try_transaction_with,
};
pub use error::{
    ConnectFailure, DecodeError, Error, Interruption, PoolNumbers, Problem, QueryError, Result, SettingsError,
};
pub use pool::{ClosedCounts, Connection, Histogram, LongHeld, Pool, PoolState, PoolStatus, with_deadline};
pub use postgres;
pub use postgres::types::ToSql;
pub use query::{Execute, Isolation, RetryPolicy, Transaction, TransactionOptions};
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
    #[doc = include_str!("../docs/security.md")]
    pub mod security {}
    #[doc = include_str!("../docs/limits.md")]
    pub mod limits {}
}
