//! Rows of a real server become Rust values: every shape, every type, and every way not to fit.

mod round_trips;
mod types;

use crate::support::postgres;
use poolhouse::{DecodeError, Error, Execute, Pool};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::LazyLock;

/// One database for all of these: they only select, and each makes types under names of its own.
static POOL: LazyLock<Pool> =
    LazyLock::new(|| Pool::open(&postgres::pool_settings()).expect("a pool on the test's server"));

thread_local! {
    /// What this thread asks instead.
    static OTHER: RefCell<Option<Pool>> = const { RefCell::new(None) };
}

/// Has everything that `stories` ask and write go to `pool`.
fn with_pool(pool: &Pool, stories: impl FnOnce()) {
    OTHER.set(Some(pool.clone()));
    stories();
    OTHER.set(None);
}

fn pool() -> Pool {
    OTHER.with_borrow(|other| other.clone().unwrap_or_else(|| POOL.clone()))
}

fn query<T: DeserializeOwned>(sql: &str) -> poolhouse::Result<Vec<T>> {
    pool().execute_query(sql, &[])
}

/// The one row of `sql`.
#[track_caller]
fn one<T: DeserializeOwned>(sql: &str) -> T {
    let rows = query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let count = rows.len();
    let [row] = <[T; 1]>::try_from(rows).unwrap_or_else(|_| panic!("{sql}: {count} rows"));
    row
}

/// Why the row of `sql` is no `T`.
#[track_caller]
fn refusal<T: DeserializeOwned + Debug>(sql: &str) -> DecodeError {
    match query::<T>(sql) {
        Err(Error::Decode(error)) => *error,
        other => panic!("{sql}: expected a decode error, got {other:?}"),
    }
}

