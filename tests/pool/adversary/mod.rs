//! An adversary that writes, and marks its session, in every way that SQL offers, where answers are lost: nothing is done
//! twice or reported wrongly, and the next borrower sees nothing of it.

mod carriers;
mod knowledge;
mod spelling;

use self::carriers::{CARRIERS, CLEAN, Carrier, Kind, MARKS};
use self::spelling::{Choices, write};
use super::*;
use crate::support::proxy::Act;
use crate::support::{Database, Proxy};
use poolhouse::settings::Secret;
use poolhouse::{Error, Execute};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::sync::Once;

/// The role of the pool, which policies hold for.
const ROLE: &str = "DO $$ BEGIN CREATE ROLE teller LOGIN PASSWORD 'teller'; GRANT pg_monitor TO teller;
    EXCEPTION WHEN duplicate_object THEN END $$";

/// The function that leaves everything it can, once per session, and what else carriers are made of.
const BASE: &str = "
    DROP SCHEMA IF EXISTS elsewhere CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public;
    CREATE TABLE ledger (a int);
    CREATE FUNCTION charge(int) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, public AS $charge$ BEGIN
        INSERT INTO public.ledger VALUES ($1);
        IF current_setting('adversary.was_here', true) IS DISTINCT FROM 'yes' THEN
            PERFORM set_config('adversary.was_here', 'yes', false), set_config('app.tenant', 'A', false),
                set_config('work_mem', '1MB', false), pg_advisory_lock(7), setseed(0.25);
            BEGIN
                EXECUTE 'LISTEN news';
                CREATE TEMP TABLE scratch (a int);
                EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1';
                EXECUTE 'PREPARE planned AS SELECT 1';
                EXECUTE 'SET ROLE pg_monitor';
            EXCEPTION WHEN OTHERS THEN
            END;
        END IF;
        RETURN $1;
    END $charge$;
    CREATE FUNCTION charge_by_trigger() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM public.charge(1); RETURN new; END';
    CREATE FUNCTION charge_by_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.charge(1); END'";

const GRANTS: &str =
    "GRANT ALL ON SCHEMA public TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC";

/// All of a session that another may see, as an object; a setting that is empty is as good as none, and those that a
/// library brings with it are there once it is loaded. Whatever this calls is named in full, as others may have taken the
/// names.
const DESCRIBE: &str = "SELECT pg_catalog.json_build_object(
    'settings', (SELECT pg_catalog.json_object_agg(name, setting ORDER BY name) FROM pg_catalog.pg_settings
        WHERE pg_catalog.strpos(name, '.') OPERATOR(pg_catalog.=) 0),
    'custom', (SELECT pg_catalog.json_agg(pg_catalog.current_setting(name, true)) FROM (VALUES ('adversary.was_here'),
        ('app.tenant'), ('local.tenant'), ('transaction.x'), ('constraints.x'), ('session.x')) AS x(name)
        WHERE pg_catalog.current_setting(name, true) OPERATOR(pg_catalog.<>) ''),
    'role', current_user, 'login', session_user,
    'locks', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks
        WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()),
    'channels', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_listening_channels()),
    'cursors', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_cursors WHERE is_holdable),
    'prepared', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements WHERE from_sql),
    'temporary', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class
        WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()),
    'seeded', pg_catalog.random() OPERATOR(pg_catalog.=) SEEDED,
    'in transaction', pg_catalog.now() OPERATOR(pg_catalog.<>) pg_catalog.statement_timestamp())";

struct Stage {
    admin: ::postgres::Client,
    proxy: Proxy,
    pool: Pool,
    describe: String,
    /// What is set up now, and how a session is described then that is new.
    carrier: Option<&'static str>,
    fresh: Value,
    database: Database,
}

impl Stage {
    fn new(statement_cache_size: usize) -> Stage {
        static ROLE_IS_THERE: Once = Once::new();
        let database = postgres::fresh_database();
        let mut admin = database.client();
        ROLE_IS_THERE.call_once(|| database.client().batch_execute(ROLE).unwrap());
        admin.batch_execute("SET client_min_messages = warning; SELECT setseed(0.25)").unwrap();
        let seeded: f64 = admin.query_one("SELECT random()", &[]).unwrap().get(0);
        let proxy = Proxy::forging(&database.settings());
        let mut settings = PoolSettings::new(proxy.settings());
        settings.database.user = "teller".into();
        settings.database.password = Some(Secret::new("teller"));
        (settings.min_connections, settings.max_connections) = (1, 1);
        (settings.validate_after, settings.statement_cache_size) =
            (Duration::from_secs(3600), statement_cache_size);
        let pool = Pool::open(&settings).unwrap();
        let describe = DESCRIBE.replace("SEEDED", &format!("{seeded:?}"));
        Stage { admin, proxy, pool, describe, carrier: None, fresh: Value::Null, database }
    }

