//! Type by type: what the server sends, and what it becomes; as it is, after a reset, after changes of the types, and
//! behind PgBouncer.

use super::{Genre, Movie, one, query, refusal, with_pool, write};
use crate::support::postgres::pool_settings;
use crate::support::{PgBouncer, SOON, eventually};
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use poolhouse::Pool;
use rust_decimal::Decimal;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use std::net::IpAddr;
use uuid::Uuid;

#[test]
fn every_scalar_decodes_into_its_rust_type() {
    assert!(one::<bool>("SELECT true"));
    assert_eq!(one::<i16>("SELECT (-7)::int2"), -7);
    assert_eq!(one::<i32>("SELECT 7"), 7);
    assert_eq!(one::<i64>("SELECT 5000000000"), 5_000_000_000);
    assert_eq!(one::<i128>("SELECT 7::int8"), 7);
    assert_eq!(one::<u32>("SELECT 4294967295::oid"), u32::MAX);
    assert_eq!(one::<u64>("SELECT '18446744073709551615'::xid8"), u64::MAX);
    assert_eq!(one::<f32>("SELECT 0.1::float4"), 0.1);
    assert_eq!(one::<f64>("SELECT 0.1::float8"), 0.1);
    assert!(one::<f64>("SELECT 'NaN'::float8").is_nan());
    assert_eq!(one::<f64>("SELECT '-Infinity'::float4"), f64::NEG_INFINITY);
    assert_eq!(one::<f64>("SELECT 3"), 3.0);
    assert_eq!(one::<String>("SELECT 'Amélie'"), "Amélie");
    assert_eq!(one::<String>("SELECT 'ab'::char(4)"), "ab  ");
    assert_eq!(one::<String>("SELECT 'ab'::name"), "ab");
    assert_eq!(one::<String>("SELECT '<a/>'::xml"), "<a/>");
    assert_eq!(one::<char>("SELECT 'é'::varchar"), 'é');
    assert_eq!(one::<char>("SELECT 'x'::\"char\""), 'x');
    assert_eq!(one::<i8>("SELECT 'x'::\"char\""), 120);
    assert_eq!(one::<ByteBuf>("SELECT 'hi'::bytea"), ByteBuf::from("hi"));
    assert_eq!(one::<String>("SELECT '\\x00ff'::bytea"), "\\x00ff");
    assert_eq!(one::<(Vec<u8>,)>("SELECT 'hi'::bytea"), (b"hi".to_vec(),));
    assert_eq!(one::<([u8; 2],)>("SELECT 'hi'::bytea"), (*b"hi",));
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    assert_eq!(one::<Uuid>(&format!("SELECT '{uuid}'::uuid")), Uuid::parse_str(uuid).unwrap());
    assert_eq!(one::<IpAddr>("SELECT '10.0.0.1'::inet"), IpAddr::from([10, 0, 0, 1]));
    assert_eq!(one::<Genre>("SELECT 'sci-fi'"), Genre::SciFi);
}

#[test]
fn numerics_are_exact_as_text_and_checked_as_numbers() {
    for digits in
        ["0", "0.00", "-12.340", "10000", "0.00001234", "123456789012345678901234567890.5", "NaN", "Infinity"]
    {
        assert_eq!(one::<String>(&format!("SELECT '{digits}'::numeric")), digits);
    }
    assert_eq!(one::<(Decimal,)>("SELECT -12.340").0, Decimal::new(-12_340, 3));
    assert_eq!(one::<(Option<Decimal>,)>("SELECT NULL::numeric").0, None);
    let error = refusal::<Decimal>("SELECT 0.5");
    assert!(
        error.message.ends_with("found map; for the value of the only column, ask for a 1-tuple, as in (T,)"),
        "{error}"
    );
    assert_eq!(one::<f64>("SELECT 0.1"), 0.1);
    assert_eq!(one::<f64>("SELECT '-Infinity'::numeric"), f64::NEG_INFINITY);
    assert_eq!(one::<i64>("SELECT 12.00"), 12);
    assert_eq!(one::<u64>("SELECT 18446744073709551615"), u64::MAX);
    assert_eq!(one::<i128>("SELECT -170141183460469231731687303715884105727"), -i128::MAX);

    assert_eq!(
        refusal::<i64>("SELECT 1.5").message,
        "expected an integer, found a numeric that is not whole: 1.5"
    );
    assert_eq!(refusal::<u8>("SELECT 256.0").message, "expected u8, found integer `256`");
    let too_large = "expected f64, found a numeric that is out of its range: 1000";
    assert!(refusal::<f64>("SELECT 1e400 + 0.5").message.starts_with(too_large));
    assert!(refusal::<f32>("SELECT 1e39").message.starts_with(&too_large.replace("f64", "f32")));
    assert!(refusal::<(Decimal,)>("SELECT 'NaN'::numeric").message.contains("NaN"));
}

