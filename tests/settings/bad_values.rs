//! What each variable refuses, and in what words.

use super::*;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// 2^64: one more than any whole number we could hold.
const HUGE: &str = "18446744073709551616";

#[test]
fn each_variable_refuses_what_it_cannot_mean() {
    let number = ["many", "-1", "1.5", "+5", "5 0", "0x10", "1e2", "٣", HUGE];
    let seconds = ["soon", "-0.5", "5s", "1e2", "inf", "NaN", "1.", ".5", "1.2.3", HUGE];
    let table: &[(&str, &[&[&str]])] = &[
        ("APP_ENV", &[&["prod", "DEV", "dev,preprod"]]),
        ("DB_HOST", &[&["db:5432", "a,,b", "<host>", "two words", "a/b", "db\u{7}"]]),
        ("DB_PORT", &[&number, &["0", "65536", "5432,"]]),
        ("DB_NAME", &[&["a\u{0}b", &"n".repeat(64)]]),
        ("DB_USER", &[&["a\nb", &"n".repeat(64)]]),
        ("DB_PASSWORD", &[&["a\u{0}b"]]),
        ("DB_SSLMODE", &[&["allow", "verify_full", "true", "1"]]),
        ("DB_TARGET_SESSION_ATTRS", &[&["primary", "read write"]]),
        ("DB_APPLICATION_NAME", &[&["a\u{1b}b", &"n".repeat(64)]]),
        ("DB_CONNECT_TIMEOUT_S", &[&seconds, &["0", "3601"]]),
        ("DB_POOL_MIN_CONNECTIONS", &[&number, &["1001", "11"]]),
        ("DB_POOL_MAX_CONNECTIONS", &[&number, &["0", "1001"]]),
        ("DB_POOL_ACQUIRE_TIMEOUT_S", &[&seconds, &["0", "0.0001", "3600.5"]]),
        ("DB_POOL_MAX_WAITING", &[&number, &["100001"]]),
        ("DB_POOL_IDLE_TIMEOUT_S", &[&seconds, &["-1", "31536001"]]),
        ("DB_POOL_MAX_LIFETIME_S", &[&seconds, &["-1", "31536001"]]),
        ("DB_POOL_KEEPALIVE_S", &[&seconds, &["-1", "31536001"]]),
        ("DB_POOL_PRE_PING", &[&["true", "yes", "1"]]),
        ("DB_POOL_VALIDATE_AFTER_MS", &[&number, &["3600001"]]),
        ("DB_POOL_LEAK_THRESHOLD_S", &[&seconds, &["-1", "31536001"]]),
        ("DB_POOL_OUTAGE_GRACE_S", &[&seconds, &["-1", "3601"]]),
        ("DB_STATEMENT_TIMEOUT_MS", &[&number, &["2147483648"]]),
        ("DB_STATEMENT_CACHE_SIZE", &[&number, &["10001"]]),
        ("DB_PGBOUNCER_MODE", &[&["session", "statement", "true", "1"]]),
        ("DATABASE_POOL_SIZE", &[&number, &["0", "1001"]]),
        ("DATABASE_MAX_OVERFLOW", &[&number, &["1000"]]),
        ("DATABASE_POOL_TIMEOUT", &[&seconds, &["0", "3601"]]),
        ("DATABASE_POOL_RECYCLE", &[&seconds, &["0", "-2", "31536001"]]),
        ("DATABASE_POOL_PRE_PING", &[&["on", "1", "yes"]]),
        ("DATABASE_STATEMENT_TIMEOUT", &[&number, &["2147483648"]]),
        ("HTTP_BIND", &[&["5000", "localhost:5000", "127.0.0.1", "127.0.0.1:65536", ":5000"]]),
        ("HTTP_WORKERS", &[&number, &["0", "257"]]),
        ("RUST_LOG", &[&["poolhouse=loud", "a=b=c", "info/a/b", "%%%", "info,[span]=debug", "a b"]]),
        ("LOG_LEVEL", &[&["loud", "warning", "3"]]),
    ];
    for (variable, groups) in table {
        for value in groups.iter().flat_map(|group| group.iter()) {
            // The database's own variables are judged with the rest of a database around them.
            let mut pairs = vec![(*variable, *value)];
            if ["DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"].contains(variable) {
                let others = [("DB_HOST", "db"), ("DB_NAME", "movies"), ("DB_USER", "app")];
                pairs.extend(others.into_iter().filter(|(name, _)| name != variable));
            }
            let problem = refusal(&pairs);
            assert_eq!(problem.variable, *variable, "{value}");
            let shown = if *variable == "DB_PASSWORD" { "***" } else { value };
            assert_eq!(problem.value, shown, "{variable}");
            assert!(!problem.allowed.is_empty(), "{variable}={value}");
        }
    }
}

