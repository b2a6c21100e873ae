//! Reads the Prometheus text format (version 0.0.4), and fails where a scrape breaks one of its rules.

use std::collections::{BTreeMap, BTreeSet};

/// A sample's name and labels, as written: `name{label="value"}`.
type Series = String;

/// A scrape that keeps the rules.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) metrics: BTreeSet<String>,
    samples: BTreeMap<Series, f64>,
}

impl Scrape {
    /// # Panics
    ///
    /// Where the text breaks a rule.
    #[track_caller]
    pub(crate) fn of(text: &str) -> Scrape {
        assert!(text.ends_with('\n'), "the last line does not end");
        let (mut metrics, mut samples) = (BTreeSet::new(), BTreeMap::new());
        let (mut metric, mut kind) = (String::new(), String::new());
        let mut helped = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(help.ends_with('.') && !help.contains('\r'), "{line}");
                name.clone_into(&mut helped);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, its_kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, helped, "a type without a help before it");
                assert!(metrics.insert(name.to_owned()), "{name} occurs twice");
                let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
                assert!(name.starts_with("poolhouse_") && name.chars().all(is_name), "{name}");
                assert_eq!(its_kind == "counter", name.ends_with("_total"), "{line}");
                (metric, kind) = (name.to_owned(), its_kind.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                let name = series.split('{').next().unwrap();
                let suffixes: &[&str] =
                    if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                let is_its_own = name.strip_prefix(&metric).is_some_and(|end| suffixes.contains(&end));
                assert!(is_its_own, "{line} among those of {metric}");
                assert!(value >= 0.0 && value.is_finite(), "{line}");
                check_labels(series, name);
                assert!(samples.insert(series.to_owned(), value).is_none(), "{series} occurs twice");
            }
        }
        check_histograms(text);
        Scrape { metrics, samples }
    }

    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }

    /// The number of series of one metric.
    pub(crate) fn count(&self, metric: &str) -> usize {
        self.samples.keys().filter(|series| series.split('{').next() == Some(metric)).count()
    }
}

/// Labels are `name="value"`, with quotes, backslashes and line ends escaped, and none of them twice.
#[track_caller]
fn check_labels(series: &str, name: &str) {
    let Some(labels) = series[name.len()..].strip_prefix('{') else { return };
    let mut rest = labels.strip_suffix('}').unwrap_or_else(|| panic!("{series}"));
    let mut names = BTreeSet::new();
    while !rest.is_empty() {
        let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{series}"));
        assert!(label.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{series}");
        assert!(names.insert(label), "{label} twice in {series}");
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => assert!(matches!(chars.next(), Some((_, '\\' | '"' | 'n'))), "{series}"),
                Some((end, '"')) => break end,
                Some((_, c)) => assert!(c != '\n', "{series}"),
                None => panic!("a value does not end: {series}"),
            }
        };
        rest = value[end + 1..].trim_start_matches(',');
    }
}

/// The buckets of a histogram are in order and do not decrease, and the last one is the count.
#[track_caller]
fn check_histograms(text: &str) {
    let (mut last, mut below): (Option<(f64, f64)>, &str) = (None, "");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        if let Some((before, bound)) = series.split_once("le=\"") {
            let bound: f64 = bound.trim_end_matches("\"}").parse().unwrap();
            if let Some((last_bound, last_value)) = last.filter(|_| below == before) {
                assert!(bound > last_bound && value >= last_value, "{line} after {last_bound}: {last_value}");
            }
            (last, below) = (Some((bound, value)), before);
        } else if series.split('{').next().unwrap().ends_with("_count") {
            assert_eq!(last.take(), Some((f64::INFINITY, value)), "{line}");
        }
    }
}
