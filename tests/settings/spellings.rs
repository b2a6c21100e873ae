//! Variables that set the same thing under two names.

use super::*;

#[test]
fn size_and_overflow_make_the_maximum() {
    for (pairs, expected) in [
        (vec![("DATABASE_POOL_SIZE", "5"), ("DATABASE_MAX_OVERFLOW", "10")], (2, 15, 10)),
        (vec![("DATABASE_POOL_SIZE", "5")], (2, 5, 0)),
        (vec![("DATABASE_POOL_SIZE", "1"), ("DATABASE_MAX_OVERFLOW", "3")], (1, 4, 3)),
        (vec![("DATABASE_POOL_SIZE", "5"), ("DB_POOL_MIN_CONNECTIONS", "4")], (4, 5, 0)),
        (vec![("DB_POOL_MAX_CONNECTIONS", "12"), ("DATABASE_MAX_OVERFLOW", "4")], (2, 12, 4)),
        (
            vec![
                ("DB_POOL_MAX_CONNECTIONS", "15"),
                ("DATABASE_POOL_SIZE", "5"),
                ("DATABASE_MAX_OVERFLOW", "10"),
            ],
            (2, 15, 10),
        ),
    ] {
        let pool = accepted(&pairs).pool;
        assert_eq!((pool.min_connections, pool.max_connections, pool.max_overflow), expected, "{pairs:?}");
    }
}

#[test]
fn the_second_spelling_means_the_same_as_the_first() {
    let second = accepted(&[
        ("DATABASE_POOL_TIMEOUT", "30"),
        ("DATABASE_POOL_RECYCLE", "-1"),
        ("DATABASE_POOL_PRE_PING", "True"),
        ("DATABASE_STATEMENT_TIMEOUT", "1500"),
    ]);
    let first = accepted(&[
        ("DB_POOL_ACQUIRE_TIMEOUT_S", "30.0"),
        ("DB_POOL_MAX_LIFETIME_S", "0"),
        ("DB_POOL_PRE_PING", "on"),
        ("DB_STATEMENT_TIMEOUT_MS", "1500"),
    ]);
    assert_eq!(second.pool, first.pool);
    assert_eq!(second.pool.max_lifetime, None);
    assert_eq!(effective(&second, "DB_POOL_MAX_LIFETIME_S"), row("0", "DATABASE_POOL_RECYCLE"));
    assert_eq!(effective(&second, "DATABASE_POOL_RECYCLE"), row("-1", "environment"));
    assert_eq!(effective(&second, "DB_POOL_PRE_PING"), row("on", "DATABASE_POOL_PRE_PING"));
}

#[test]
fn both_at_once_must_agree() {
    for (first, second, is_same) in [
        (("DB_POOL_ACQUIRE_TIMEOUT_S", "5"), ("DATABASE_POOL_TIMEOUT", "5.0"), true),
        (("DB_POOL_ACQUIRE_TIMEOUT_S", "5"), ("DATABASE_POOL_TIMEOUT", "6"), false),
        (("DB_POOL_MAX_LIFETIME_S", "0"), ("DATABASE_POOL_RECYCLE", "-1"), true),
        (("DB_POOL_MAX_LIFETIME_S", "60"), ("DATABASE_POOL_RECYCLE", "-1"), false),
        (("DB_POOL_PRE_PING", "off"), ("DATABASE_POOL_PRE_PING", "false"), true),
        (("DB_POOL_PRE_PING", "auto"), ("DATABASE_POOL_PRE_PING", "true"), false),
        (("DB_STATEMENT_TIMEOUT_MS", "10"), ("DATABASE_STATEMENT_TIMEOUT", "10"), true),
        (("DB_STATEMENT_TIMEOUT_MS", "10"), ("DATABASE_STATEMENT_TIMEOUT", "0"), false),
        (("DB_POOL_MAX_CONNECTIONS", "5"), ("DATABASE_POOL_SIZE", "5"), true),
        (("DB_POOL_MAX_CONNECTIONS", "6"), ("DATABASE_POOL_SIZE", "5"), false),
    ] {
        if is_same {
            accepted(&[first, second]);
            continue;
        }
        let problem = refusal(&[first, second]);
        assert_eq!(problem.variable, format!("{} and {}", first.0, second.0));
        assert_eq!(problem.value, format!("{} and {}", first.1, second.1));
    }
}

#[test]
fn sizes_that_do_not_add_up_are_refused() {
    let problem = refusal(&[("DATABASE_POOL_SIZE", "900"), ("DATABASE_MAX_OVERFLOW", "200")]);
    assert_eq!(problem.variable, "DATABASE_POOL_SIZE + DATABASE_MAX_OVERFLOW");
    assert_eq!(
        (problem.value.as_str(), &*problem.allowed),
        ("900 + 200", "a whole number from 1 to 1000 in all")
    );
    let problem = refusal(&[("DATABASE_MAX_OVERFLOW", "3")]);
    assert_eq!(problem.variable, "DATABASE_MAX_OVERFLOW");
    let problem = refusal(&[
        ("DATABASE_POOL_SIZE", "5"),
        ("DATABASE_MAX_OVERFLOW", "5"),
        ("DB_POOL_MIN_CONNECTIONS", "6"),
    ]);
    assert_eq!(problem.allowed, "at most 5, the pool size without its overflow");
    let problem = refusal(&[("DB_POOL_MAX_CONNECTIONS", "4"), ("DATABASE_MAX_OVERFLOW", "4")]);
    assert_eq!(problem.variable, "DATABASE_MAX_OVERFLOW");
}

#[test]
fn the_log_filter_wins_over_the_level() {
    let settings = accepted(&[("RUST_LOG", "warn,poolhouse=debug"), ("LOG_LEVEL", "INFO")]);
    assert_eq!(settings.log_filter, "warn,poolhouse=debug,tokio_postgres=info");
    assert_eq!(accepted(&[("LOG_LEVEL", "DEBUG")]).log_filter, "debug,tokio_postgres=info");
    // Parameters are logged where the driver is named, and only there.
    for (filter, read) in [
        ("info", "info"),
        ("TRACE/words", "TRACE,tokio_postgres=info/words"),
        ("info,tokio_postgres=debug", "info,tokio_postgres=debug"),
    ] {
        assert_eq!(accepted(&[("RUST_LOG", filter)]).log_filter, read);
    }
}