#[test]
fn moments_decode_through_iso_8601() {
    let date = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
    let time = NaiveTime::from_hms_milli_opt(8, 15, 0, 500).unwrap();
    let moment = date.and_time(time);
    assert_eq!(one::<NaiveDate>("SELECT date '2026-11-21'"), date);
    assert_eq!(one::<NaiveTime>("SELECT time '08:15:00.5'"), time);
    assert_eq!(one::<NaiveDateTime>("SELECT timestamp '2026-11-21 08:15:00.5'"), moment);
    assert_eq!(one::<DateTime<Utc>>("SELECT timestamptz '2026-11-21 10:15:00.5+02'"), moment.and_utc());
    assert_eq!(
        one::<DateTime<Utc>>("SELECT timestamptz '12026-01-01 UTC'").to_rfc3339(),
        "+12026-01-01T00:00:00+00:00"
    );
    assert_eq!(one::<NaiveDate>("SELECT date '0044-03-15 BC'"), NaiveDate::from_ymd_opt(-43, 3, 15).unwrap());

    for sql in ["date 'infinity'", "timestamp '-infinity'", "timestamptz 'infinity'"] {
        let text = one::<String>(&format!("SELECT {sql}"));
        assert_eq!(format!("'{text}'"), sql.split_once(' ').unwrap().1);
    }
    assert_eq!(one::<String>("SELECT date '5874897-12-31'"), "+5874897-12-31");
    let error = refusal::<NaiveDate>("SELECT date 'infinity' AS released");
    assert_eq!((error.column.as_str(), error.postgres_type.as_str()), ("released", "date"));
    assert!(error.message.starts_with("cannot read \"infinity\": "), "{error}");
    assert!(refusal::<NaiveDate>("SELECT date '5874897-12-31'").message.contains("+5874897-12-31"));
    assert!(refusal::<DateTime<Utc>>("SELECT timestamptz '294276-12-31 UTC'").message.contains("+294276"));
    assert!(refusal::<NaiveTime>("SELECT time '24:00'").message.contains("24:00:00"));
}

