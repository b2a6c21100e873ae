//! TLS to the server, in the strengths that `sslmode` names.

use super::*;
use crate::support::{Postgres, Proxy};
use poolhouse::settings::SslMode;
use poolhouse::{Error, Execute};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::path::Path;
use std::thread;
use std::time::Instant;

/// A server that encrypts, whose certificate is for `name` and stands in the file `ca`.
fn encrypted(name: &str, ca: &Path) -> Postgres {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(ca, cert.pem()).unwrap();
    Postgres::start_encrypted(&cert.pem(), &signing_key.serialize_pem())
}

fn settings_of(server: &Postgres, host: &str, sslmode: SslMode, ca: Option<&Path>) -> PoolSettings {
    let mut settings = server.pool_settings();
    settings.database.hosts = vec![(host.to_owned(), server.port())];
    settings.database.sslmode = sslmode;
    settings.database.sslrootcert = ca.map(Path::to_owned);
    settings
}

/// Whether the pool's connections are encrypted, or why there are none.
fn is_encrypted(settings: &PoolSettings) -> poolhouse::Result<bool> {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(Pool::open(settings)?.execute_query_one(sql, &[])?.unwrap())
}

#[test]
fn each_strength_of_encryption_is_what_its_name_says() {
    use SslMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    let files = tempfile::tempdir().unwrap();
    let [ca, other_ca] = ["ca.pem", "other.pem"].map(|name| files.path().join(name));
    let named_otherwise = encrypted("db.internal", &other_ca);
    let server = encrypted("localhost", &ca);
    let plain = Postgres::start();
    let of = |server: &Postgres, host: &str, sslmode: SslMode| {
        let needs_ca = matches!(sslmode, VerifyCa | VerifyFull);
        is_encrypted(&settings_of(server, host, sslmode, needs_ca.then_some(ca.as_path())))
    };
    for sslmode in [Prefer, Require, VerifyCa, VerifyFull] {
        assert!(of(&server, "localhost", sslmode).unwrap(), "{sslmode}");
    }
    assert!(!of(&server, "localhost", Disable).unwrap());
    assert!(!of(&plain, "localhost", Prefer).unwrap());

    let down = |outcome: poolhouse::Result<bool>| match outcome {
        Err(Error::Down(numbers)) => numbers.last_failure.unwrap().text,
        other => panic!("{other:?}"),
    };
    let why = down(of(&plain, "localhost", Require));
    assert!(why.contains("does not offer TLS"), "{why}");
    for sslmode in [VerifyCa, VerifyFull] {
        let why = down(of(&named_otherwise, "localhost", sslmode));
        assert!(why.contains("certificate"), "{sslmode}: {why}");
    }
    assert!(of(&server, "127.0.0.1", VerifyCa).unwrap(), "it does not look at the name");
    let why = down(of(&server, "127.0.0.1", VerifyFull));
    assert!(why.contains("certificate"), "{why}");
}

/// What is encrypted waits in two buffers: ours and the socket's.
#[test]
fn a_large_statement_is_sent_to_its_end_before_its_answer_is_waited_for() {
    let files = tempfile::tempdir().unwrap();
    let server = encrypted("localhost", &files.path().join("ca.pem"));
    let proxy = Proxy::to(&server.database_settings());
    let mut settings = PoolSettings::new(proxy.settings());
    settings.database.sslmode = SslMode::Require;
    settings.statement_timeout = Some(SOON);
    (settings.min_connections, settings.max_connections) = (1, 1);
    let pool = Pool::open(&settings).unwrap();
    let sql = "SELECT length($1::text)";
    pool.execute_query_one::<i32>(sql, &[&"known"]).unwrap();
    for kib in (0..30).map(|n| 3000 + n * 41) {
        let text = "x".repeat(kib * 1024);
        proxy.stall();
        let length = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(20 * MS);
                proxy.pass();
            });
            pool.execute_query_one::<i32>(sql, &[&text])
        });
        assert_eq!(length.unwrap(), Some(text.len() as i32), "{kib} KiB");
    }
}

#[test]
fn a_silent_server_holds_no_caller_beyond_the_deadline() {
    let files = tempfile::tempdir().unwrap();
    let server = encrypted("localhost", &files.path().join("ca.pem"));
    let proxy = Proxy::to(&server.database_settings());
    let mut settings = PoolSettings::new(proxy.settings());
    settings.database.sslmode = SslMode::Require;
    settings.statement_timeout = Some(200 * MS);
    let pool = Pool::open(&settings).unwrap();
    proxy.stall();
    let started = Instant::now();
    let error = pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
    assert!((400 * MS..SOON).contains(&started.elapsed()), "{:?}", started.elapsed());
    proxy.pass();
    let again = |pool: &Pool| pool.execute_query_one::<i32>("SELECT 1", &[]).is_ok();
    crate::support::eventually("it goes on", SOON, || again(&pool));
}