#[test]
fn tokens_are_refused_by_their_place_in_the_list() {
    for (tokens, what) in [
        ("a=", "token 1 is empty"),
        ("a=x,", "token 2 is empty"),
        ("c2VjcmV0==", "token 1 is empty; a bare token that holds ="),
        ("=x", "token 1 has a name"),
        ("two words=x", "token 1 has a name"),
        ("a=x,a=y", "token 2 has the name of token 1"),
        ("one,two", "token 2 has the name of token 1"),
        ("a=x,b=x", "token 2 is the same as token 1"),
        ("a=x y", "token 1 has a character"),
        ("a=schlüssel", "token 1 has a character"),
        ("a=sha256:abc", "token 1 has no 64 hex digits"),
        (&format!("a=sha256:{}", "g".repeat(64)), "token 1 has no 64 hex digits"),
        (&format!("a=sha256:{}", "0".repeat(65)), "token 1 has no 64 hex digits"),
    ] {
        let problem = refusal(&[("API_TOKENS", tokens)]);
        assert_eq!(problem.variable, "API_TOKENS");
        assert!(problem.value.starts_with(&format!("*** ({what}")), "{tokens}: {problem:?}");
    }
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_table() {
    let problems = refused(&[
        ("LOG_LEVEL", "loud"),
        ("HTTP_WORKERS", "0"),
        ("API_TOKENS", "a=x,a=x"),
        ("DB_POOL_MAX_CONNECTIONS", "lots"),
        ("APP_ENV", "staging"),
        ("DB_POOL_ACQUIRE_TIMEOUT_S", "0"),
        ("DATABASE_URL", "mysql://app:pw@db/movies"),
    ]);
    let names: Vec<_> = problems.iter().map(|problem| problem.variable.as_str()).collect();
    assert_eq!(
        names,
        [
            "APP_ENV",
            "DATABASE_URL",
            "DB_POOL_MAX_CONNECTIONS",
            "DB_POOL_ACQUIRE_TIMEOUT_S",
            "HTTP_WORKERS",
            "API_TOKENS",
            "LOG_LEVEL"
        ]
    );
    assert_eq!(problems[0].allowed, "dev, preprod, production");
    assert_eq!(problems[2].allowed, "a whole number from 1 to 1000");
    let text = load(&[("DB_POOL_MAX_CONNECTIONS", "0")]).unwrap_err().to_string();
    assert_eq!(
        text,
        "1 problem in the settings:\n  DB_POOL_MAX_CONNECTIONS: 0 (allowed: a whole number from 1 to 1000)"
    );
}

#[test]
fn a_minimum_above_the_maximum_is_refused_with_both_in_the_message() {
    let problem = refusal(&[("DB_POOL_MIN_CONNECTIONS", "9"), ("DB_POOL_MAX_CONNECTIONS", "8")]);
    assert_eq!((problem.variable.as_str(), problem.value.as_str()), ("DB_POOL_MIN_CONNECTIONS", "9"));
    assert_eq!(problem.allowed, "at most 8, the value of DB_POOL_MAX_CONNECTIONS");
    // No second complaint where the maximum itself is the mistake.
    let problem = refusal(&[("DB_POOL_MIN_CONNECTIONS", "15"), ("DB_POOL_MAX_CONNECTIONS", "2O")]);
    assert_eq!(problem.variable, "DB_POOL_MAX_CONNECTIONS");
}

#[test]
fn settings_built_in_code_are_held_to_the_same_ranges() {
    let good = PoolSettings::new(DatabaseSettings::parse("postgres://app@localhost/movies").unwrap());
    type Change = fn(&mut PoolSettings);
    let table: [(&str, Change); 15] = [
        ("database.hosts (DB_HOST)", |pool| pool.database.hosts.clear()),
        ("database.hosts (DB_PORT)", |pool| pool.database.hosts[0].1 = 0),
        ("database.name (DB_NAME)", |pool| pool.database.name.clear()),
        ("database.sslrootcert (DB_SSLROOTCERT)", |pool| pool.database.sslmode = SslMode::VerifyFull),
        ("connect_timeout (DB_CONNECT_TIMEOUT_S)", |pool| pool.connect_timeout = Duration::ZERO),
        ("min_connections (DB_POOL_MIN_CONNECTIONS)", |pool| pool.min_connections = 11),
        ("max_connections (DB_POOL_MAX_CONNECTIONS)", |pool| pool.max_connections = 0),
        ("acquire_timeout (DB_POOL_ACQUIRE_TIMEOUT_S)", |pool| pool.acquire_timeout = Duration::MAX),
        ("max_waiting (DB_POOL_MAX_WAITING)", |pool| pool.max_waiting = u32::MAX),
        ("idle_timeout (DB_POOL_IDLE_TIMEOUT_S)", |pool| pool.idle_timeout = Some(Duration::ZERO)),
        ("max_lifetime (DB_POOL_MAX_LIFETIME_S)", |pool| pool.max_lifetime = Some(Duration::MAX)),
        ("statement_timeout (DB_STATEMENT_TIMEOUT_MS)", |pool| {
            pool.statement_timeout = Some(Duration::from_nanos(1))
        }),
        ("statement_cache_size (DB_STATEMENT_CACHE_SIZE)", |pool| pool.statement_cache_size = usize::MAX),
        ("max_overflow (DATABASE_MAX_OVERFLOW)", |pool| pool.max_overflow = 10),
        ("name (DB_POOL_NAME)", |pool| pool.name.clear()),
    ];
    for (variable, change) in table {
        let mut pool = good.clone();
        change(&mut pool);
        match pool.validate() {
            Err(Error::Settings(error)) => {
                let names: Vec<_> = error.problems.iter().map(|problem| &problem.variable).collect();
                assert_eq!(names, [variable]);
            }
            other => panic!("{variable}: {other:?}"),
        }
    }
}

#[test]
fn a_time_without_limit_is_reported_as_that() {
    let mut pool = PoolSettings::new(DatabaseSettings::parse("postgres://app@localhost/movies").unwrap());
    (pool.acquire_timeout, pool.max_lifetime) = (Duration::MAX, Some(Duration::MAX));
    let error = pool.validate().unwrap_err().to_string();
    let lines = [
        "acquire_timeout (DB_POOL_ACQUIRE_TIMEOUT_S): unlimited (Duration::MAX) (allowed: 0.001 to 3600 seconds)",
        "max_lifetime (DB_POOL_MAX_LIFETIME_S): unlimited (Duration::MAX) (allowed: 0.001 to 31536000 seconds, or 0 for \
         never, which in code is None)",
    ];
    assert!(lines.iter().all(|line| error.contains(line)), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_text_is_accepted_or_refused_and_never_panics(
        picks in prop::collection::vec((0..VARIABLES.len(), "\\PC{0,24}|[0-9.,:=-]{0,12}"), 0..8),
    ) {
        let pairs = picks.into_iter().map(|(index, text)| (VARIABLES[index].name.to_owned(), text)).collect();
        if let Ok(settings) = Settings::from_vars(&pairs) {
            prop_assert!(settings.pool.min_connections <= settings.pool.max_connections);
            if settings.is_database_configured {
                settings.pool.validate().unwrap();
            }
        }
    }

    #[test]
    fn arbitrary_urls_never_panic_and_show_nothing_of_themselves(
        rest in "[p-z%@:/?,=&0-9\\[\\].]{0,32}",
    ) {
        let url = format!("postgres://app:s3cr3t{rest}");
        if let Err(error) = DatabaseSettings::parse(&url) {
            prop_assert!(!error.to_string().contains("s3cr3t"), "{url}: {error}");
        }
    }

    #[test]
    fn well_formed_urls_mean_what_the_driver_reads_in_them(
        (user, name) in ("[ -~äß]{1,12}", "[ -~äß]{1,12}"),
        password in "[ -~äß]{0,12}",
        hosts in prop::collection::vec(("[a-z][a-z0-9.-]{0,8}", prop::option::of(1..=u16::MAX)), 1..4),
    ) {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let hosts: Vec<_> = hosts
            .into_iter()
            .map(|(host, port)| port.map_or(host.clone(), |port| format!("{host}:{port}")))
            .collect();
        let login = format!("{}:{}", encode(&user), encode(&password));
        let url = format!("postgresql://{login}@{}/{}", hosts.join(","), encode(&name));
        let database = DatabaseSettings::parse(&url).unwrap();
        super::database::assert_same(&database, &url.parse().unwrap());
    }

    #[test]
    fn arbitrary_files_are_accepted_or_refused_and_never_panic(text in "([A-Z_]{0,6}=?[ -~]{0,12}\\n?){0,6}") {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".env.dev"), text).unwrap();
        let _ = Settings::load_from(dir.path(), &BTreeMap::new());
    }
}
