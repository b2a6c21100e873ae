//! The shape of the code, kept by reading it: imports go one way, foreign crates stay behind their fences, files
//! stay small. A new import needs a row in a table here: a change of the shape is a decision.
//!
//! Every exception is listed with its reason, and one that is not needed any more fails as well.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The library's modules along the data's way: each may use those before it, and no other.
const ORDER: [&str; 10] =
    ["error", "settings", "rows", "decode", "pool", "query", "database_pool", "health", "metrics", "web"];

/// Inside the pool, what each room may use of the others. Below `mod`, which owns everything, they are in layers: gate and
/// transport know nothing of each other; a session is above the transport; the store makes sessions for the gate; what lends
/// and what maintains stands above all of them.
const POOL: [(&str, &[&str]); 22] = [
    ("cancellation", &[]),
    ("generation", &[]),
    ("log_throttle", &[]),
    ("logging", &[]),
    ("status", &[]),
    ("deadline", &["cancellation"]),
    ("gate", &["status"]),
    ("history", &["status"]),
    ("transport", &[]),
    ("slow_log", &["log_throttle", "logging", "status"]),
    ("statement_stats", &["status"]),
    ("session", &["slow_log", "statement_stats", "status", "transport"]),
    ("store", &["gate", "generation", "logging", "session", "slow_log", "status", "transport"]),
    ("statement", &["cancellation", "deadline", "session", "status"]),
    ("acquire", &["cancellation", "deadline", "gate", "generation", "logging", "session", "status"]),
    ("release", &["acquire", "deadline", "gate", "generation", "logging", "session", "status"]),
    (
        "maintenance",
        &["acquire", "gate", "generation", "logging", "observation", "session", "status", "transport"],
    ),
    ("observation", &["history", "statement_stats", "status"]),
    ("connection", &["gate", "session"]),
    ("sharing", &["cancellation", "gate", "session", "status"]),
    ("polled", &["deadline", "session", "transport"]),
    (
        "mod",
        &[
            "acquire",
            "cancellation",
            "connection",
            "deadline",
            "gate",
            "generation",
            "history",
            "log_throttle",
            "logging",
            "maintenance",
            "observation",
            "polled",
            "session",
            "sharing",
            "slow_log",
            "statement_stats",
            "status",
            "store",
            "transport",
        ],
    ),
];

/// What parts of the pool may use of the rest of the library: these know nothing of databases and of settings.
const ONLY_ERROR: [&str; 3] = ["gate", "status", "generation"];

/// Foreign crates, and where they may be named.
const FENCES: [(&[&str], &[&str]); 19] = [
    (&["r2d2", "r2d2_postgres", "scheduled_thread_pool"], &["src/pool/"]),
    (&["tokio_rustls", "lru"], &["src/pool/"]),
    // The traits of byte streams, one below the pool and one below the HTTP server; and how a worker waits for a socket.
    (&["tokio"], &["src/pool/", "src/bin/poolhouse/http/connection/", "src/web/bridge/lane.rs"]),
    (&["actix_http", "actix_service"], &["src/bin/poolhouse/http/server.rs"]),
    (
        &["postgres", "tokio_postgres"],
        &[
            "src/pool/",
            "src/query/",
            "src/decode/",
            "src/error/",
            "src/rows.rs",
            "src/settings/database.rs",
            // The parameters' trait in its signatures.
            "src/database_pool.rs",
            // Handed on: its types are in our signatures.
            "src/lib.rs",
        ],
    ),
    (&["postgres_protocol"], &["src/decode/", "src/pool/session/", "src/pool/transport/"]),
    (&["bytes"], &["src/pool/session/", "src/pool/transport/"]),
    // Array elements, the fields of messages, and the notifications a borrower has left.
    (&["fallible_iterator"], &["src/decode/", "src/pool/session/reset.rs", "src/pool/transport/protocol/"]),
    (&["actix_web"], &["src/web/", "src/bin/"]),
    (&["futures_core"], &["src/web/", "src/bin/poolhouse/http/connection/"]),
    (&["dotenvy", "strsim", "percent_encoding", "env_filter"], &["src/settings/"]),
    (&["subtle"], &["src/web/"]),
    (&["prometheus_client"], &["src/metrics/", "src/web/"]),
    (&["clap", "clap_complete", "csv", "indicatif", "unicode_properties"], &["src/bin/"]),
    (&["html5gum", "unicode_segmentation"], &["src/bin/poolhouse/services/document_text/"]),
    (&["walkdir"], &["src/bin/poolhouse/services/ingest/"]),
    (&["env_logger", "nix"], &["src/bin/"]),
    (&["ureq"], &["src/bin/poolhouse/commands/status/client.rs"]),
    (&["getrandom"], &["src/bin/poolhouse/commands/token.rs"]),
];

/// Files of more lines than this want splitting.
const MOST_LINES: usize = 400;

