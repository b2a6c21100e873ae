//! Types made in the database as parameters, through the driver's derives, directly and behind PgBouncer.

use super::pool;
use crate::support::{PgBouncer, postgres};
use poolhouse::{Execute, Pool};
use postgres_types::ToSql;
use serde::Deserialize;

/// One type for both directions: `ToSql` as a parameter, serde as a result.
#[derive(Debug, Clone, Copy, PartialEq, ToSql, Deserialize)]
#[postgres(name = "mood", rename_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
enum Mood {
    Happy,
    VerySad,
}

#[derive(Debug, ToSql)]
#[postgres(name = "visit")]
struct Visit {
    place: String,
    mood: Option<Mood>,
}

#[derive(Debug, ToSql)]
#[postgres(name = "best_mood")]
struct BestMood(Mood);

/// Runs `story` on a database directly, and on another one behind PgBouncer.
fn on_both_paths(story: impl Fn(&Pool)) {
    story(&pool(1, 1, |_| ()));
    let database = postgres::fresh_database();
    let bouncer = PgBouncer::before(&database.settings(), &[("default_pool_size", "2")]);
    story(&Pool::open(&bouncer.pool_settings()).unwrap());
}

#[test]
fn enums_domains_and_composite_types_are_parameters() {
    on_both_paths(|pool| {
        for sql in [
            "CREATE TYPE mood AS ENUM ('happy', 'very-sad')",
            "CREATE DOMAIN best_mood AS mood CHECK (VALUE = 'happy')",
            "CREATE TYPE visit AS (place text, mood mood)",
            "CREATE TABLE days (id int, mood mood, moods mood[], visit visit)",
        ] {
            pool.execute_write(sql, &[]).unwrap();
        }
        let insert = "INSERT INTO days VALUES ($1, $2, $3, $4)";
        let visit = Visit { place: "Rome".to_owned(), mood: Some(Mood::VerySad) };
        let moods = [Mood::Happy, Mood::VerySad];
        assert_eq!(pool.execute_write(insert, &[&1, &Mood::Happy, &&moods[..], &visit]).unwrap(), 1);
        let without_mood = Visit { mood: None, ..visit };
        pool.transaction(|tx| {
            tx.execute_write(insert, &[&2, &None::<Mood>, &vec![Mood::Happy], &without_mood])
        })
        .unwrap();

        type Day = (i32, Option<Mood>, Vec<Mood>, String, Option<Mood>);
        let days: Vec<Day> = pool
            .execute_query("SELECT id, mood, moods, (visit).place, (visit).mood FROM days ORDER BY id", &[])
            .unwrap();
        let rome = || "Rome".to_owned();
        assert_eq!(
            days,
            [
                (1, Some(Mood::Happy), moods.to_vec(), rome(), Some(Mood::VerySad)),
                (2, None, vec![Mood::Happy], rome(), None)
            ]
        );
        let ids = |sql: &str, mood: &(dyn ToSql + Sync)| pool.execute_query::<i32>(sql, &[mood]).unwrap();
        assert_eq!(ids("SELECT id FROM days WHERE mood = $1", &Mood::Happy), [1]);
        assert_eq!(ids("SELECT id FROM days WHERE mood = ANY($1)", &&moods[..]), [1]);
        let best = pool.execute_query::<Mood>("SELECT $1::best_mood", &[&BestMood(Mood::Happy)]).unwrap();
        assert_eq!(best, [Mood::Happy]);
        assert_eq!(ids("SELECT id FROM days WHERE mood = $1::text::mood", &"happy"), [1], "without a derive");
    });
}

#[test]
fn an_enum_that_lacks_a_label_of_the_database_is_refused_as_a_parameter() {
    on_both_paths(|pool| {
        pool.execute_write("CREATE TYPE mood AS ENUM ('happy', 'very-sad', 'bored')", &[]).unwrap();
        let error = pool.execute_query::<Mood>("SELECT $1::mood", &[&Mood::Happy]).unwrap_err().to_string();
        assert!(error.contains("parameter $1: ") && error.contains("`mood`"), "{error}");
        // A result is compared with the labels only as far as it has them.
        assert_eq!(pool.execute_query::<Mood>("SELECT 'happy'::mood", &[]).unwrap(), [Mood::Happy]);
    });
}
