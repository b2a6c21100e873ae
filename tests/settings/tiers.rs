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
    let hashed = format!("a=sha256:{}", "0aF".repeat(21) + "0");
    for (tier, token, is_fine) in [
        ("dev", "x", true),
        ("preprod", "a=0123456789abcde", false),
        ("preprod", "a=0123456789abcdef", true),
        ("production", "a=0123456789abcdef0123456789abcde", false),
        ("production", "a=0123456789abcdef0123456789abcdef", true),
        ("production", hashed.as_str(), true),
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
    for (more, at_fault) in [
        (vec![("DATABASE_URL", "postgres://app:changeme@db/movies")], "DATABASE_URL"),
        (vec![("DATABASE_URL", "postgres://app@db/movies")], "DB_PASSWORD"),
        (vec![("DATABASE_URL", "postgres://app@db/movies"), ("DB_PASSWORD", "Password")], "DB_PASSWORD"),
        (vec![("DATABASE_URL", "postgres://app:mS8d@db/movies?sslmode=disable")], "DATABASE_URL"),
        (vec![("DB_SSLMODE", "disable")], "DB_SSLMODE"),
        (vec![("API_TOKENS", "your-token-0123456789-0123456789-0123456789")], "API_TOKENS"),
        (vec![("API_TOKENS", DEV_TOKEN)], "API_TOKENS"),
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
    for tier in Tier::ALL {
        assert_eq!(tier.as_str().parse::<Tier>().unwrap(), tier);
    }
    let error = "prod".parse::<Tier>().unwrap_err().to_string();
    assert!(error.contains("APP_ENV: prod (allowed: dev, preprod, production)"), "{error}");
}
