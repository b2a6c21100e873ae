//! What callers get on a healthy server.

use super::*;
use crate::support::Proxy;
use poolhouse::{Error, Execute};
use serde::Deserialize;

#[derive(Debug, Deserialize, PartialEq)]
struct Movie {
    movie_id: i32,
    title: String,
    year: Option<i32>,
}

fn with_movies() -> Pool {
    let pool = pool(1, 2, |_| ());
    pool.execute_write("CREATE TABLE movies (movie_id int PRIMARY KEY, title text, year int)", &[]).unwrap();
    pool
}

#[test]
fn rows_come_back_as_the_callers_own_type() {
    let pool = with_movies();
    let sql = "INSERT INTO movies VALUES (1, $1, $2), (2, 'Untitled', NULL)";
    assert_eq!(pool.execute_write(sql, &[&"Heat", &1995]).unwrap(), 2);
    let movies: Vec<Movie> = pool.execute_query("SELECT * FROM movies ORDER BY movie_id", &[]).unwrap();
    let heat = Movie { movie_id: 1, title: "Heat".into(), year: Some(1995) };
    assert_eq!(movies, [heat, Movie { movie_id: 2, title: "Untitled".into(), year: None }]);
    let one: Option<Movie> =
        pool.execute_query_one("SELECT * FROM movies WHERE movie_id = $1", &[&3]).unwrap();
    assert_eq!(one, None);
    let error = pool.execute_query_one::<Movie>("SELECT * FROM movies", &[]).unwrap_err();
    assert!(matches!(error, Error::TooManyRows), "{error}");
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let pool = with_movies();
    let count = || pool.execute_query_one::<i64>("SELECT count(*) FROM movies", &[]).unwrap().unwrap();
    let insert = |db: &dyn Fn(&str) -> poolhouse::Result<u64>, id: i32| {
        db(&format!("INSERT INTO movies VALUES ({id}, 'x', NULL)"))
    };

    pool.transaction(|tx| insert(&|sql| tx.execute_write(sql, &[]), 1)).unwrap();
    assert_eq!(count(), 1);

    let refused = pool.transaction(|tx| {
        insert(&|sql| tx.execute_write(sql, &[]), 2)?;
        Err::<(), _>(Error::application("changed my mind"))
    });
    assert_eq!(refused.unwrap_err().to_string(), "changed my mind");
    assert_eq!(count(), 1, "what returned Err is rolled back");

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.transaction(|tx| -> poolhouse::Result<()> {
            insert(&|sql| tx.execute_write(sql, &[]), 3)?;
            panic!("half way")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(count(), 1, "what panicked is rolled back");

    let mut connection = pool.get_connection().unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        connection.transaction(|tx| -> poolhouse::Result<()> {
            insert(&|sql| tx.execute_write(sql, &[]), 4)?;
            panic!("half way")
        })
    }));
    assert!(panicked.is_err());
    connection.execute_write("INSERT INTO movies VALUES (5, 'x', NULL)", &[]).unwrap();
    drop(connection);
    assert_eq!(count(), 2, "a connection goes on after a caught panic, outside the transaction");
}

#[test]
fn a_failed_statement_that_is_swallowed_does_not_pass_for_a_commit() {
    let pool = with_movies();
    let result = pool.transaction(|tx| {
        tx.execute_write("INSERT INTO movies VALUES (1, 'x', NULL)", &[])?;
        let _ = tx.execute_write("INSERT INTO movies VALUES (1, 'x', NULL)", &[]);
        Ok(())
    });
    assert!(matches!(result, Err(Error::TransactionAborted)), "{result:?}");
    assert_eq!(pool.execute_query_one::<i64>("SELECT count(*) FROM movies", &[]).unwrap(), Some(0));
}

#[test]
fn a_savepoint_undoes_its_own_part_only() {
    let pool = with_movies();
    pool.transaction(|tx| {
        tx.execute_write("INSERT INTO movies VALUES (1, 'outer', NULL)", &[])?;
        let inner = tx.transaction(|tx| {
            tx.execute_write("INSERT INTO movies VALUES (2, 'inner', NULL)", &[])?;
            tx.execute_write("INSERT INTO movies VALUES (1, 'again', NULL)", &[])
        });
        assert_eq!(inner.unwrap_err().constraint(), Some("movies_pkey"));
        tx.transaction(|tx| tx.execute_write("INSERT INTO movies VALUES (3, 'kept', NULL)", &[]))
    })
    .unwrap();
    let titles: Vec<String> = pool.execute_query("SELECT title FROM movies ORDER BY movie_id", &[]).unwrap();
    assert_eq!(titles, ["outer", "kept"]);
}

#[test]
fn a_repository_function_runs_on_a_pool_a_connection_and_a_transaction() {
    fn count(db: &impl Execute) -> poolhouse::Result<Option<i64>> {
        db.execute_query_one("SELECT count(*) FROM movies", &[])
    }
    let pool = with_movies();
    assert_eq!(count(&pool).unwrap(), Some(0));
    assert_eq!(count(&pool.get_connection().unwrap()).unwrap(), Some(0));
    assert_eq!(pool.transaction(|tx| count(tx)).unwrap(), Some(0));
}

#[test]
fn a_query_is_one_round_trip_once_it_is_known() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    settings.min_connections = 1;
    let pool = Pool::open(&settings).unwrap();
    let ask = || pool.execute_query_one::<i32>("SELECT $1::int4", &[&7]).unwrap();
    ask();
    let before = proxy.round_trips();
    for _ in 0..10 {
        assert_eq!(ask(), Some(7));
    }
    assert_eq!(proxy.round_trips() - before, 10);

    let before = proxy.round_trips();
    pool.transaction(|tx| tx.execute_query_one::<i32>("SELECT $1::int4", &[&7])).unwrap();
    assert_eq!(proxy.round_trips() - before, 3, "BEGIN, the query, COMMIT; nothing on return");
}

#[test]
fn wrong_parameters_are_an_error_and_the_connection_lives_on() {
    let pool = pool(1, 1, |_| ());
    for params in [&[][..], &[&1_i32 as &(dyn poolhouse::ToSql + Sync), &2_i32], &[&"text"]] {
        let error = pool.execute_query_one::<i32>("SELECT $1::int4", params).unwrap_err();
        assert!(matches!(error, Error::Query(_)), "{error}");
    }
    assert_eq!(pool.execute_query_one::<i32>("SELECT $1::int4", &[&1]).unwrap(), Some(1));
    assert_eq!(pool.status().connects, 1, "the connection was kept");
}