/// What [`Value`] shows, type by type. The SQL expressions are a column `v` each.
#[test]
fn every_type_describes_itself() {
    for (sql, expected) in [
        ("NULL::int4", json!(null)),
        ("NULL::int4[]", json!(null)),
        ("false", json!(false)),
        ("(-7)::int2", json!(-7)),
        ("9223372036854775807", json!(i64::MAX)),
        ("4294967295::oid", json!(u32::MAX)),
        ("'7'::xid", json!(7)),
        ("0.1::float4", json!(0.1)),
        ("-1.5e300::float8", json!(-1.5e300)),
        ("'NaN'::float8", json!("NaN")),
        ("'-Infinity'::float4", json!("-Infinity")),
        ("0.10", json!("0.10")),
        ("'a'::\"char\"", json!("a")),
        ("''", json!("")),
        ("'\\x6869'::bytea", json!("\\x6869")),
        ("'{\"a\": [1, null]}'::json", json!({"a": [1, null]})),
        ("'{\"a\": [1, null]}'::jsonb", json!({"a": [1, null]})),
        ("'null'::jsonb", json!(null)),
        ("date '2026-11-21'", json!("2026-11-21")),
        ("time '08:15:00.5'", json!("08:15:00.5")),
        ("timetz '08:15:00-03:30'", json!("08:15:00-03:30")),
        ("timestamp '2026-11-21 08:15:00.123456'", json!("2026-11-21T08:15:00.123456")),
        ("timestamptz '2026-11-21 08:15+02'", json!("2026-11-21T06:15:00Z")),
        ("interval '1 year 2 mons 3 days 04:05:06.5'", json!("P1Y2M3DT4H5M6.5S")),
        ("uuid '67E55044-10B1-426F-9247-BB680E5FE0C8'", json!("67e55044-10b1-426f-9247-bb680e5fe0c8")),
        ("inet '10.0.0.1'", json!("10.0.0.1")),
        ("inet '10.0.0.1/8'", json!("10.0.0.1/8")),
        ("cidr '10.0.0.1'", json!("10.0.0.1/32")),
        ("cidr '10.0.0.0/8'", json!("10.0.0.0/8")),
        ("inet '2001:db8::1'", json!("2001:db8::1")),
        ("macaddr '08:00:2b:01:02:03'", json!("08:00:2b:01:02:03")),
        ("macaddr8 '08:00:2b:01:02:03:04:05'", json!("08:00:2b:01:02:03:04:05")),
        ("'cursor'::refcursor", json!("cursor")),
        ("ARRAY['a', NULL]", json!(["a", null])),
        ("ARRAY[[1, 2], [3, 4]]", json!([[1, 2], [3, 4]])),
        ("'[2:3]={1,2}'::int4[]", json!([1, 2])),
        ("'{}'::text[]", json!([])),
        ("ARRAY['{\"a\": 1}'::jsonb]", json!([{"a": 1}])),
        ("'1 2'::int2vector", json!([1, 2])),
        ("pg_sleep(0)", json!(null)),
    ] {
        assert_eq!(one::<Value>(&format!("SELECT {sql} AS v")), json!({"v": expected}), "{sql}");
    }
}

#[test]
fn intervals_read_as_the_server_itself_would_write_them() {
    for sample in [
        "0",
        "-1 year -2 mons +3 days -04:05:06.07",
        "14 mons",
        "-00:00:00.000001",
        "178000000 years 59.999999 s",
        "2147483647 days",
        "25:00:59",
        "1 mon -1 s",
    ] {
        // The target list is evaluated from the left, so the setting is in force for the text.
        let (_, ours, theirs): (String, String, String) = one(&format!(
            "SELECT set_config('intervalstyle', 'iso_8601', true), v, v::text \
             FROM (SELECT interval '{sample}' AS v OFFSET 0) AS sample"
        ));
        assert_eq!(ours, theirs, "{sample}");
    }
}

#[test]
fn arrays_nest_and_hold_nulls() {
    assert_eq!(one::<(Vec<i32>,)>("SELECT ARRAY[1, 2]").0, [1, 2]);
    assert_eq!(one::<(Vec<Option<i32>>,)>("SELECT ARRAY[1, NULL]").0, [Some(1), None]);
    assert_eq!(one::<(Vec<Vec<i64>>,)>("SELECT ARRAY[[1, 2], [3, 4]]").0, [[1, 2], [3, 4]]);
    assert_eq!(one::<([(i32, i32); 2],)>("SELECT ARRAY[[1, 2], [3, 4]]").0, [(1, 2), (3, 4)]);
    assert_eq!(one::<(Vec<Vec<i32>>,)>("SELECT '{}'::int4[]").0, Vec::<Vec<i32>>::new());
    assert_eq!(one::<(Option<Vec<Uuid>>,)>("SELECT NULL::uuid[]").0, None);
    assert_eq!(one::<(Vec<Genre>,)>("SELECT ARRAY['western', 'sci-fi']").0, [Genre::Western, Genre::SciFi]);
    assert_eq!(
        one::<(Vec<NaiveDate>,)>("SELECT ARRAY[date '2026-11-21']").0,
        [NaiveDate::from_ymd_opt(2026, 11, 21).unwrap()]
    );

    let error = refusal::<(Vec<i32>,)>("SELECT ARRAY[1, NULL] AS ids");
    assert_eq!((error.column.as_str(), error.postgres_type.as_str()), ("ids", "_int4"));
    assert_eq!(error.message, "element 2: expected i32, found NULL: use Option, or COALESCE in SQL");
    assert_eq!(
        refusal::<(Vec<Vec<u8>>,)>("SELECT ARRAY[[1, 2], [3, -4]]").message,
        "element 2: element 2: expected u8, found integer `-4`"
    );
    assert_eq!(refusal::<([i32; 3],)>("SELECT ARRAY[1, 2]").message, "expected 3 elements, found 2");
}

