//! Prometheus' own checks. Where `promtool` is missing they are left out, and said to be; `make metrics` installs it.

use super::ROOT;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `make metrics` puts the program, else where the path leads.
fn promtool() -> Option<PathBuf> {
    let own = Path::new(ROOT).join("target/tools/usr/bin/promtool");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = [own].into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join("promtool")));
    let found = found.into_iter().find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: promtool is missing (make metrics installs it)");
    }
    found
}

/// Runs promtool, and fails where it does.
#[track_caller]
fn run(program: &Path, arguments: &[&str], input: &str) {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(ROOT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// Checks a scrape.
#[track_caller]
pub(super) fn check_metrics(scrape: &str) {
    if let Some(program) = promtool() {
        run(&program, &["check", "metrics"], scrape);
    }
}

/// Tests the alerts on recorded series, and checks the expressions of the dashboard.
#[track_caller]
pub(super) fn test_rules() {
    let Some(program) = promtool() else { return };
    run(&program, &["test", "rules", "tests/metrics/alerts_test.yml"], "");
    let text = fs::read_to_string(Path::new(ROOT).join("config/grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    for (index, target) in targets.enumerate() {
        let expression = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        let quoted = serde_json::to_string(&expression).unwrap();
        let _ = writeln!(rules, "  - record: panel:{index}\n    expr: {quoted}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yml");
    fs::write(&file, rules).unwrap();
    run(&program, &["check", "rules", file.to_str().unwrap()], "");
}