    /// Makes what `ddl` says and nothing else, for sessions that are all new.
    fn set_up(&mut self, carrier: &'static str, ddl: &str, is_shadowed: bool) {
        if self.carrier == Some(carrier) {
            return;
        }
        let (host, settings) = (self.database.settings().hosts[0].clone(), self.database.settings());
        let ddl = ddl.replace("PORT", &host.1.to_string()).replace("NAME", &settings.name);
        self.admin
            .batch_execute(&format!("{BASE}; {ddl}; {GRANTS}"))
            .unwrap_or_else(|error| panic!("{ddl}: {error:?}"));
        let path = if is_shadowed { "SET search_path = public, pg_catalog" } else { "RESET search_path" };
        self.admin.batch_execute(&format!("ALTER DATABASE {} {path}", settings.name)).unwrap();
        self.pool.reset();
        self.carrier = Some(carrier);
        self.fresh = self.describe();
    }

    /// What the next borrower sees.
    fn describe(&self) -> Value {
        let mut connection = self.pool.get_connection().unwrap();
        connection.client().query_one(&self.describe, &[]).unwrap().get(0)
    }

    /// How many rows have been written since this was last asked.
    fn written(&mut self) -> i64 {
        let written = self.admin.query_one("SELECT count(*) FROM public.ledger", &[]).unwrap().get(0);
        self.admin.batch_execute("TRUNCATE public.ledger").unwrap();
        written
    }

    /// Runs `sql`, once undisturbed and once with its answer lost; what is wrong with what became of it. Returns what it
    /// wrote undisturbed, or `None` where the server did not take it.
    fn judge(&mut self, sql: &str, entry: u8, is_lie: bool) -> Result<Option<i64>, String> {
        let undisturbed = run(&self.pool, sql, entry);
        let once = self.written();
        check(&undisturbed, once, once, is_lie)?;
        if !is_lie {
            let seen = self.describe();
            if seen != self.fresh {
                return Err(format!("the next borrower sees {}", difference(&seen, &self.fresh)));
            }
        }
        self.proxy.forge(sql, Act::Lose);
        let lost = run(&self.pool, sql, entry);
        let was_met = self.proxy.has_forged();
        check(&lost, self.written(), once, is_lie)
            .map_err(|wrong| format!("with the answer lost: {wrong}"))?;
        // To a COPY the helpers have no answer, though it is done.
        let is_done = undisturbed.is_ok() || once > 0;
        Ok((is_done && was_met).then_some(once))
    }
}

/// What an outcome says, compared with what was `written`; `once` is what it writes when it is run.
fn check(outcome: &poolhouse::Result<()>, written: i64, once: i64, is_lie: bool) -> Result<(), String> {
    let is_true = match outcome {
        Ok(()) => written == once,
        Err(Error::OutcomeUnknown(_)) => written <= once,
        // Nothing shows that it was no read.
        Err(Error::ConnectionLost(_)) if is_lie => written <= once,
        Err(_) => written == 0,
    };
    if is_true {
        Ok(())
    } else {
        Err(format!("reported {outcome:?}, written {written} rows, {once} is once"))
    }
}

fn difference(seen: &Value, fresh: &Value) -> String {
    let mut found = Vec::new();
    for (key, value) in seen.as_object().unwrap() {
        match value.as_object() {
            Some(settings) => found.extend(
                settings
                    .iter()
                    .filter(|(name, value)| fresh[key][name] != **value)
                    .map(|(name, value)| format!("{name} = {value}")),
            ),
            None if fresh[key] != *value => found.push(format!("{key}: {value}")),
            None => {}
        }
    }
    found.join(", ")
}

/// Runs `sql` by one of the ways there are.
fn run(pool: &Pool, sql: &str, entry: u8) -> poolhouse::Result<()> {
    match entry {
        0 => pool.execute_query::<()>(sql, &[]).map(drop),
        1 => pool.execute_write(sql, &[]).map(drop),
        2 => pool.get_connection()?.execute_query::<()>(sql, &[]).map(drop),
        _ => pool.transaction(|tx| tx.execute_query::<()>(sql, &[]).map(drop)),
    }
}