/// Files that are longer, and why they are not split.
const LONG: [&str; 1] = [
    // Tables, and the reader that they are compared with.
    "tests/architecture.rs",
];

/// A source file: its path from the project's root, its module, and the paths it names.
#[derive(Debug)]
struct Source {
    path: String,
    module: Vec<String>,
    named: Vec<Vec<String>>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(directory: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    files
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

/// Everything below src/ but tests.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for file in files_below("src") {
        let path = shown(&file);
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
        if is_test {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
        let module = inner.split('/').filter(|part| !["mod", "lib"].contains(part)).map(str::to_owned);
        sources.push(Source { module: module.collect(), named: paths(&tokens(code)), path });
    }
    assert!(sources.len() > 50, "found only {} files", sources.len());
    sources
}

/// The words and marks of Rust code, without comments and literals. `::` is one mark.
fn tokens(code: &str) -> Vec<String> {
    let chars: Vec<char> = code.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let ahead = |at: usize, text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let find =
        |from: usize, text: &str| (from..chars.len()).find(|at| ahead(*at, text)).unwrap_or(chars.len());
    while at < chars.len() {
        let c = chars[at];
        if ahead(at, "//") {
            at = find(at, "\n");
        } else if ahead(at, "/*") {
            at = find(at, "*/") + 2;
        } else if ahead(at, "r#\"") {
            at = find(at + 3, "\"#") + 2;
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' && (ahead(at + 1, "\\") || chars.get(at + 2) == Some(&'\'')) {
            at = find(at + if ahead(at + 1, "\\") { 3 } else { 2 }, "'") + 1;
        } else if c.is_alphabetic() || c == '_' {
            let end = (at..chars.len()).find(|i| !(chars[*i].is_alphanumeric() || chars[*i] == '_'));
            let end = end.unwrap_or(chars.len());
            tokens.push(chars[at..end].iter().collect());
            at = end;
        } else if ahead(at, "::") {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            at += 1;
        }
    }
    tokens
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Every path of at least two parts, and every one after `use`; the braces of `use` unfolded.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_word(&tokens[at]) && (at == 0 || tokens[at - 1] != "::") {
            let is_use = at > 0 && tokens[at - 1] == "use";
            let mut found = Vec::new();
            unfold(tokens, &mut at, &[], &mut found);
            paths.extend(found.into_iter().filter(|path| path.len() > 1 || is_use));
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one path from `tokens` on, and with it every branch of its braces.
fn unfold(tokens: &[String], at: &mut usize, before: &[String], paths: &mut Vec<Vec<String>>) {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(*at) {
        if is_word(token) {
            path.push(token.clone());
            *at += 1;
        } else if token == "{" && *at > 0 && tokens[*at - 1] == "::" {
            *at += 1;
            while tokens.get(*at).is_some_and(|token| token != "}") {
                match tokens[*at].as_str() {
                    // `a as b`: `b` is no path.
                    "as" => *at += 2,
                    word if is_word(word) => unfold(tokens, at, &path, paths),
                    _ => *at += 1,
                }
            }
            *at += 1;
            return;
        } else {
            break;
        }
        match tokens.get(*at) {
            Some(token) if token == "::" => *at += 1,
            _ => break,
        }
    }
    paths.push(path);
}

impl Source {
    /// A path from the crate's root; `None` where it begins elsewhere.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = match path[0].as_str() {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module[..self.module.len().checked_sub(1)?].to_vec(),
            _ => return None,
        };
        for part in &path[1..] {
            match part.as_str() {
                "super" => drop(base.pop()),
                "self" => {}
                part => base.push(part.to_owned()),
            }
        }
        Some(base)
    }

    fn is_library(&self) -> bool {
        !self.path.starts_with("src/bin/")
    }

    /// The library's modules that this file names, its own left out. What is named through the crate's root
    /// counts where it comes from.
    fn uses(&self, exports: &BTreeMap<String, String>) -> BTreeSet<String> {
        let resolved = self.named.iter().filter_map(|path| self.resolve(path));
        let heads = resolved.filter_map(|path| path.first().cloned());
        let modules = heads.map(|head| exports.get(&head).cloned().unwrap_or(head));
        modules.filter(|module| Some(module) != self.module.first()).collect()
    }
}

/// What lib.rs exports, and from which module.
fn exports(sources: &[Source]) -> BTreeMap<String, String> {
    let lib = sources.iter().find(|source| source.path == "src/lib.rs").unwrap();
    let from_modules = lib.named.iter().filter(|path| path.len() == 2 && ORDER.contains(&path[0].as_str()));
    from_modules.map(|path| (path[1].clone(), path[0].clone())).collect()
}

