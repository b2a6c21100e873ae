//! A server that refuses, ends, freezes or vanishes: which error, how soon, and how all is well again.

use super::*;
use crate::support::postgres::{GUEST, GUEST_PASSWORD};
use crate::support::{Postgres, Proxy, eventually};
use poolhouse::settings::{PrePing, Secret};
use poolhouse::{Error, Execute};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;

/// A wrong password or an unknown database is reported at once, in the server's own words.
#[test]
fn a_refused_login_is_reported_at_once() {
    let mut settings = postgres::pool_settings();
    // As long as it would take if it were tried again.
    settings.connect_timeout = 2 * SOON;
    let mut wrong_password = settings.clone();
    wrong_password.database.user = GUEST.into();
    wrong_password.database.password = Some(Secret::new("wrong"));
    let mut no_password = wrong_password.clone();
    no_password.database.password = None;
    let mut no_database = settings.clone();
    no_database.database.name = "nowhere".into();
    for (settings, words) in [
        (wrong_password.clone(), "password authentication failed for user \"guest\""),
        (no_password, "DB_PASSWORD"),
        (no_database, "database \"nowhere\" does not exist"),
    ] {
        let (error, took) = timed(|| Pool::open(&settings).unwrap_err());
        assert!(matches!(error, Error::Authentication(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.to_string().contains("wrong") && !error.is_transient(), "{error}");
        assert!(took < SOON, "{took:?}");
    }
    wrong_password.database.password = Some(Secret::new(GUEST_PASSWORD));
    Pool::open(&wrong_password).unwrap();
}

#[test]
fn a_refused_connect_is_down_at_once() {
    let mut settings = postgres::pool_settings();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    settings.database.hosts = vec![("127.0.0.1".into(), free)];
    settings.connect_timeout = 2 * SOON;
    let (error, took) = timed(|| Pool::open(&settings).unwrap_err());
    assert!(matches!(error, Error::Down(_)), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(took < SOON, "{took:?}");
}

/// A listener that accepts and sends nothing costs the connect timeout and no more.
#[test]
fn a_mute_server_is_down_after_the_connect_timeout() {
    let proxy = Proxy::to(&postgres::pool_settings().database);
    proxy.mute();
    let mut settings = PoolSettings::new(proxy.settings());
    // Less than where nothing is said of it.
    let usual = std::mem::replace(&mut settings.connect_timeout, 300 * MS);
    let (error, took) = timed(|| Pool::open(&settings).unwrap_err());
    assert!(matches!(error, Error::Down(_)), "{error}");
    assert!(took < usual, "{took:?}");
}

/// A frozen server costs a query its deadline, and dropping the connection costs nothing.
#[test]
fn a_frozen_server_holds_no_caller_beyond_the_deadline() {
    let server = Postgres::start();
    a_frozen_server_is_survived(&server, server.pool_settings());
}

/// Over a Unix socket as over TCP.
#[test]
fn a_frozen_server_behind_a_unix_socket_holds_no_caller_either() {
    let directory = tempfile::tempdir().unwrap();
    // The server runs as another user where the tests run as root.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let path = directory.path().to_str().unwrap();
    let server = Postgres::start_with(&[("unix_socket_directories", path)]);
    let mut settings = server.pool_settings();
    // Of a list too, and past an entry where no server listens.
    settings.database.hosts = vec![("/nowhere".into(), 5432), (path.into(), server.port())];
    a_frozen_server_is_survived(&server, settings);
}

fn a_frozen_server_is_survived(server: &Postgres, mut settings: PoolSettings) {
    (settings.min_connections, settings.max_connections) = (2, 2);
    settings.statement_timeout = Some(300 * MS);
    settings.outage_grace = 100 * MS;
    // Nothing else ends a wait.
    (settings.acquire_timeout, settings.connect_timeout) = (2 * SOON, 2 * SOON);
    let pool = Pool::open(&settings).unwrap();
    pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
    server.freeze();
    let (error, took) = timed(|| pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap_err());
    assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
    assert!(took < SOON, "{took:?}");

    let (error, took) = timed(|| pool.execute_write("SELECT 1", &[]).unwrap_err());
    assert!(took < SOON, "{took:?}: {error}");
    server.thaw();
    eventually("all is well again", SOON, || pool.execute_query_one::<i32>("SELECT 1", &[]).is_ok());
}

/// A statement dropped from the cache is closed on the way of the next one, and its reply is not that one's.
#[test]
fn an_evicted_statement_does_not_hide_a_frozen_server() {
    let server = Postgres::start();
    let mut settings = server.pool_settings();
    (settings.min_connections, settings.max_connections, settings.statement_cache_size) = (1, 1, 1);
    settings.statement_timeout = Some(Duration::from_secs(1));
    let pool = Pool::open(&settings).unwrap();
    let connection = pool.get_connection().unwrap();
    for sql in ["SELECT 1", "SELECT 2"] {
        connection.execute_query_one::<i32>(sql, &[]).unwrap();
    }
    let mut admin = server.client();
    let freezer = thread::spawn(move || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'";
        eventually("it runs", SOON, || admin.query_one(running, &[]).unwrap().get::<_, i64>(0) == 1);
        // A client without a pool's deadlines would wait for the frozen server to say goodbye.
        drop(admin);
        server.freeze();
        server
    });
    let (error, took) = timed(|| connection.execute_query::<()>("SELECT pg_sleep(60)", &[]).unwrap_err());
    assert!(took < SOON, "{took:?}: {error}");
    freezer.join().unwrap().thaw();
}

#[test]
fn a_slow_statement_is_cut_off_and_not_left_running() {
    let pool = pool(1, 2, |settings| settings.statement_timeout = Some(200 * MS));
    // Until the server answers while the client still reads.
    eventually("its outcome is reported", SOON, || {
        let (error, took) = timed(|| pool.execute_query::<()>("SELECT pg_sleep(60)", &[]).unwrap_err());
        assert!(took < SOON, "{took:?}");
        assert!(matches!(error, Error::DeadlineExceeded(_) | Error::OutcomeUnknown(_)), "{error}");
        matches!(error, Error::DeadlineExceeded(_))
    });
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%' AND state = 'active' \
                   AND datname = current_database()";
    eventually("none is left", SOON, || pool.execute_query_one::<i64>(running, &[]).unwrap() == Some(0));
}

/// A statement the server does not cut off itself is cancelled from outside when its deadline has passed.
#[test]
fn a_statement_whose_caller_has_given_up_is_cancelled_on_the_server() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 2);
    settings.statement_timeout = Some(200 * MS);
    let pool = Pool::open(&settings).unwrap();
    let connection = pool.get_connection().unwrap();
    connection.execute_write("SET statement_timeout = 0", &[]).unwrap();
    let error = connection.execute_query::<()>("SELECT pg_sleep(60)", &[]).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_) | Error::DeadlineExceeded(_)), "{error}");
    drop(connection);
    let mut watcher = database.client();
    eventually("the statement is gone", SOON, || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()
                       AND state = 'active' AND datname = current_database()";
        watcher.query_one(running, &[]).unwrap().get::<_, i64>(0) == 0
    });
}

