//! The walks of docs/contributing.md, kept true: every file is there, and has what is named beside it.

use super::{ROOT, names};
use std::fs;
use std::path::Path;

/// A walk's steps are the items of its list: "1. `path`: `name` …".
fn steps(walk: &str) -> Vec<Vec<&str>> {
    let mut steps: Vec<Vec<&str>> = Vec::new();
    for line in walk.lines() {
        match line.split_once(". `") {
            Some((number, _)) if number.parse::<u8>().is_ok() => steps.push(names(line)),
            _ if line.starts_with("   ") => steps.last_mut().unwrap().extend(names(line)),
            _ => {}
        }
    }
    steps
}

#[test]
fn every_walk_opens_at_most_four_files_that_have_what_it_names() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/contributing.md")).unwrap();
    let section = page.split_once("\n## Walks\n").unwrap().1.split_once("\n## ").unwrap().0;
    let walks: Vec<_> = section.split("\n### ").skip(1).collect();
    assert_eq!(walks.len(), 6);
    for walk in walks {
        let title = walk.lines().next().unwrap();
        let steps = steps(walk);
        assert!((2..=4).contains(&steps.len()), "{title}: {} files", steps.len());
        for step in &steps {
            let (file, names) = step.split_first().unwrap();
            let opened = steps.iter().filter(|step| step[0] == *file).count();
            assert_eq!(opened, 1, "{title}: {file} is opened more than once");
            let source = fs::read_to_string(Path::new(ROOT).join(file));
            let source = source.unwrap_or_else(|error| panic!("{title}: {file}: {error}"));
            let words = words(&source);
            let is_defined =
                |name| words.windows(2).any(|pair| DEFINES.contains(&pair[0]) && pair[1] == name);
            assert!(is_defined(names[0]), "{title}: {file} does not define {}", names[0]);
            for name in names {
                let is_there = name.split("::").all(|part| words.contains(&part));
                assert!(is_there, "{title}: {file} does not have {name}");
            }
        }
    }
}

fn words(source: &str) -> Vec<&str> {
    let words = source.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty()).collect()
}

/// The words before the name of what a step begins with.
const DEFINES: [&str; 6] = ["fn", "struct", "enum", "const", "trait", "macro_rules"];

#[test]
fn no_field_with_a_range_lacks_its_validation() {
    let source = fs::read_to_string(Path::new(ROOT).join("src/settings/pool.rs")).unwrap();
    let fields = source.split_once("pub struct PoolSettings {").unwrap().1.split_once("\n}").unwrap().0;
    let validate = source.split_once("pub fn validate(").unwrap().1.split_once("\n    }\n").unwrap().0;
    let fields = fields
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(',')?.split_once(": "));
    let has_range = |kind: &str| !["bool", "Start", "PrePing", "PgBouncerMode"].contains(&kind);
    let ranged: Vec<_> = fields.filter(|(_, kind)| has_range(kind)).map(|(name, _)| name).collect();
    assert!(ranged.len() > 15, "{ranged:?}");
    for name in ranged {
        assert!(words(validate).contains(&name), "PoolSettings::validate does not check {name}");
    }
}