#[test]
fn modules_use_only_those_before_them() {
    let sources = sources();
    let exports = exports(&sources);
    assert!(exports.len() > 10, "lib.rs exports {exports:?}");
    let place = |module: &str| ORDER.iter().position(|other| *other == module);
    let mut backward = Vec::new();
    for source in sources.iter().filter(|source| source.is_library() && !source.module.is_empty()) {
        let own = place(&source.module[0])
            .unwrap_or_else(|| panic!("{}: a new module needs its place in ORDER", source.path));
        for used in source.uses(&exports) {
            let other = place(&used).unwrap_or_else(|| panic!("{}: crate::{used} is not known", source.path));
            if other > own {
                backward.push((source.path.clone(), used));
            }
        }
    }
    assert_eq!(backward, [], "imports against the order {ORDER:?}");
}

#[test]
fn the_parts_of_the_pool_use_only_what_their_layer_may() {
    let sources = sources();
    let exports = exports(&sources);
    let siblings: BTreeMap<&str, &[&str]> = POOL.into();
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.module.first().is_some_and(|top| top == "pool")) {
        let part = source.module.get(1).map_or("mod", String::as_str);
        let Some((part, allowed)) = siblings.get_key_value(part) else {
            panic!("{}: a new part of the pool needs its place in POOL", source.path)
        };
        let resolved = source.named.iter().filter_map(|path| source.resolve(path));
        let others = resolved
            .filter(|path| path.len() > 1 && path[0] == "pool")
            .map(|path| path[1].clone())
            .filter(|other| siblings.contains_key(other.as_str()) && other != part);
        for other in others {
            assert!(allowed.contains(&other.as_str()), "{} uses pool::{other}: see POOL", source.path);
            used.entry(part).or_default().insert(other);
        }
        if ONLY_ERROR.contains(part) {
            let outside: Vec<_> = source.uses(&exports).into_iter().filter(|top| top != "error").collect();
            assert!(outside.is_empty(), "{} uses {outside:?}", source.path);
        }
    }
    for (part, allowed) in POOL {
        for other in allowed {
            // `mod` names its own children without a prefix too, which is not looked at.
            let is_used = part == "mod" || used.get(part).is_some_and(|used| used.contains(*other));
            assert!(is_used, "POOL allows {part} to use {other}, and it does not any more");
        }
    }
}

#[test]
fn foreign_crates_stay_behind_their_fences() {
    let sources = sources();
    for (crates, fence) in FENCES {
        let mut met: BTreeSet<&str> = BTreeSet::new();
        for source in &sources {
            // Through the library's own export it is the library's, as it would be for any crate that uses it.
            let is_foreign = |name: &&str| {
                crates.contains(name) && !source.named.iter().any(|path| *path == ["poolhouse", name])
            };
            let named = source.named.iter().map(|path| path[0].as_str()).find(is_foreign);
            let Some(name) = named else { continue };
            let place = fence.iter().find(|place| source.path.starts_with(**place));
            met.insert(
                place.unwrap_or_else(|| panic!("{} names {name}, which is for {fence:?}", source.path)),
            );
        }
        let needless: Vec<_> = fence.iter().filter(|place| !met.contains(*place)).collect();
        assert!(needless.is_empty(), "{crates:?}: allowed in {needless:?}, and not there any more");
    }
}

#[test]
fn the_program_is_a_crate_of_its_own() {
    // Cargo sees to it that it gets at public items only, unless it takes the library's files for its own.
    for file in files_below("src/bin") {
        let text = fs::read_to_string(&file).unwrap();
        for way_in in ["#[path", "include!("] {
            assert!(!text.contains(way_in), "{} has {way_in}…", shown(&file));
        }
    }
    let uses_the_library = sources()
        .iter()
        .any(|source| !source.is_library() && source.named.iter().any(|path| path[0] == "poolhouse"));
    assert!(uses_the_library);
}

#[test]
fn files_are_short_but_for_a_few() {
    let mut long = Vec::new();
    for file in ["src", "tests", "examples"].into_iter().flat_map(files_below) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > MOST_LINES {
            long.push(shown(&file));
        }
    }
    assert_eq!(long, LONG, "left: files over {MOST_LINES} lines; right: those that may be");
}

#[test]
fn the_reader_of_this_test_reads() {
    let code = r#"
        use crate::{error::{Error, Result as R}, pool};
        use super::sync; // use crate::comment;
        pub use postgres;
        fn f<'a>(x: &'a str) -> char { g("crate::string", '"', '\''); crate::query::all::<u8>(x) }
        /* crate::comment */ let y = r2d2::Pool::new;
    "#;
    let paths: Vec<_> = paths(&tokens(code)).iter().map(|path| path.join("::")).collect();
    let expected = [
        "crate::error::Error",
        "crate::error::Result",
        "crate::pool",
        "super::sync",
        "postgres",
        "crate::query::all",
        "r2d2::Pool::new",
    ];
    assert_eq!(paths, expected);
}