/// An outage is reported with its age and cause; one attempt at a time; the first success comes soon after.
#[test]
fn an_outage_is_reported_at_once_and_ends_soon_after_the_server_is_back() {
    let server = Postgres::start();
    let proxy = Proxy::to(&server.database_settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (2, 8);
    (settings.outage_grace, settings.acquire_timeout) = (300 * MS, Duration::from_secs(2));
    let pool = Pool::open(&settings).unwrap();
    let ask = || pool.execute_query_one::<i32>("SELECT 1", &[]);
    ask().unwrap();

    proxy.refuse();
    proxy.cut();
    eventually("callers get an error", SOON, || matches!(ask(), Err(Error::Down(_))));
    thread::sleep(500 * MS);
    let attempts = pool.status().connect_failures;
    let started = std::time::Instant::now();
    for _ in 0..100 {
        let error = ask().unwrap_err();
        let Error::Down(numbers) = &error else { panic!("{error}") };
        assert!(numbers.last_failure.as_ref().unwrap().failing_for >= 300 * MS, "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
    let each = started.elapsed() / 100;
    assert!(each * 3 < settings.outage_grace, "{each:?} per refusal");
    assert!(pool.status().connect_failures - attempts < 50, "callers cause no attempts");

    proxy.pass();
    eventually("the first success", SOON, || ask().is_ok());
    eventually("the minimum is warm again", SOON, || pool.status().available >= 2);
}

#[test]
fn an_outage_shorter_than_the_grace_is_waited_out() {
    let server = Postgres::start();
    let mut settings = server.pool_settings();
    settings.outage_grace = Duration::from_secs(10);
    settings.acquire_timeout = Duration::from_secs(10);
    let pool = Pool::open(&settings).unwrap();
    pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
    server.stop_fast();
    thread::scope(|scope| {
        let waiters: Vec<_> =
            (0..8).map(|_| scope.spawn(|| pool.execute_query_one::<i32>("SELECT 1", &[]))).collect();
        eventually("they wait", SOON, || pool.status().waiting == 8);
        server.start_again();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap().unwrap(), Some(1));
        }
    });
}

/// Three connects that hang stop no caller.
#[test]
fn hanging_connects_do_not_stop_callers_that_have_connections() {
    let proxy = Proxy::to(&postgres::pool_settings().database);
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (2, 10);
    let pool = Pool::open(&settings).unwrap();
    proxy.mute();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let connection = pool.get_connection().unwrap();
                    connection.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
                    thread::sleep(5 * MS);
                }
            });
        }
    });
}

