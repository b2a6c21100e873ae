//! Secrets are shown nowhere.

use super::*;

const SECRETS: [&str; 3] = ["mS8dQ2vL", "t0k3n-t0k3n-t0k3n-t0k3n-t0k3n-t0k3n", "xX9-plain"];

fn assert_hidden(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn accepted_settings_show_no_secret() {
    let tokens = format!("ops={}", SECRETS[1]);
    for pairs in [
        vec![("DATABASE_URL", "postgres://app:mS8dQ2vL@db/movies?sslmode=require"), ("API_TOKENS", &tokens)],
        vec![
            ("DB_HOST", "db"),
            ("DB_NAME", "movies"),
            ("DB_USER", "app"),
            ("DB_PASSWORD", "mS8dQ2vL"),
            ("API_TOKENS", SECRETS[1]),
        ],
    ] {
        let settings = accepted(&pairs);
        assert_hidden(&format!("{settings:?} {settings:#?} {}", settings.pool.database));
        // A hash is shown no more than its token.
        let debug = format!("{:?}", settings.http.tokens[0]);
        assert!(debug.ends_with("sha256: *** }"), "{debug}");
    }
    let settings = accepted(&[("DATABASE_URL", "postgres://app:mS8dQ2vL@db/movies?sslmode=require")]);
    let shown = "postgres://app:***@db/movies?sslmode=require";
    assert_eq!(effective(&settings, "DATABASE_URL"), row(shown, "environment"));
    assert_eq!(effective(&settings, "DB_PASSWORD"), row("***", "DATABASE_URL"));
    let source = &settings.effective().iter().find(|row| row.variable == "DB_PASSWORD").unwrap().source;
    assert_eq!(*source, Source::Variable("DATABASE_URL"));
}

#[test]
fn refusals_show_no_secret() {
    for pairs in [
        vec![("DATABASE_URL", "postgres://app:mS8dQ2vL@db:x/movies")],
        vec![("DATABASE_URL", "postgres://app:mS8dQ2vL@db/movies"), ("DB_PASSWORD", "xX9-plain")],
        vec![("DATABASE_URL", "mS8dQ2vL")],
        vec![("DB_PASSWORD", "mS8dQ2vL")],
        vec![("DB_PASSWORD", "mS8dQ2vL\u{7}")],
        vec![("API_TOKENS", "xX9-plain,xX9-plain")],
        vec![("API_TOKENS", "xX9-plain="), ("APP_ENV", "production")],
        vec![("API_TOKENS", "xX9-plain"), ("APP_ENV", "preprod")],
    ] {
        let error = load(&pairs).unwrap_err();
        assert_hidden(&format!("{error} {error:?}"));
    }
}
