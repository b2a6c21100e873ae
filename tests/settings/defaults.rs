//! What holds where nothing is set.

use super::*;

#[test]
fn nothing_set_is_a_dev_tier_without_a_database() {
    let settings = accepted(&[]);
    assert_eq!(settings.tier, Tier::Dev);
    assert!(!settings.is_database_configured);
    assert!(settings.pool.database.hosts.is_empty());
    assert!(settings.http.tokens.is_empty());
    assert_eq!(settings.http.bind.to_string(), "127.0.0.1:5000");
    assert!((1..=256).contains(&settings.http.workers));
    assert_eq!(settings.log_filter, "info");
}

#[test]
fn each_tier_sizes_the_pool_its_own_way() {
    for (tier, min, max) in [("dev", 2, 10), ("preprod", 5, 20), ("production", 8, 24)] {
        let settings = accepted(&complete(tier, &[]));
        assert_eq!(settings.tier.to_string(), tier);
        assert_eq!((settings.pool.min_connections, settings.pool.max_connections), (min, max), "{tier}");
    }
}

#[test]
fn pool_settings_built_in_code_are_the_dev_tiers() {
    let url = "postgres://app:pw@localhost/movies";
    let built = PoolSettings::new(DatabaseSettings::parse(url).unwrap());
    assert_eq!(built, accepted(&[("DATABASE_URL", url)]).pool);
    built.validate().unwrap();

    assert_eq!(built.acquire_timeout, Duration::from_secs(5));
    assert_eq!(built.max_waiting, 1000);
    assert_eq!(built.connect_timeout, Duration::from_secs(5));
    assert_eq!(built.statement_timeout, Some(Duration::from_secs(30)));
    assert_eq!(built.idle_timeout, Some(Duration::from_secs(600)));
    assert_eq!(built.max_lifetime, Some(Duration::from_secs(1800)));
    assert_eq!(built.keepalive, None);
    assert_eq!(built.pre_ping, PrePing::Auto);
    assert_eq!(built.validate_after, Duration::from_millis(500));
    assert_eq!(built.leak_threshold, Some(Duration::from_secs(60)));
    assert_eq!(built.statement_cache_size, 256);
    assert_eq!(built.pgbouncer_mode, PgBouncerMode::Off);
    assert_eq!(built.outage_grace, Duration::from_secs(2));
    assert_eq!(built.database.sslmode, SslMode::Prefer);
    assert_eq!(built.database.target_session_attrs, TargetSessionAttrs::Any);
    assert_eq!(built.database.application_name, "poolhouse");
}

#[test]
fn pgbouncers_mode_is_read() {
    for (text, mode) in [("transaction", PgBouncerMode::Transaction), ("OFF", PgBouncerMode::Off)] {
        assert_eq!(accepted(&[("DB_PGBOUNCER_MODE", text)]).pool.pgbouncer_mode, mode);
    }
}

#[test]
fn a_pool_is_named_after_the_application_unless_it_has_a_name_of_its_own() {
    let application = ("DB_APPLICATION_NAME", "shop");
    assert_eq!(accepted(&[application]).pool.name, "shop");
    assert_eq!(effective(&accepted(&[application]), "DB_POOL_NAME"), row("shop", "default"));
    let both = accepted(&[application, ("DB_POOL_NAME", "orders")]).pool;
    assert_eq!((both.name.as_str(), both.database.application_name.as_str()), ("orders", "shop"));
}

#[test]
fn a_default_minimum_gives_way_to_a_smaller_maximum() {
    let pool = accepted(&[("DB_POOL_MAX_CONNECTIONS", "1")]).pool;
    assert_eq!((pool.min_connections, pool.max_connections), (1, 1));
}

#[test]
fn an_empty_value_counts_as_not_set_and_others_are_trimmed() {
    let empty: Vec<_> = VARIABLES.iter().map(|variable| (variable.name, "  ")).collect();
    assert_eq!(accepted(&empty).pool, accepted(&[]).pool);
    assert_eq!(accepted(&[("DB_POOL_MAX_WAITING", " 7\t")]).pool.max_waiting, 7);
}

/// The table is the only source of defaults: to set a variable to what the table says changes nothing.
#[test]
fn what_the_table_calls_the_default_is_what_holds_where_nothing_is_set() {
    let shown = |settings: &Settings| {
        format!("{:?} {:?} {:?} {}", settings.pool, settings.http, settings.documents, settings.log_filter)
    };
    let mut seen = 0;
    for (index, tier) in ["dev", "preprod", "production"].into_iter().enumerate() {
        let url = ("DATABASE_URL", "postgres://app:mS8dQ2vL@db.internal/movies");
        let unset = shown(&accepted(&complete(tier, &[url])));
        for variable in VARIABLES {
            let default = variable.default();
            let of_tier =
                default.split(", ").nth(index).and_then(|part| part.strip_prefix(&format!("{tier} ")));
            let text = of_tier.unwrap_or(&default).to_owned();
            let pairs = complete(tier, &[url]);
            // Not set, only known on the machine, or needed.
            if text.is_empty() || text.contains(' ') || pairs.iter().any(|(name, _)| *name == variable.name) {
                continue;
            }
            let set = accepted(&[pairs, vec![(variable.name, text.leak())]].concat());
            assert_eq!(shown(&set), unset, "{} in {tier}", variable.name);
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} defaults were compared");
}