fn write(sql: &str) {
    pool().execute_write(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[derive(Debug, PartialEq, Deserialize)]
struct Movie {
    movie_id: i32,
    title: String,
    year: Option<i32>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Genre {
    SciFi,
    Western,
}

#[test]
fn a_struct_takes_the_columns_of_its_fields_names() {
    let jaws = Movie { movie_id: 1387, title: "Jaws".into(), year: Some(1975) };
    assert_eq!(
        one::<Movie>("SELECT 'unused' AS extra, 1975 AS year, 'Jaws' AS title, 1387::int8 AS movie_id"),
        jaws
    );
    // serde's own rule: an Option may be missing.
    assert_eq!(one::<Movie>("SELECT 1 AS movie_id, 'x' AS title").year, None);

    #[derive(Debug, PartialEq, Deserialize)]
    struct Rated {
        #[serde(flatten)]
        movie: Movie,
        #[serde(rename = "avg")]
        rating: f64,
        #[serde(default)]
        tags: Vec<String>,
        #[serde(flatten)]
        rest: HashMap<String, Value>,
    }
    let rated: Rated =
        one("SELECT 1387 AS movie_id, 'Jaws' AS title, 1975 AS year, 3.5::float8 AS avg, 7 AS n");
    let rest = HashMap::from([("n".to_owned(), json!(7))]);
    assert_eq!(rated, Rated { movie: jaws, rating: 3.5, tags: vec![], rest });

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind", rename_all = "lowercase")]
    enum Event {
        Rated { stars: i32 },
        Seen,
    }
    assert_eq!(
        query::<Event>("VALUES ('rated', 5), ('seen', NULL)").unwrap_err().to_string(),
        "cannot decode the row: no column \"kind\"; the query returns \"column1\", \"column2\""
    );
    let events: Vec<Event> =
        query("SELECT * FROM (VALUES ('rated', 5), ('seen', 0)) AS e(kind, stars)").unwrap();
    assert_eq!(events, [Event::Rated { stars: 5 }, Event::Seen]);
}

#[test]
fn a_row_takes_every_shape() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Id(i32);
    #[derive(Debug, PartialEq, Deserialize)]
    struct Pair(Id, Option<String>);

    assert_eq!(one::<(i32, String)>("SELECT 1, 'a'"), (1, "a".into()));
    assert_eq!(one::<Pair>("SELECT 1, NULL::text"), Pair(Id(1), None));
    assert_eq!(one::<Id>("SELECT 1"), Id(1));
    assert_eq!(one::<Option<Id>>("SELECT NULL::int4"), None);
    assert_eq!(one::<Option<Movie>>("SELECT 1 AS movie_id, 'x' AS title").unwrap().movie_id, 1);
    one::<()>("SELECT pg_sleep(0)");
    one::<()>("SELECT 1, point(1, 2)");
    assert_eq!(one::<Vec<Value>>("SELECT 1, 'a', NULL::bool"), [json!(1), json!("a"), json!(null)]);
    assert_eq!(one::<Vec<Vec<String>>>("SELECT ARRAY['a', 'b']"), [["a", "b"]]);
    let row = "SELECT 1 AS a, 2 AS b";
    assert_eq!(one::<BTreeMap<String, i64>>(row), BTreeMap::from([("a".into(), 1), ("b".into(), 2)]));
    assert_eq!(one::<HashMap<String, Value>>(row)["b"], json!(2));
    assert_eq!(one::<Value>(row), json!({"a": 1, "b": 2}));
    assert_eq!(one::<Value>("SELECT"), json!({}));
    assert_eq!(query::<i32>("SELECT generate_series(1, 3)").unwrap(), [1, 2, 3]);
    assert_eq!(query::<i32>("SELECT 1 WHERE false").unwrap(), Vec::<i32>::new());
}

#[test]
fn a_row_that_does_not_fit_says_where_and_why() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[expect(dead_code, reason = "only its name matters")]
        id: i32,
    }
    type Refuse = fn(&str) -> DecodeError;
    let cases: &[(Refuse, &str, &str, &str, &str)] = &[
        (
            refusal::<i32>,
            "NULL::int4 AS a",
            "a",
            "int4",
            "expected i32, found NULL: use Option, or COALESCE in SQL",
        ),
        (refusal::<u8>, "300::int8 AS a", "a", "int8", "expected u8, found integer `300`"),
        (refusal::<u32>, "-1 AS a", "a", "int4", "expected u32, found integer `-1`"),
        (refusal::<i32>, "1.5::float8 AS a", "a", "float8", "expected i32, found floating point `1.5`"),
        (refusal::<String>, "1 AS a", "a", "int4", "expected a string, found integer `1`"),
        (
            refusal::<String>,
            "'NaN'::float8 AS a",
            "a",
            "float8",
            "expected a string, found floating point `NaN`",
        ),
        (refusal::<bool>, "'t' AS a", "a", "text", "expected a boolean, found string \"t\""),
        (refusal::<char>, "'ab' AS a", "a", "text", "expected a character, found string \"ab\""),
        (refusal::<(Vec<i32>,)>, "5 AS a", "a", "int4", "expected a sequence, found integer `5`"),
        (refusal::<Genre>, "5 AS a", "a", "int4", "expected enum Genre, found integer `5`"),
        (refusal::<Movie>, "1 AS movie_id", "", "", "no column \"title\"; the query returns \"movie_id\""),
        (refusal::<Movie>, "", "", "", "no column \"movie_id\"; the query returns none"),
        (
            refusal::<Movie>,
            "1 AS movie_id, 2 AS movie_id",
            "",
            "",
            "more than one column is named \"movie_id\": give the others names of their own with AS",
        ),
        (
            refusal::<Value>,
            "1 AS a, 2 AS b, 3 AS a",
            "",
            "",
            "more than one column is named \"a\": give the others names of their own with AS",
        ),
        (
            refusal::<Strict>,
            "1 AS id, 2 AS b",
            "",
            "",
            "column \"b\" is not wanted: the struct denies all but id",
        ),
        (refusal::<(i32, i32)>, "1 AS a", "", "", "expected 2 columns, found 1: \"a\""),
        (refusal::<i32>, "1 AS a, 2 AS b", "", "", "expected exactly 1 column, found 2: \"a\", \"b\""),
        (refusal::<i32>, "", "", "", "expected exactly 1 column, found none"),
    ];
    for (refuse, columns, column, postgres_type, message) in cases {
        let error = refuse(&format!("SELECT {columns}"));
        assert_eq!(
            (&*error.column, &*error.postgres_type, &*error.message),
            (*column, *postgres_type, *message)
        );
    }
}

