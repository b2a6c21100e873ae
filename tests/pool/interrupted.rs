//! Statements that do their work in more than one transaction, or in none: what was done stays when they are interrupted.

use super::*;
use crate::support::Proxy;
use crate::support::proxy::{Act, Message, Place};
use poolhouse::{Error, Execute};

/// It waits for every transaction that has written to the table, with the index made and not valid.
#[test]
fn an_index_that_is_half_made_at_the_timeout_is_not_reported_as_not_made() {
    let database = postgres::fresh_database();
    let mut direct = database.client();
    direct.batch_execute("CREATE TABLE t (a int)").unwrap();
    direct.batch_execute("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    let mut settings = database.pool_settings();
    settings.statement_timeout = Some(1000 * MS);
    let pool = Pool::open(&settings).unwrap();
    let mut is_there = false;
    // On a busy machine the time may be over before anything was made.
    while !is_there {
        let outcome = pool.execute_write("CREATE INDEX CONCURRENTLY i ON t (a)", &[]);
        assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
        let invalid = "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisvalid";
        is_there = database.client().query_one(invalid, &[]).unwrap().get::<_, i64>(0) == 1;
    }
}

/// Each of them is done when its answer is: a refusal at the timeout and a session's end in place of it are what a
/// server says that was interrupted behind the first step.
#[test]
fn what_is_done_in_steps_is_unknown_when_it_is_interrupted() {
    let database = postgres::fresh_database();
    let name = database.settings().name;
    let mut direct = database.client();
    let ddl = "CREATE TABLE t (a int PRIMARY KEY); CREATE INDEX i ON t (a); CLUSTER t USING t_pkey;
        CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE part PARTITION OF p FOR VALUES IN (1);
        CREATE PROCEDURE steps() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t DEFAULT VALUES; COMMIT; END'";
    direct.batch_execute(&ddl.replace("a int PRIMARY KEY", "a serial PRIMARY KEY")).unwrap();
    let proxy = Proxy::forging(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    let pool = Pool::open(&settings).unwrap();
    let steps = [
        ("VACUUM t", ""),
        ("vacuum (analyze) t", ""),
        ("/* x */ Vacuum", ""),
        ("CREATE INDEX CONCURRENTLY j ON t (a)", "DROP INDEX j"),
        ("CREATE UNIQUE INDEX /* x */ concurrently IF NOT EXISTS j ON t (a)", "DROP INDEX j"),
        ("DROP INDEX CONCURRENTLY i", "CREATE INDEX i ON t (a)"),
        ("REINDEX TABLE t", ""),
        ("REINDEX (VERBOSE) TABLE CONCURRENTLY t", ""),
        ("CLUSTER", ""),
        ("CREATE DATABASE NAME_2", "DROP DATABASE NAME_2"),
        ("DROP DATABASE NAME_3", "CREATE DATABASE NAME_3"),
        (
            "ALTER TABLE p DETACH PARTITION part CONCURRENTLY",
            "ALTER TABLE p ATTACH PARTITION part FOR VALUES IN (1)",
        ),
        ("CALL steps()", ""),
        ("DO 'BEGIN INSERT INTO t DEFAULT VALUES; COMMIT; END'", ""),
        ("ALTER SYSTEM SET work_mem = '5MB'", "ALTER SYSTEM RESET work_mem"),
    ];
    direct.batch_execute(&format!("CREATE DATABASE {name}_3")).unwrap();
    let mut wrong = Vec::new();
    for (sql, undo) in steps {
        let (sql, undo) = (sql.replace("NAME", &name), undo.replace("NAME", &name));
        let said = |severity, code| Act::Say {
            message: Message { severity, code, is_last: false },
            place: Place::Instead,
            is_run: true,
        };
        let acts = [said("ERROR", "57014"), said("FATAL", "57P01"), Act::Lose];
        // Databases take their time.
        let acts = if sql.contains("DATABASE") { &acts[..1] } else { &acts };
        for act in acts {
            proxy.forge(&sql, act.clone());
            let outcome = pool.execute_write(&sql, &[]);
            assert!(proxy.has_forged(), "{sql}: {outcome:?}");
            if !matches!(outcome, Err(Error::OutcomeUnknown(_))) {
                wrong.push(format!("{sql}, {act:?}: {outcome:?}"));
            }
            direct.batch_execute(&undo).unwrap_or_else(|error| panic!("{undo}: {error:?}"));
        }
    }
    let _ = direct.batch_execute(&format!("DROP DATABASE {name}_3"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
