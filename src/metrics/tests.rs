use super::*;
use std::time::Duration;

#[test]
fn two_pools_share_each_metric_and_a_name_cannot_end_its_label() {
    let mut first = PoolStatus { name: "a\"b\\c\nd".to_owned(), waiting: 3, ..PoolStatus::default() };
    for micros in [0, 10, 20, 200_000_000] {
        first.wait_times.add(Duration::from_micros(micros));
    }
    first.errors.exhausted = 7;
    first.events.retries = 2;
    first.outage_time = Duration::from_millis(2500);
    let second = PoolStatus { name: "second".to_owned(), ..PoolStatus::default() };
    let text = text(&[first, second]);
    for line in [
        r#"poolhouse_connection_pending_requests{pool="a\"b\\c\nd"} 3.0"#,
        r#"poolhouse_connection_pending_requests{pool="second"} 0.0"#,
        r#"poolhouse_errors_total{pool="a\"b\\c\nd",error="exhausted"} 7"#,
        r#"poolhouse_retries_total{pool="a\"b\\c\nd"} 2"#,
        r#"poolhouse_outage_seconds_total{pool="a\"b\\c\nd"} 2.5"#,
        r#"poolhouse_connection_wait_time_seconds_bucket{pool="a\"b\\c\nd",le="1.6e-05"} 2"#,
        r#"poolhouse_connection_wait_time_seconds_bucket{pool="a\"b\\c\nd",le="3.2e-05"} 3"#,
        r#"poolhouse_connection_wait_time_seconds_bucket{pool="a\"b\\c\nd",le="+Inf"} 4"#,
        r#"poolhouse_connection_wait_time_seconds_count{pool="a\"b\\c\nd"} 4"#,
        "# TYPE poolhouse_connection_wait_time_seconds histogram",
        "# HELP poolhouse_retries_total Statements and transactions that were run again, after a lost connection or a conflict.",
    ] {
        assert!(text.lines().any(|other| other == line), "no line {line} in\n{text}");
    }
    let types =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|line| line.split(' ').next());
    let names: Vec<_> = types.collect();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "a metric occurs twice");
}
