//! The helpers for many rows: all or nothing, in pieces of bounded size.

mod copy;
mod copy_out;
mod many;
mod misuse;
mod query_rows;
mod streams;

use crate::support::{Database, Proxy, postgres, timed};
use poolhouse::{Pool, PoolSettings};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// A pool of one connection, on a new database with the table `t (a int primary key, b text)`.
fn pool() -> Pool {
    let settings = postgres::pool_settings();
    create_table(&mut postgres::connect(&settings.database));
    open(settings)
}

/// Not by the pool, which would reset its session afterwards.
fn create_table(client: &mut ::postgres::Client) {
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY, b text)").unwrap();
}

fn open(mut settings: PoolSettings) -> Pool {
    (settings.min_connections, settings.max_connections) = (1, 1);
    Pool::open(&settings).unwrap()
}

/// The same behind a proxy.
fn behind_proxy(change: impl FnOnce(&mut PoolSettings)) -> (Database, Proxy, Pool) {
    let database = postgres::fresh_database();
    create_table(&mut database.client());
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    change(&mut settings);
    (database, proxy, open(settings))
}

fn count(pool: &Pool) -> i64 {
    poolhouse::Execute::execute_query_one(pool, "SELECT count(*) FROM t", &[]).unwrap().unwrap()
}
