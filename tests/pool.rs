//! The pool on a healthy server: what callers get, and what it costs the server.

use crate::support::postgres;
use poolhouse::{Error, Execute, Pool};
use serde::Deserialize;
use std::time::{Duration, Instant};

#[derive(Debug, Deserialize, PartialEq)]
struct Movie {
    movie_id: i32,
    title: String,
    year: Option<i32>,
}

#[test]
fn rows_come_back_as_the_callers_own_type() {
    let pool = Pool::open(&postgres::pool_settings()).unwrap();
    pool.execute_write("CREATE TABLE movies (movie_id int PRIMARY KEY, title text, year int)", &[]).unwrap();
    let inserted = pool
        .execute_write("INSERT INTO movies VALUES (1, $1, $2), (2, 'Untitled', NULL)", &[&"Heat", &1995])
        .unwrap();
    assert_eq!(inserted, 2);
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
fn the_minimum_is_warm_when_open_returns() {
    let settings = postgres::pool_settings();
    let pool = Pool::open(&settings).unwrap();
    let status = pool.status();
    assert_eq!(
        (status.available, status.in_use, status.total),
        (settings.min_connections, 0, settings.min_connections)
    );
}

#[test]
fn everything_in_use_is_exhausted_with_its_numbers() {
    let mut settings = postgres::pool_settings();
    (settings.min_connections, settings.max_connections) = (0, 2);
    let pool = Pool::open(&settings).unwrap();
    let others = pool.clone();
    let _held =
        std::thread::spawn(move || (others.get_connection().unwrap(), others.get_connection().unwrap()))
            .join()
            .unwrap();
    let started = Instant::now();
    let error = pool.get_connection_timeout(Duration::from_millis(100)).unwrap_err();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(100) && waited < Duration::from_millis(120), "{waited:?}");
    let Error::Exhausted(numbers) = &error else { panic!("{error}") };
    assert_eq!((numbers.in_use, numbers.idle, numbers.max), (2, 0, 2), "{error}");
}
