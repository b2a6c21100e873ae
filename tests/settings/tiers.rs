//! What the closer tiers demand.

use super::*;

#[test]
fn preprod_and_production_need_a_database_and_a_token() {
    for tier in ["preprod", "production"] {
        let names: Vec<_> = refused(&[("APP_ENV", tier)]).into_iter().map(|p| p.variable).collect();
        assert_eq!(names, ["DATABASE_URL", "API_TOKENS"], "{tier}");
    }
}

#[test]
fn tokens_must_be_longer_the_closer_the_tier_is_to_production() {
    let hashed = "a=sha256:51b7d5550b922815d128091161abf887c4ae102d9a7b2c76e47866709DD8DF1D";
    for (tier, token, is_fine) in [
        ("dev", "x", true),
        ("preprod", "a=0123456789abcde", false),
        ("preprod", "a=0123456789abcdef", true),
        ("production", "a=0123456789abcdef0123456789abcde", false),
        ("production", "a=0123456789abcdef0123456789abcdef", true),
        ("production", hashed, true),
    ] {
        let pairs = complete(tier, &[]);
        let pairs: Vec<_> = pairs.into_iter().filter(|(name, _)| *name != "API_TOKENS").collect();
        let pairs = [pairs.as_slice(), &[("API_TOKENS", token)]].concat();
        match is_fine {
            true => assert_eq!(accepted(&pairs).http.tokens.len(), 1),
            false => assert!(refusal(&pairs).value.contains("characters"), "{tier} {token}"),
        }
    }
}

#[test]
fn production_refuses_what_dev_lets_pass() {
    const DEV_TOKEN: &str = "dev=dev-only-token-0123456789abcdef-not-a-secret";
    const PUBLIC_HASH: &str = "a=sha256:4f58a4bcce261351445d787ad3ea6076f9964ce63e8eee9d20c2e729e68adf44";
    const EMPTY_HASH: &str = "a=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const NEWLINE_HASH: &str = "a=sha256:01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b";
    const ZEROS: &str = "a=sha256:0000000000000000000000000000000000000000000000000000000000000000";
    for (more, at_fault) in [
        (vec![("DATABASE_URL", "postgres://app:changeme@db/movies")], "DATABASE_URL"),
        (vec![("DATABASE_URL", "postgres://app@db/movies")], "DB_PASSWORD"),
        (vec![("DATABASE_URL", "postgres://app@db/movies"), ("DB_PASSWORD", "Password")], "DB_PASSWORD"),
        (vec![("DATABASE_URL", "postgres://app:mS8d@db/movies?sslmode=disable")], "DATABASE_URL"),
        (vec![("DB_SSLMODE", "disable")], "DB_SSLMODE"),
        (vec![("API_TOKENS", "your-token-0123456789-0123456789-0123456789")], "API_TOKENS"),
        (vec![("API_TOKENS", DEV_TOKEN)], "API_TOKENS"),
        // `printf %s dev-only-token-… | sha256sum`, the hash of nothing and of an empty line, and none at all.
        (vec![("API_TOKENS", PUBLIC_HASH)], "API_TOKENS"),
        (vec![("API_TOKENS", EMPTY_HASH)], "API_TOKENS"),
        (vec![("API_TOKENS", NEWLINE_HASH)], "API_TOKENS"),
        (vec![("API_TOKENS", ZEROS)], "API_TOKENS"),
        (vec![("API_TOKENS", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")], "API_TOKENS"),
        (vec![("API_TOKENS", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz")], "API_TOKENS"),
        (vec![("API_TOKENS", "ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12")], "API_TOKENS"),
    ] {
        assert_eq!(refusal(&complete("production", &more)).variable, at_fault, "{more:?}");
    }
    accepted(&complete("dev", &[("DATABASE_URL", "postgres://app@db/m"), ("API_TOKENS", DEV_TOKEN)]));
}

#[test]
fn production_trusts_this_machine() {
    for url in [
        "postgres://app:mS8d@localhost/movies?sslmode=disable",
        "postgres://app:mS8d@127.0.0.1,[::1]/movies?sslmode=disable",
        "postgres://app@%2Frun%2Fpostgresql/movies?sslmode=disable",
    ] {
        accepted(&complete("production", &[("DATABASE_URL", url)]));
    }
}

#[test]
fn a_tier_is_read_by_its_exact_name_and_an_error_lists_the_names() {
    for &tier in Tier::ALL {
        assert_eq!(tier.as_str().parse::<Tier>().unwrap(), tier);
    }
    let error = "prod".parse::<Tier>().unwrap_err().to_string();
    assert!(error.contains("APP_ENV: prod (allowed: dev, preprod, production)"), "{error}");
}
