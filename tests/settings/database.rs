//! `DATABASE_URL` and the `DB_*` variables.

use super::*;
use poolhouse::postgres::Config;
use poolhouse::postgres::config::Host;

pub(super) fn assert_same(ours: &DatabaseSettings, driver: &Config) {
    let config = ours.driver_config();
    assert_eq!(config.get_hosts(), driver.get_hosts());
    assert_eq!(config.get_ports(), driver.get_ports());
    assert_eq!(config.get_dbname(), driver.get_dbname());
    assert_eq!(config.get_user(), driver.get_user());
    // The driver knows an empty password; to a server it is as good as none.
    assert_eq!(config.get_password(), driver.get_password().filter(|password| !password.is_empty()));
}

#[test]
fn urls_mean_what_the_driver_reads_in_them() {
    for (url, shown) in [
        ("postgres://app:pw@db/movies", "db:5432/movies"),
        ("postgresql://app@db:6432/movies", "db:6432/movies"),
        ("postgres://app:p%40ss%2Fw%3F%23%25@db/mo%20vies", "db:5432/mo vies"),
        ("postgres://app:pw@h1:1,h2,h3:3/movies?target_session_attrs=read-write", "h1:1,h2:5432,h3:3/movies"),
        ("postgres://app@[::1]:6432,127.0.0.1/movies?", "[::1]:6432,127.0.0.1:5432/movies"),
        ("postgres://app@%2Fvar%2Frun%2Fpostgresql/movies", "/var/run/postgresql:5432/movies"),
    ] {
        let ours = DatabaseSettings::parse(url).unwrap();
        assert_same(&ours, &url.parse().unwrap());
        assert_eq!(ours.to_string(), shown);
    }
}

#[test]
fn a_url_carries_the_parameters_of_libpq_that_we_honour() {
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("ca.pem");
    std::fs::write(&pem, "").unwrap();
    let url = format!(
        "postgres://app:pw@db/movies?sslmode=verify-full&sslrootcert={}&target_session_attrs=read-only\
         &application_name=my%20app&connect_timeout=7",
        pem.display()
    );
    let pool = accepted(&[("DATABASE_URL", &url)]).pool;
    assert_eq!(pool.database.sslmode, SslMode::VerifyFull);
    assert_eq!(pool.database.sslrootcert.as_deref(), Some(pem.as_path()));
    assert_eq!(pool.database.target_session_attrs, TargetSessionAttrs::ReadOnly);
    assert_eq!(pool.database.application_name, "my app");
    assert_eq!(pool.connect_timeout, Duration::from_secs(7));
    // Without a pool there is nowhere to put the timeout, and it is not dropped in silence.
    let error = DatabaseSettings::parse(&url).unwrap_err();
    assert!(error.to_string().contains("connect_timeout"), "{error}");
}

#[test]
fn malformed_urls_are_refused_without_showing_any_of_them() {
    for (url, what) in [
        ("", "does not begin with postgres://"),
        ("db", "does not begin with postgres://"),
        ("host=db user=app password=s3cr3t", "does not begin with postgres://"),
        ("postgresql+psycopg2://app:s3cr3t@db/movies", "does not begin with postgres://"),
        ("postgres://app:s3cr3t@db:0/movies", "the port of host 1"),
        ("postgres://app:s3cr3t@a,db:65536/movies", "the port of host 2"),
        ("postgres://app:s3cr3t", "the port of host 1"),
        ("postgres://app:s3/cr3t@db/movies", "stray / or @"),
        ("postgres://app:s3/cr3t", "the port of host 1"),
        ("postgres://app:33/s3cr3t@db", "stray / or @"),
        ("postgres://app:s3@cr3t@db/movies", "stray / or @"),
        ("postgres://app:33?s3cr3t=1@db/movies", "a parameter that is not supported"),
        ("postgres://app:100%s3cr3t@db/movies", "two hex digits"),
        ("postgres://app:%FFs3cr3t@db/movies", "not UTF-8"),
        ("postgres://app:%00s3cr3t@db/movies", "control character"),
        ("postgres://app:s3cr3t@,b/movies", "host 1 is not a host name"),
        ("postgres://app:s3cr3t@[::1/movies", "a [ is not closed"),
        ("postgres://app:s3cr3t@[::1]5/movies", "followed by something"),
        ("postgres://app:s3cr3t@db/movies?sslmode=allow", "parameter sslmode has a value"),
        ("postgres://app:s3cr3t@db/movies?sslmode", "a parameter has no ="),
        ("postgres://app:s3cr3t@db/movies?sslmode=prefer&sslmode=require", "sslmode is given twice"),
        ("postgres://app:s3cr3t@db/movies?options=-c%20x", "parameter options is not supported"),
        ("postgres://app:s3cr3t@db/movies?connect_timeout=0", "connect_timeout has a value"),
    ] {
        let error = DatabaseSettings::parse(url).unwrap_err().to_string();
        assert!(error.contains(what), "{url}: {error}");
        assert!(!error.contains("s3"), "{url}: {error}");
        assert!(!error.contains("cr3t"), "{url}: {error}");
    }
}