#[test]
fn json_columns_decode_from_their_bytes() {
    let row = r#"'{"movie_id": 1, "title": "Jaws", "year": null}'"#;
    let movie = Movie { movie_id: 1, title: "Jaws".into(), year: None };
    assert_eq!(one::<(Movie,)>(&format!("SELECT {row}::jsonb")).0, movie);
    assert_eq!(one::<(Movie,)>(&format!("SELECT {row}::json")).0, movie);
    assert_eq!(one::<(Vec<Movie>,)>(&format!("SELECT ARRAY[{row}::jsonb]")).0, [movie]);
    assert_eq!(one::<(Option<Value>,)>("SELECT 'null'::jsonb").0, None);
    assert_eq!(one::<(i64, String)>("SELECT '5'::jsonb, '\"a\"'::json"), (5, "a".into()));
    assert_eq!(one::<Genre>("SELECT '\"sci-fi\"'::jsonb"), Genre::SciFi);

    let error = refusal::<(Movie,)>("SELECT '{\"movie_id\": 1}'::jsonb AS movie");
    assert_eq!((error.column.as_str(), error.postgres_type.as_str()), ("movie", "jsonb"));
    assert!(error.message.contains("missing field `title`"), "{error}");
}

#[test]
fn types_made_in_the_database_decode_like_what_they_are_made_of() {
    for kind_and_name in [
        "TYPE IF EXISTS genre",
        "DOMAIN IF EXISTS stars",
        "DOMAIN IF EXISTS tags",
        "EXTENSION IF EXISTS citext",
    ] {
        write(&format!("DROP {kind_and_name}"));
    }
    write("CREATE TYPE genre AS ENUM ('sci-fi', 'western', 'horror')");
    write("CREATE DOMAIN stars AS numeric CHECK (VALUE BETWEEN 0 AND 5)");
    write("CREATE DOMAIN tags AS text[]");
    write("CREATE EXTENSION citext");
    assert_eq!(one::<Genre>("SELECT 'western'::genre"), Genre::Western);
    assert_eq!(one::<(Vec<Genre>,)>("SELECT ARRAY['sci-fi']::genre[]").0, [Genre::SciFi]);
    assert_eq!(one::<String>("SELECT 'horror'::genre"), "horror");
    assert_eq!(one::<f64>("SELECT 4.5::stars"), 4.5);
    assert_eq!(one::<(Vec<Decimal>,)>("SELECT ARRAY[4.5]::stars[]").0, [Decimal::new(45, 1)]);
    assert_eq!(one::<(Vec<String>,)>("SELECT '{a,b}'::tags").0, ["a", "b"]);
    assert_eq!(one::<String>("SELECT 'MiXed'::citext"), "MiXed");

    let error = refusal::<Genre>("SELECT 'horror'::genre AS genre");
    assert_eq!((error.column.as_str(), error.postgres_type.as_str()), ("genre", "genre"));
    assert_eq!(error.message, "unknown variant `horror`, expected `sci-fi` or `western`");
}

/// Everything above.
const TABLE: [fn(); 8] = [
    every_scalar_decodes_into_its_rust_type,
    numerics_are_exact_as_text_and_checked_as_numbers,
    moments_decode_through_iso_8601,
    every_type_describes_itself,
    intervals_read_as_the_server_itself_would_write_them,
    arrays_nest_and_hold_nulls,
    json_columns_decode_from_their_bytes,
    types_made_in_the_database_decode_like_what_they_are_made_of,
];

fn pool_of_one() -> Pool {
    let mut settings = pool_settings();
    (settings.min_connections, settings.max_connections) = (1, 1);
    Pool::open(&settings).unwrap()
}

/// Leaves something in the only session, and waits until it is reset.
fn reset(pool: &Pool) {
    let before = pool.status().resets;
    pool.get_connection().unwrap().client().batch_execute("SET work_mem = '1MB'").unwrap();
    eventually("it is reset", SOON, || pool.status().resets > before);
}

