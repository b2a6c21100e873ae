//! What was found out about a statement, and when that does not hold any more.

use super::*;
use crate::support::Postgres;

/// Changes what the text that is passed with the pool rests on.
type Change<'a> = &'a mut dyn FnMut(&Pool, &str);

/// What is known of a statement is asked again once a statement of this pool has changed what it rests on; of what others
/// change, functions and triggers included, it hears by a reset.
#[test]
fn what_was_harmless_may_become_harmful() {
    let mut stage = Stage::new(256);
    let evolve =
        "CREATE OR REPLACE FUNCTION quiet() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT public.charge(1)'";
    let ddl = format!(
        "CREATE FUNCTION quiet() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'; ALTER FUNCTION quiet() OWNER TO teller;
         CREATE PROCEDURE evolve_by_call() LANGUAGE plpgsql AS $$ BEGIN {evolve}; END $$"
    );
    let by_do = format!("DO $$ BEGIN {evolve}; END $$");
    let mut admin = stage.database.client();
    let mut ways: [(&str, Change<'_>); 6] = [
        ("by itself", &mut |pool, _| assert!(pool.execute_write(evolve, &[]).unwrap() < 2)),
        ("in a transaction, while another session asks", &mut |pool, ask| {
            pool.transaction(|tx| {
                tx.execute_write(evolve, &[])?;
                std::thread::scope(|scope| {
                    scope.spawn(|| pool.execute_query::<(i32,)>(ask, &[]).unwrap()).join().unwrap()
                });
                Ok(())
            })
            .unwrap();
        }),
        ("by the driver's client", &mut |pool, _| {
            pool.get_connection().unwrap().client().batch_execute(evolve).unwrap()
        }),
        ("by a procedure", &mut |pool, _| {
            assert!(pool.execute_write("CALL evolve_by_call()", &[]).unwrap() < 2)
        }),
        ("by a block", &mut |pool, _| assert!(pool.execute_write(&by_do, &[]).unwrap() < 2)),
        ("by others, before a reset", &mut |pool, _| {
            admin.batch_execute(evolve).unwrap();
            pool.reset();
        }),
    ];
    let mut wrong = Vec::new();
    for (way, change) in &mut ways {
        stage.set_up(way, &ddl, false);
        // One more connection, which may be asked meanwhile.
        stage.pool.resize(1, 2).unwrap();
        let ask = format!("SELECT quiet() -- {way}");
        stage.pool.execute_query::<(i32,)>(&ask, &[]).unwrap();
        change(&stage.pool, &ask);
        stage.pool.resize(1, 1).unwrap();
        crate::support::eventually("one is left", SOON, || stage.pool.status().total == 1);
        stage.pool.execute_query::<(i32,)>(&ask, &[]).unwrap();
        assert!(stage.written() > 0, "{way}: it was not changed");
        let seen = stage.describe();
        if seen != stage.fresh {
            wrong.push(format!("{way}: {}", difference(&seen, &stage.fresh)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A setting for one transaction changes what its texts mean, to all that was found out about them elsewhere.
#[test]
fn a_text_that_was_read_in_another_way_is_not_believed() {
    let mut stage = Stage::new(256);
    stage.set_up("", "", false);
    stage.pool.resize(1, 2).unwrap();
    // A backslash is one here, and the function is inside of a string.
    let text = r"SELECT '\' AS a, ' , charge(1) --' AS b";
    let first = stage.pool.get_connection().unwrap();
    first.execute_query::<()>(text, &[]).unwrap();
    assert_eq!(stage.written(), 0);
    let second = stage.pool.transaction(|tx| {
        tx.execute_write("SET LOCAL standard_conforming_strings = off", &[])?;
        tx.execute_query::<()>(text, &[])
    });
    second.unwrap();
    assert!(stage.written() > 0, "it means something else");
    let seen = stage.describe();
    assert_eq!(seen, stage.fresh, "{}", difference(&seen, &stage.fresh));
    drop(first);
}

const QUIET: &str = "CREATE FUNCTION quiet() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'";
const LOUD: &str = "CREATE OR REPLACE FUNCTION quiet() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('work_mem', '1MB', false); RETURN 1; END $$";

/// Two connections that know `quiet` as harmless.
fn quiet_pool() -> Pool {
    let pool = pool(2, 2, |_| ());
    pool.execute_write(QUIET, &[]).unwrap();
    let both = [pool.get_connection().unwrap(), pool.get_connection().unwrap()];
    for connection in &both {
        assert_eq!(connection.execute_query_one::<i32>("SELECT quiet()", &[]).unwrap(), Some(1));
    }
    pool
}

/// What the next borrowers of every connection see after `SELECT quiet()`.
fn is_noticed(pool: &Pool) -> bool {
    let both = [pool.get_connection().unwrap(), pool.get_connection().unwrap()];
    let usual: Vec<Option<String>> =
        both.iter().map(|connection| connection.execute_query_one("SHOW work_mem", &[]).unwrap()).collect();
    for connection in &both {
        connection.execute_query_one::<i32>("SELECT quiet()", &[]).unwrap();
    }
    drop(both);
    let both = [pool.get_connection().unwrap(), pool.get_connection().unwrap()];
    let seen: Vec<Option<String>> =
        both.iter().map(|connection| connection.execute_query_one("SHOW work_mem", &[]).unwrap()).collect();
    seen == usual && seen[0].as_deref() != Some("1MB")
}

/// A borrower that has changed something need not have come back.
#[test]
fn what_a_borrower_changes_is_known_at_once() {
    let pool = quiet_pool();
    let mut changing = pool.get_connection().unwrap();
    changing.client().batch_execute(LOUD).unwrap();
    let other = pool.clone();
    let seen = elsewhere(move || {
        other.execute_query_one::<i32>("SELECT quiet()", &[]).unwrap();
        other.execute_query_one::<String>("SHOW work_mem", &[]).unwrap()
    });
    assert_ne!(seen.as_deref(), Some("1MB"));
    drop(changing);
    assert!(is_noticed(&pool));
}

/// A transaction that sees the catalogue as it was runs functions as they are.
#[test]
fn what_an_old_snapshot_shows_is_not_believed() {
    for begins in ["by the pool", "by the borrower"] {
        let pool = quiet_pool();
        // A text that is not known yet, and one that is.
        let ask = |db: &dyn Fn(&str)| ["SELECT quiet()", "SELECT quiet() + 0"].map(db);
        let change = || {
            let other = pool.clone();
            elsewhere(move || other.execute_write(LOUD, &[]).unwrap());
        };
        if begins == "by the pool" {
            let isolation = Some(poolhouse::Isolation::RepeatableRead);
            let options = poolhouse::TransactionOptions::new().with_isolation(isolation);
            let outcome = pool.transaction_with(&options, |tx| {
                tx.execute_query::<i32>("SELECT 1", &[])?;
                change();
                ask(&|sql| drop(tx.execute_query::<i32>(sql, &[]).unwrap()));
                Ok(())
            });
            outcome.unwrap();
        } else {
            let connection = pool.get_connection().unwrap();
            connection.execute_write("BEGIN ISOLATION LEVEL REPEATABLE READ", &[]).unwrap();
            connection.execute_query::<i32>("SELECT 1", &[]).unwrap();
            change();
            ask(&|sql| drop(connection.execute_query::<i32>(sql, &[]).unwrap()));
            connection.execute_write("COMMIT", &[]).unwrap();
        }
        assert!(is_noticed(&pool), "{begins}");
    }
}

/// For each text that a connection meets the server is asked about its names, which must not take longer than the text.
#[test]
fn the_question_about_a_text_is_not_worth_compiling() {
    let server = Postgres::start_with(&[("shared_preload_libraries", "pg_stat_statements"), ("jit", "on")]);
    server.client().batch_execute("CREATE EXTENSION pg_stat_statements; CREATE TABLE t (a int)").unwrap();
    let pool = Pool::open(&server.pool_settings()).unwrap();
    let names: Vec<_> = (0..100).map(|number| format!("a AS column_{number}")).collect();
    let columns = names.join(", ");
    pool.execute_query::<Value>(&format!("SELECT {columns} FROM t"), &[]).unwrap();
    pool.execute_query::<Value>(&format!("INSERT INTO t VALUES (1) RETURNING {columns}"), &[]).unwrap();
    let sql =
        "SELECT count(*), sum(jit_functions)::int8 FROM pg_stat_statements WHERE query LIKE '%pg_policy%'";
    let asked = server.client().query_one(sql, &[]).unwrap();
    assert_eq!((asked.get::<_, i64>(0), asked.get::<_, i64>(1)), (1, 0));
}

/// A borrower in whose session the catalogue cannot be asked does not keep the others from asking.
#[test]
fn a_borrower_that_cannot_ask_is_alone_with_that() {
    let pool = pool(1, 1, |_| ());
    let mut connection = pool.get_connection().unwrap();
    let own = "CREATE SCHEMA own; CREATE FUNCTION own.same(name, text) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END $$;
        CREATE OPERATOR own.= (LEFTARG = name, RIGHTARG = text, FUNCTION = own.same); SET search_path = own, pg_catalog";
    connection.client().batch_execute(own).unwrap();
    assert_eq!(connection.execute_query_one::<i32>("SELECT 1", &[]).unwrap(), Some(1));
    connection.client().batch_execute("DROP SCHEMA own CASCADE").unwrap();
    drop(connection);
    let read = |number: i32| pool.execute_query_one::<i32>("SELECT $1 + 0", &[&number]).unwrap();
    read(0);
    let before = pool.status().resets;
    assert_eq!((read(1), read(2), pool.status().resets), (Some(1), Some(2), before));
}