#[test]
fn a_login_refused_at_run_time_is_reported_and_heals() {
    let server = Postgres::start();
    let mut settings = server.pool_settings();
    settings.database.user = GUEST.into();
    settings.database.password = Some(Secret::new(GUEST_PASSWORD));
    (settings.min_connections, settings.max_connections) = (1, 2);
    let pool = Pool::open(&settings).unwrap();
    let mut admin = server.client();
    admin.batch_execute(&format!("ALTER ROLE {GUEST} PASSWORD 'changed'")).unwrap();
    pool.reset();
    eventually("callers get an error", SOON, || {
        matches!(pool.execute_query_one::<i32>("SELECT 1", &[]), Err(Error::Authentication(_)))
    });
    admin.batch_execute(&format!("ALTER ROLE {GUEST} PASSWORD '{GUEST_PASSWORD}'")).unwrap();
    eventually("all is well again", SOON, || pool.execute_query_one::<i32>("SELECT 1", &[]).is_ok());
}

/// An outage is no exhaustion, also before any attempt to connect has failed: it is said that none has been answered.
/// And what it turned away is no reason for a larger pool.
#[test]
fn a_server_that_leaves_attempts_to_connect_unanswered_is_down_and_not_exhausted() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (4, 4);
    // Every lent connection is checked first, so that the dead ones are found.
    settings.pre_ping = PrePing::On;
    let pool = Pool::open(&settings).unwrap();
    proxy.mute();
    proxy.cut();
    let error = pool.get_connection_timeout(300 * MS).unwrap_err();
    assert!(matches!(error, Error::Down(_)), "{error}");
    assert!(error.to_string().contains("unanswered for") || error.to_string().contains("failed"), "{error}");
    proxy.pass();
    eventually("it is well again", SOON, || {
        pool.execute_query_one::<i32>("SELECT 1", &[]).is_ok() && pool.status().last_failure.is_none()
    });
    let status = pool.status();
    assert_eq!(status.timed_out + status.rejected, status.turned_away_in_outage, "{status:?}");
}

/// A server that has become slow is not taken for a silent one again and again.
#[test]
fn a_server_that_connects_far_more_slowly_than_before_is_not_refused() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    // Whatever else there is to do on this machine.
    let patient = Duration::from_secs(60);
    (settings.outage_grace, settings.connect_timeout, settings.acquire_timeout) = (patient, patient, patient);
    let pool = Pool::open(&settings).unwrap();
    // A little longer than an attempt may be silent at first.
    proxy.delay_connects((pool.status().connect_times.sum * 22).max(600 * MS));
    proxy.cut();
    assert_eq!(pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap(), Some(1));
    let cut_short = pool.status().connect_failures;
    assert!(cut_short <= 1, "{cut_short} attempts were cut short");
}

/// What a call waits for a replacement is part of its wait, and it is one call.
#[test]
fn a_call_whose_connection_is_dead_is_counted_once_with_all_its_wait() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    for pre_ping in [PrePing::On, PrePing::Off] {
        let mut settings = PoolSettings::new(proxy.settings());
        (settings.min_connections, settings.max_connections) = (1, 1);
        settings.pre_ping = pre_ping;
        proxy.delay_connects(Duration::ZERO);
        let pool = Pool::open(&settings).unwrap();
        proxy.delay_connects(200 * MS);
        proxy.cut();
        assert_eq!(pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap(), Some(1));
        let status = pool.status();
        assert_eq!(status.requests, 1, "{pre_ping:?}");
        assert!(status.wait_times.sum >= 200 * MS, "{pre_ping:?}: {:?}", status.wait_times);
        let counted = if pre_ping == PrePing::On { 1 } else { 2 };
        assert_eq!(status.wait_times.count(), counted, "{pre_ping:?}: one for each connection that was lent");
    }
}

/// A maker that is held up between announcing a connection and storing it, here by the log, costs no connection.
#[test]
fn a_maker_that_is_held_up_costs_no_connection() {
    // The logger is the process's.
    let script = "held_up_maker";
    if std::env::var("POOLHOUSE_TEST_SCRIPT").as_deref() != Ok(script) {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pool::failures::a_maker_that_is_held_up_costs_no_connection", "--nocapture"])
            .env("POOLHOUSE_TEST_SCRIPT", script)
            .env("TEST_DATABASE_URL", postgres::url(&postgres::fresh_database().settings()))
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    struct Slow;
    impl log::Log for Slow {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            if record.args().to_string().starts_with("Database is back") {
                thread::sleep(700 * MS);
            }
        }
        fn flush(&self) {}
    }
    log::set_logger(&Slow).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let proxy = Proxy::to(&postgres::pool_settings().database);
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    (settings.outage_grace, settings.pre_ping) = (Duration::from_secs(60), PrePing::On);
    let pool = Pool::open(&settings).unwrap();
    proxy.refuse();
    proxy.cut();
    thread::scope(|scope| {
        let caller = scope.spawn(|| pool.get_connection_timeout(Duration::from_secs(30)).map(drop));
        eventually("it is down", SOON, || pool.status().connect_failures > 0);
        proxy.pass();
        caller.join().unwrap().unwrap();
    });
    let status = pool.status();
    assert_eq!((status.connects, status.total, status.closed.total()), (2, 1, 1), "{status:?}");
    assert_eq!(proxy.open_connections(), 1);
}