/// What the others rely on: that what is described is what is left.
#[test]
fn the_adversary_leaves_every_mark() {
    let mut stage = Stage::new(256);
    stage.set_up("", "", false);
    let mut settings = stage.database.settings();
    (settings.user, settings.password) = ("teller".into(), Some(Secret::new("teller")));
    let mut client = postgres::connect(&settings);
    client.batch_execute("SELECT public.charge(1)").unwrap();
    let seen: Value = client.query_one(&stage.describe, &[]).unwrap().get(0);
    for (key, value) in stage.fresh.as_object().unwrap() {
        assert!(*value != seen[key] || ["login", "in transaction"].contains(&key.as_str()), "{key}: {value}");
    }
}

#[test]
fn no_way_of_writing_is_run_twice_or_leaves_a_trace() {
    let mut stage = Stage::new(256);
    let mut wrong = Vec::new();
    for Carrier { name, ddl, sql, kind } in CARRIERS {
        stage.set_up(name, ddl, *kind == Kind::Shadow);
        // What was found out about a text is not asked again at once, and others have changed what it is about.
        let sql = format!("{} -- {name}", write(sql, &mut Choices::plain()));
        match stage.judge(&sql, 0, *kind == Kind::Lie) {
            Ok(Some(_)) => {}
            Ok(None) => {
                wrong.push(format!("{name}: {sql}: it does not work, {:?}", run(&stage.pool, &sql, 0)))
            }
            Err(words) => wrong.push(format!("{name}: {sql}: {words}")),
        }
    }
    stage.set_up("", "", false);
    for sql in MARKS {
        let sql = write(sql, &mut Choices::plain());
        match stage.judge(&sql, 0, false) {
            Ok(Some(_)) => {}
            Ok(None) => wrong.push(format!("{sql}: it does not work, {:?}", run(&stage.pool, &sql, 0))),
            Err(words) => wrong.push(format!("{sql}: {words}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CARRIERS.len() + MARKS.len(), wrong.join("\n"));
}

/// The same however it is spelt and wherever it is run. `PROPTEST_CASES` sets how many.
#[test]
fn no_spelling_hides_what_a_statement_does() {
    let many = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse::<u32>().ok());
    let config =
        Config { cases: many.map_or(60, |many| many / 20), failure_persistence: None, ..Config::default() };
    let stages = [256, 0].map(|size| RefCell::new(Stage::new(size)));
    let (taken, all) = (Cell::new(0), Cell::new(0));
    let which = 0..CARRIERS.len() + MARKS.len();
    let strategy = (which, prop::collection::vec(any::<u8>(), 1..40), 0_u8..4, 0_usize..2);
    let outcome = TestRunner::new(config).run(&strategy, |(which, choices, entry, stage)| {
        let mut stage = stages[stage].borrow_mut();
        let mut choices = Choices::new(choices);
        let (sql, is_lie) = match CARRIERS.get(which) {
            Some(Carrier { name, ddl, sql, kind }) => {
                stage.set_up(name, ddl, *kind == Kind::Shadow);
                (format!("{}\n-- {name}", write(sql, &mut choices)), *kind == Kind::Lie)
            }
            None => {
                stage.set_up("", "", false);
                (write(MARKS[which - CARRIERS.len()], &mut choices), false)
            }
        };
        all.set(all.get() + 1);
        let is_taken = stage.judge(&sql, entry, is_lie);
        let is_taken =
            is_taken.map_err(|words| TestCaseError::fail(format!("{sql:?} by way {entry}: {words}")))?;
        taken.set(taken.get() + u32::from(is_taken.is_some()));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(taken.get() * 2 > all.get(), "the server took {} of {}", taken.get(), all.get());
}

#[test]
fn what_leaves_nothing_costs_no_reset() {
    let mut stage = Stage::new(256);
    let ddl: String = CLEAN.iter().map(|(ddl, _)| format!("{ddl};")).collect();
    stage.set_up("all that is clean", &ddl, false);
    // What is being reset counts as in use.
    let is_back = || crate::support::eventually("it is back", SOON, || stage.pool.status().in_use == 0);
    is_back();
    let mut costly = Vec::new();
    for (_, sql) in CLEAN {
        for entry in 0..4 {
            let before = stage.pool.status().resets;
            run(&stage.pool, sql, entry).unwrap_or_else(|error| panic!("{sql}: {error}"));
            is_back();
            if stage.pool.status().resets > before {
                costly.push(format!("{sql} by way {entry}"));
            }
        }
    }
    assert!(costly.is_empty(), "{}", costly.join("\n"));
}