#[test]
fn what_a_url_leaves_out_must_come_from_somewhere() {
    for (url, missing) in [
        ("postgres:///movies", vec!["DB_HOST", "DB_USER"]),
        ("postgres://app@db", vec!["DB_NAME"]),
        ("postgres://db/movies", vec!["DB_USER"]),
    ] {
        let names: Vec<_> = refused(&[("DATABASE_URL", url)]).into_iter().map(|p| p.variable).collect();
        assert_eq!(names, missing, "{url}");
    }
    let database = accepted(&[
        ("DATABASE_URL", "postgres://db"),
        ("DB_PORT", "6432"),
        ("DB_NAME", "movies"),
        ("DB_USER", "app"),
        ("DB_PASSWORD", "pw"),
    ])
    .pool
    .database;
    assert_eq!(database.to_string(), "db:6432/movies");
    assert_eq!(database.password.unwrap().expose(), "pw");
}

#[test]
fn a_url_and_a_variable_that_disagree_are_refused_with_both_named() {
    let url = "postgres://app:s3cr3t@db:6432/movies?sslmode=require&connect_timeout=3";
    accepted(&[
        ("DATABASE_URL", url),
        ("DB_HOST", "db"),
        ("DB_PORT", "6432"),
        ("DB_NAME", "movies"),
        ("DB_USER", "app"),
        ("DB_PASSWORD", "s3cr3t"),
        ("DB_SSLMODE", "REQUIRE"),
        ("DB_CONNECT_TIMEOUT_S", "3.0"),
    ]);
    for (variable, value, shown) in [
        ("DB_HOST", "other", "other and db"),
        ("DB_PORT", "5432", "5432 and 6432"),
        ("DB_NAME", "films", "films and movies"),
        ("DB_USER", "root", "root and app"),
        ("DB_PASSWORD", "0th3r", "*** and ***"),
        ("DB_SSLMODE", "disable", "disable and require"),
        ("DB_CONNECT_TIMEOUT_S", "4", "4 and 3"),
    ] {
        let problem = refusal(&[("DATABASE_URL", url), (variable, value)]);
        assert_eq!(problem.variable, format!("{variable} and DATABASE_URL"));
        assert_eq!(problem.value, shown);
    }
}

#[test]
fn hosts_and_ports_may_be_lists_of_one_length() {
    let base = [("DB_NAME", "movies"), ("DB_USER", "app"), ("DB_HOST", "h1, h2")];
    let shown = |port| accepted(&[base.as_slice(), &[("DB_PORT", port)]].concat()).pool.database.to_string();
    assert_eq!(shown(""), "h1:5432,h2:5432/movies");
    assert_eq!(shown("6432"), "h1:6432,h2:6432/movies");
    assert_eq!(shown("1,2"), "h1:1,h2:2/movies");
    let problem = refusal(&[base.as_slice(), &[("DB_PORT", "1,2,3")]].concat());
    assert_eq!(problem.allowed, "one port, or as many as there are hosts (2)");
}

#[test]
fn a_host_that_is_a_path_is_a_unix_socket() {
    let pairs = [("DB_HOST", "/var/run/postgresql"), ("DB_NAME", "movies"), ("DB_USER", "app")];
    let config = accepted(&pairs).pool.database.driver_config();
    assert_eq!(config.get_hosts(), [Host::Unix("/var/run/postgresql".into())]);
}

#[test]
fn certificates_are_asked_for_where_they_verify_and_refused_where_they_would_not() {
    let dir = tempfile::tempdir().unwrap();
    let (pem, absent) = (dir.path().join("ca.pem"), dir.path().join("absent.pem"));
    std::fs::write(&pem, "").unwrap();
    let (pem, absent) = (pem.to_str().unwrap(), absent.to_str().unwrap());
    for (sslmode, file, is_fine) in [
        ("verify-full", Some(pem), true),
        ("verify-ca", Some(pem), true),
        ("verify-full", None, false),
        ("verify-ca", Some(absent), false),
        ("verify-ca", dir.path().to_str(), false),
        ("require", Some(pem), false),
        ("prefer", Some(pem), false),
        ("disable", Some(pem), true),
    ] {
        let pairs = complete("dev", &[]);
        let pairs = [pairs.as_slice(), &[("DB_SSLMODE", sslmode), ("DB_SSLROOTCERT", file.unwrap_or(""))]];
        match is_fine {
            true => drop(accepted(&pairs.concat())),
            false => {
                assert_eq!(refusal(&pairs.concat()).variable, "DB_SSLROOTCERT", "{sslmode} {file:?}")
            }
        }
    }
}

#[test]
fn settings_built_from_their_parts_are_those_of_the_url() {
    let parsed =
        DatabaseSettings::parse("postgres://app:s%40fe@h1:1,h2/movies?sslmode=require&application_name=jobs")
            .unwrap();
    let built = DatabaseSettings::new("ignored", "ignored", "ignored")
        .with_hosts([("h1", 1), ("h2", 5432)])
        .with_name("movies")
        .with_user("app")
        .with_password(Some(poolhouse::Secret::new("s@fe")))
        .with_sslmode(SslMode::Require)
        .with_application_name("jobs");
    assert_eq!(built, parsed);
    let plain = DatabaseSettings::parse("postgres://app@db/movies").unwrap();
    assert_eq!(DatabaseSettings::new("db", "movies", "app"), plain);
}