#[test]
fn a_single_column_asked_for_as_a_row_of_several_parts_is_advised_to_be_a_1_tuple() {
    type Refuse = fn(&str) -> DecodeError;
    const ADVICE: &str = "; for the value of the only column, ask for a 1-tuple, as in (T,)";
    let cases: &[(Refuse, &str, &str)] = &[
        (refusal::<Vec<String>>, "ARRAY['a'] AS a", "expected a string, found sequence"),
        (refusal::<Option<Vec<i32>>>, "ARRAY[1] AS a", "expected i32, found sequence"),
        (refusal::<[i32; 2]>, "ARRAY[1, 2] AS a", "expected 2 columns, found 1: \"a\""),
        (refusal::<(i32, i32)>, "'[1, 2]'::json AS a", "expected 2 columns, found 1: \"a\""),
        (refusal::<Vec<u8>>, "'hi'::bytea AS a", "expected u8, found string \"\\\\x6869\""),
        (
            refusal::<Movie>,
            "'{\"movie_id\": 1, \"title\": \"x\"}'::jsonb AS a",
            "no column \"movie_id\"; the query returns \"a\"",
        ),
        (
            refusal::<Vec<i32>>,
            "'[1, 2]'::jsonb AS a",
            "the JSON does not fit: invalid type: sequence, expected i32 at line 1 column 0; for the JSON as text, \
             cast it in SQL, as in (column)::text",
        ),
        (
            refusal::<HashMap<String, i32>>,
            "'{\"b\": 1}'::jsonb AS a",
            "the JSON does not fit: invalid type: map, expected i32 at line 1 column 0; for the JSON as text, \
             cast it in SQL, as in (column)::text",
        ),
    ];
    for (refuse, column, message) in cases {
        assert_eq!(refuse(&format!("SELECT {column}")).message, format!("{message}{ADVICE}"));
    }
    // Each of these is no row of several parts, or has more columns than one, or fails inside of the value.
    #[derive(Debug, Deserialize)]
    struct Parent {
        #[expect(dead_code, reason = "only its type matters")]
        a: Movie,
    }
    let cases: &[(Refuse, &str)] = &[
        (refusal::<Vec<i32>>, "'a' AS a"),
        (refusal::<Vec<String>>, "ARRAY['a'] AS a, 1 AS b"),
        (refusal::<Movie>, "'{}'::jsonb AS a, 1 AS b"),
        (refusal::<(String,)>, "ARRAY['a'] AS a"),
        (refusal::<Vec<Vec<i32>>>, "ARRAY['a'] AS a"),
        (refusal::<Parent>, "'{}'::jsonb AS a"),
        (refusal::<String>, "ARRAY['a'] AS a"),
    ];
    for (refuse, columns) in cases {
        let message = refuse(&format!("SELECT {columns}")).message;
        assert!(!message.contains("1-tuple"), "{columns}: {message}");
    }
}

#[test]
fn an_unsupported_type_is_refused_even_when_null() {
    for (sql, postgres_type) in [
        ("point(1, 2)", "point"),
        ("NULL::point", "point"),
        ("ROW(1, 'a')", "record"),
        ("int4range(1, 5)", "int4range"),
        ("'a b'::tsvector", "tsvector"),
        ("'5'::money", "money"),
        ("'pg_class'::regclass", "regclass"),
    ] {
        for error in [
            refusal::<Value>(&format!("SELECT {sql} AS v")),
            refusal::<Option<String>>(&format!("SELECT {sql} AS v")),
            refusal::<(Option<String>,)>(&format!("SELECT {sql} AS v")),
        ] {
            assert_eq!((&*error.column, &*error.postgres_type), ("v", postgres_type));
            let advice =
                format!("type {postgres_type} is not supported: cast it in SQL, as in (column)::text");
            assert_eq!(error.message, advice);
        }
        // A column that the type does not have is ignored.
        assert_eq!(one::<Movie>(&format!("SELECT 1 AS movie_id, 'x' AS title, {sql} AS v")).movie_id, 1);
    }
    assert_eq!(one::<String>("SELECT point(1, 2)::text"), "(1,2)");
}