/// The second time the types are others by the same names, too.
#[test]
fn every_type_is_the_same_after_a_reset() {
    let pool = pool_of_one();
    for table in [&TABLE[..], &TABLE] {
        for check in table {
            with_pool(&pool, check);
            reset(&pool);
        }
    }
    let status = pool.status();
    assert_eq!((status.connects, status.closed.total()), (1, 0), "{status:?}");
}

#[test]
fn every_type_is_the_same_behind_pgbouncer() {
    let database = crate::support::postgres::fresh_database();
    let bouncer = PgBouncer::before(&database.settings(), &[("default_pool_size", "2")]);
    let pool = Pool::open(&bouncer.pool_settings()).unwrap();
    TABLE.iter().for_each(|check| with_pool(&pool, check));
}

/// What one asks of types that change, over and over in the same words.
fn of_changed_types(levels: &[&str], grade: &str) {
    let last = levels.last().unwrap();
    assert_eq!(query::<String>("SELECT unnest(enum_range(NULL::level))::level").unwrap(), levels);
    assert_eq!(
        query::<(String, Option<String>)>("SELECT level, next FROM ladder").unwrap(),
        [(levels[0].to_owned(), None)]
    );
    assert_eq!(one::<Vec<Vec<String>>>("SELECT ARRAY(SELECT level FROM ladder)"), [[levels[0]]]);
    assert_eq!(
        one::<(Value,)>("SELECT (SELECT grade FROM graded)").0,
        json!(grade.parse::<i64>().map_or(json!(grade), |number| json!(number)))
    );
    assert_eq!(
        one::<(Value,)>("SELECT to_jsonb(steps) FROM (SELECT ROW(1, 2)::step AS steps) AS x").0["b"],
        json!(2)
    );
    assert_eq!(one::<i32>("SELECT (ROW(1, 2)::step).b"), 2);
    assert!(query::<String>(&format!("SELECT '{last}x'::level")).is_err());
}

#[test]
fn types_may_change_under_statements_that_are_known() {
    let database = crate::support::postgres::fresh_database();
    let bouncer = PgBouncer::before(&database.settings(), &[("default_pool_size", "2")]);
    for pool in [pool_of_one(), Pool::open(&bouncer.pool_settings()).unwrap()] {
        with_pool(&pool, || {
            write("CREATE TYPE level AS ENUM ('low', 'high')");
            write("CREATE DOMAIN grade AS text CHECK (VALUE <> '')");
            write("CREATE TYPE step AS (a int, b int)");
            write("CREATE TABLE ladder (level level, next level)");
            write("CREATE TABLE graded (grade grade)");
            write("INSERT INTO ladder VALUES ('low')");
            write("INSERT INTO graded VALUES ('good')");
            of_changed_types(&["low", "high"], "good");
            for (change, levels, grade) in [
                ("ALTER TYPE level ADD VALUE 'top'", &["low", "high", "top"][..], "good"),
                ("ALTER TYPE level RENAME VALUE 'low' TO 'base'", &["base", "high", "top"], "good"),
                (
                    "ALTER TYPE step ADD ATTRIBUTE c int; ALTER TYPE step DROP ATTRIBUTE c",
                    &["base", "high", "top"],
                    "good",
                ),
                ("ALTER DOMAIN grade ADD CHECK (VALUE <> 'bad')", &["base", "high", "top"], "good"),
                (
                    "DROP TABLE graded; DROP DOMAIN grade; CREATE DOMAIN grade AS int;
                     CREATE TABLE graded (grade grade); INSERT INTO graded VALUES (5)",
                    &["base", "high", "top"],
                    "5",
                ),
                (
                    "DROP TABLE ladder; DROP TYPE level; CREATE TYPE level AS ENUM ('one', 'two');
                     CREATE TABLE ladder (level level, next level); INSERT INTO ladder VALUES ('one')",
                    &["one", "two"],
                    "5",
                ),
                ("DROP TYPE step; CREATE TYPE step AS (a text, b int)", &["one", "two"], "5"),
            ] {
                change.split(';').for_each(write);
                for _ in 0..3 {
                    of_changed_types(levels, grade);
                }
            }
        });
    }
}
