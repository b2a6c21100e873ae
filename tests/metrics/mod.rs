//! The metrics: that they are well formed, count what has happened, and are answered whatever the pool goes through.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

mod exposition;
mod measure;
mod promtool;

use crate::http::{get, get_as_known, send};
use crate::support::{App, Postgres, SOON, eventually};
use exposition::Scrape;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[track_caller]
fn scrape(app: &App) -> Scrape {
    let answer = get_as_known(app, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    Scrape::of(&answer.text)
}

/// A metric of the service's one pool.
fn of_pool(metric: &str) -> String {
    format!("{metric}{{pool=\"poolhouse\"}}")
}

#[test]
fn a_scrape_is_well_formed_and_counts_what_has_happened() {
    let app = App::start_with(&[("DB_POOL_MAX_CONNECTIONS", "3")]);
    let before = scrape(&app);
    for _ in 0..3 {
        assert_eq!(get(&app, "/api/movies/1").status, 200);
    }
    assert_eq!(get(&app, "/api/movies/999999").status, 404);
    for path in ["/nowhere", "/no%22where", "/n/o/w/h/e/r/e"] {
        assert_eq!(get(&app, path).status, 404);
        assert_eq!(send(&app, "BREW", path, None, None).status, 404);
    }
    assert_eq!(send(&app, "PATCH", "/api/movies/1", None, None).status, 405);
    let answer = get_as_known(&app, "/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    promtool::check_metrics(&answer.text);
    let after = Scrape::of(&answer.text);

    let http = |method, route, status| {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        after.value(&format!("poolhouse_http_requests_total{{{labels}}}"))
    };
    assert_eq!(http("GET", "/api/movies/{movie_id}", 200), 3.0);
    assert_eq!(http("GET", "/api/movies/{movie_id}", 404), 1.0);
    assert_eq!(http("PATCH", "/api/movies/{movie_id}", 405), 1.0);
    assert_eq!((http("GET", "unmatched", 404), http("other", "unmatched", 404)), (3.0, 3.0));
    assert_eq!(http("GET", "/metrics", 200), 1.0, "the scrape in progress is not counted yet");
    let timed =
        r#"poolhouse_http_request_duration_seconds_count{method="GET",route="/api/movies/{movie_id}"}"#;
    assert_eq!(after.value(timed), 4.0);

    let grown = |metric: &str| after.value(&of_pool(metric)) - before.value(&of_pool(metric));
    assert_eq!(grown("poolhouse_connection_requests_total"), 4.0);
    assert_eq!(grown("poolhouse_connection_wait_time_seconds_count"), 4.0);
    let runs = ["hits", "misses"].map(|kind| grown(&format!("poolhouse_statement_cache_{kind}_total")));
    assert_eq!(runs[0] + runs[1], 4.0, "{runs:?}");
    assert_eq!(after.value(&of_pool("poolhouse_connection_max")), 3.0);
    assert_eq!(after.value(r#"poolhouse_pool_state{pool="poolhouse",state="open"}"#), 1.0);
    assert_eq!(after.count("poolhouse_errors_total"), 16);

    let page = fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let listed: BTreeSet<_> = rows.map(str::to_owned).collect();
    assert_eq!(listed, after.metrics, "left: docs/metrics.md; right: a scrape");
}

#[test]
fn metrics_want_a_token_unless_that_is_switched_off() {
    let app = App::start();
    for (token, challenge) in [(None, ""), (Some("wrong"), "invalid_token")] {
        let answer = send(&app, "GET", "/metrics", token, None);
        assert_eq!((answer.status, answer.error_code().as_str()), (401, "unauthorized"));
        assert!(answer.header("www-authenticate").is_some_and(|header| header.contains(challenge)));
        assert!(!answer.text.contains("poolhouse_"), "{answer:?}");
    }
    assert_eq!(send(&app, "HEAD", "/metrics", Some(&app.token), None).text, "");
    let answer = send(&app, "POST", "/metrics", Some(&app.token), Some("{}"));
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
    drop(app);

    let open = App::start_with(&[("METRICS_AUTH", "off")]);
    Scrape::of(&get(&open, "/metrics").text);
    assert_eq!(get(&open, "/api/health/db").status, 401, "only the metrics are open");
}

#[test]
fn scrapes_are_answered_while_connections_are_lent_and_the_server_is_frozen_and_gone() {
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    let url = database.url();
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("DB_POOL_MIN_CONNECTIONS", "1"),
        ("DB_POOL_MAX_CONNECTIONS", "2"),
        ("DB_POOL_ACQUIRE_TIMEOUT_S", "120"),
        ("DB_POOL_OUTAGE_GRACE_S", "0"),
        ("DB_STATEMENT_TIMEOUT_MS", "0"),
        ("HTTP_REQUEST_TIMEOUT_MS", "0"),
    ];
    let app = App::launch(tempfile::tempdir().unwrap(), &variables);
    let used = r#"poolhouse_connections{pool="poolhouse",state="used"}"#;
    let up = of_pool("poolhouse_database_up");
    eventually("it is ready", SOON, || scrape(&app).value(used) == 0.0);

    let mut locker = database.client();
    let mut lock = locker.transaction().unwrap();
    lock.batch_execute("LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
    thread::scope(|scope| {
        let stuck: Vec<_> = (0..2).map(|_| scope.spawn(|| get(&app, "/api/movies/1").status)).collect();
        eventually("every connection is lent", SOON, || scrape(&app).value(used) == 2.0);
        let requests = scrape(&app).value(&of_pool("poolhouse_connection_requests_total"));
        let scrape_often = || (0..50).for_each(|_| drop(scrape(&app)));
        thread::scope(|crowd| (0..4).for_each(|_| drop(crowd.spawn(scrape_often))));
        let busy = get_as_known(&app, "/metrics").text;
        promtool::check_metrics(&busy);
        let busy = Scrape::of(&busy);
        assert_eq!(busy.value(&of_pool("poolhouse_connection_requests_total")), requests);
        assert_eq!(busy.value(r#"poolhouse_request_threads{state="busy"}"#), 2.0);

        server.freeze();
        scrape_often();
        assert_eq!(scrape(&app).value(used), 2.0);
        assert!(stuck.iter().all(|request| !request.is_finished()), "the scrapes have waited for them");

        server.thaw();
        server.kill();
        stuck.into_iter().for_each(|request| assert_eq!(request.join().unwrap(), 503));
    });
    drop(lock);
    eventually("the outage is seen", SOON, || scrape(&app).value(&up) == 0.0);
    let down = get_as_known(&app, "/metrics");
    promtool::check_metrics(&down.text);
    let down = Scrape::of(&down.text);
    assert_eq!(down.value(&of_pool("poolhouse_outages_total")), 1.0);
    assert!(down.value(r#"poolhouse_errors_total{pool="poolhouse",error="down"}"#) >= 1.0);
    let seconds = of_pool("poolhouse_outage_seconds_total");
    eventually("it gets longer", SOON, || scrape(&app).value(&seconds) > down.value(&seconds));

    server.start_again();
    eventually("it is over", SOON, || scrape(&app).value(&up) == 1.0);
    assert_eq!(scrape(&app).value(&of_pool("poolhouse_outages_total")), 1.0);
}

/// The names of metrics in a text, without what PromQL adds to those of histograms.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("poolhouse_"));
    names.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist_and_promtool_accepts_them() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let known = named(&page);
    for file in ["config/alerts.yml", "config/grafana-dashboard.json"] {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        let unknown: Vec<_> = named(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty() && named(&text).len() > 5, "{file} names {unknown:?}");
    }
    promtool::test_rules();
}
