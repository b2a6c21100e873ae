//! README.md and docs/, kept true: their commands are run and the answers compared, their tables follow the
//! code, their files exist.
//!
//! A block fenced as `console` is run: `curl` against the service, whatever else as a shell command with
//! `poolhouse` on its path. What follows a command is the answer expected; `…` stands for anything in a line, and
//! alone on a line for any number of lines.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

mod walks;

use crate::http::{Answer, send};
use crate::support::{App, Postgres, SOON, eventually};
use poolhouse::settings::VARIABLES;
use poolhouse::web::ApiError;
use poolhouse::{DecodeError, Error, PoolNumbers, SettingsError};
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The one example that is about an outage; it has a test of its own.
const OUTAGE: &str = "HTTP/1.1 503";

/// README.md.
fn readme() -> String {
    fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap()
}

/// README.md and all pages behind it.
fn pages() -> String {
    let mut pages: Vec<_> =
        fs::read_dir(Path::new(ROOT).join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    pages.iter().fold(readme(), |all, path| all + &fs::read_to_string(path).unwrap())
}

/// A command of a `console` block and the lines shown after it.
#[derive(Debug)]
struct Example {
    command: String,
    shown: Vec<String>,
}

fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for block in pages().split("```console\n").skip(1) {
        let block = block.split_once("```").expect("a block that ends").0;
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => examples.push(Example { command: command.to_owned(), shown: Vec::new() }),
                None => examples.last_mut().expect("a command first").shown.push(line.to_owned()),
            }
        }
    }
    examples
}

impl Example {
    fn is_about_an_outage(&self) -> bool {
        self.shown.iter().any(|line| line.starts_with(OUTAGE))
    }

    #[track_caller]
    fn compare(&self, answer: &[String]) {
        assert!(
            lines_match(&self.shown, answer),
            "{}\n--- the page shows\n{}\n--- it is\n{}",
            self.command,
            self.shown.join("\n"),
            answer.join("\n")
        );
    }
}

/// Whether `lines` are what `shown` says; `…` alone is any number of them.
fn lines_match(shown: &[String], lines: &[String]) -> bool {
    match shown {
        [] => lines.is_empty(),
        [dots, rest @ ..] if dots == "…" => (0..=lines.len()).any(|skip| lines_match(rest, &lines[skip..])),
        [first, rest @ ..] => {
            lines.first().is_some_and(|line| line_matches(first, line)) && lines_match(rest, &lines[1..])
        }
    }
}

fn line_matches(shown: &str, line: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Sends what a `curl` command would, and returns what it would print.
fn curl(app: &App, command: &str) -> Vec<String> {
    let mut words = words(command).into_iter().skip(1);
    let (mut method, mut path, mut token, mut body, mut shows_head) = (None, None, None, None, false);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-i" => shows_head = true,
            "-X" => method = words.next(),
            "-d" => body = words.next(),
            "-H" => {
                let header = words.next().expect("a header");
                match header.split_once(": Bearer ") {
                    Some(("Authorization", bearer)) => token = Some(bearer.replace("$TOKEN", &app.token)),
                    // Sent with every body.
                    _ => assert_eq!(header, "Content-Type: application/json"),
                }
            }
            url => {
                let at =
                    url.strip_prefix("http://127.0.0.1:5000").unwrap_or_else(|| panic!("not known: {url}"));
                path = Some(at.to_owned());
            }
        }
    }
    let method = method.unwrap_or_else(|| if body.is_some() { "POST".into() } else { "GET".into() });
    let answer = send(app, &method, &path.expect("a URL"), token.as_deref(), body.as_deref());
    let mut lines = if shows_head { head(&answer) } else { Vec::new() };
    lines.extend(answer.text.lines().map(str::to_owned));
    lines
}

/// Status line and headers, in the order of README.md: what matters first.
fn head(answer: &Answer) -> Vec<String> {
    let reason = ureq::http::StatusCode::from_u16(answer.status).unwrap().canonical_reason().unwrap();
    let mut lines = vec![format!("HTTP/1.1 {} {reason}", answer.status)];
    for name in ["location", "www-authenticate", "retry-after"] {
        lines.extend(answer.header(name).map(|value| format!("{name}: {value}")));
    }
    lines.push(format!("date: {}", answer.header("date").unwrap()));
    lines.push(String::new());
    lines
}

/// A command's words; quotes of both kinds, nothing else of what shells know.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in command.chars() {
        match (quote, c) {
            (None, ' ') => words.push(String::new()),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words
}

/// Runs a shell command where `poolhouse` is on the path and finds the app's database, and returns what it prints.
fn shell(app: &App, command: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(Path::new(ROOT).join(".env.dev"), directory.path().join(".env.dev")).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_poolhouse")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", &format!("{{ {command}; }} 2>&1")])
        .env_clear()
        .env("PATH", path)
        .current_dir(directory.path())
        .env("DATABASE_URL", app.database().url())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_example_answers_as_shown() {
    let app = App::start();
    let mut run = 0;
    for example in examples().iter().filter(|example| !example.is_about_an_outage()) {
        let answer = match example.command.split(' ').next().unwrap() {
            "curl" => curl(&app, &example.command),
            "export" => continue,
            _ => shell(&app, &example.command),
        };
        example.compare(&answer);
        run += 1;
    }
    assert!(run > 15, "only {run} examples found");
}

#[test]
fn without_its_database_the_service_answers_as_shown() {
    let examples = examples();
    let outage: Vec<_> = examples.iter().filter(|example| example.is_about_an_outage()).collect();
    assert!(!outage.is_empty(), "no page shows an outage");

    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    let (url, grace) = (database.url(), ("DB_POOL_OUTAGE_GRACE_S", "0"));
    let app = App::launch(tempfile::tempdir().unwrap(), &[("DATABASE_URL", &url), grace]);
    server.kill();
    eventually("the service has noticed", SOON, || app.get("/api/movies/1").1.contains(r#""down""#));
    for example in outage {
        example.compare(&curl(&app, &example.command));
    }
}

#[test]
fn the_token_shown_is_the_one_of_the_dev_tier() {
    let shown = readme().lines().find_map(|line| line.strip_prefix("$ export TOKEN=").map(str::to_owned));
    let token = shown.expect("an export");
    let file = fs::read_to_string(Path::new(ROOT).join(".env.dev")).unwrap();
    assert!(file.lines().any(|line| line == format!("API_TOKENS=dev={token}")), "{token}");
}

#[test]
fn the_service_of_ones_own_is_shown_whole() {
    let example = fs::read_to_string(Path::new(ROOT).join("examples/own_service.rs")).unwrap();
    let block = format!("```rust,no_run\n{example}```\n");
    assert!(readme().contains(&block), "copy examples/own_service.rs into README.md:\n{example}");
}

#[test]
fn the_table_of_variables_is_the_one_the_code_follows() {
    let mut table = String::from("| variable | default | allowed | meaning |\n|---|---|---|---|\n");
    for variable in VARIABLES {
        let default = Some(variable.default()).filter(|text| !text.is_empty()).unwrap_or("–".to_owned());
        let (name, allowed, meaning) = (variable.name, variable.allowed(), variable.meaning);
        table += &format!("| `{name}` | {default} | {allowed} | {meaning} |\n");
    }
    assert!(pages().contains(&table), "copy this table into docs/settings.md:\n{table}");
}

/// The rows of the table whose header begins like this, as cells.
fn table(header: &str) -> Vec<Vec<String>> {
    let pages = pages();
    let start = pages.find(header).unwrap_or_else(|| panic!("no page has a table {header}"));
    let rows = pages[start..].lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_table_of_errors_has_every_variant_and_says_what_becomes_of_it() {
    let rows = table("| `Error` |");
    let named: Vec<&str> = rows.iter().flat_map(|row| names(&row[0])).collect();
    let source = fs::read_to_string(Path::new(ROOT).join("src/error/mod.rs")).unwrap();
    let body = source.split_once("pub enum Error {").unwrap().1.split_once("\n}").unwrap().0;
    let variants: Vec<&str> = body
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| line.split(|c: char| !c.is_alphanumeric()).next().unwrap())
        .collect();
    assert_eq!(named, variants);

    let numbers = Box::<PoolNumbers>::default;
    let decode = DecodeError { column: String::new(), postgres_type: String::new(), message: String::new() };
    // Those that can be made outside of the crate; the pool's own tests show the others.
    for (name, error) in [
        ("NotInitialized", Error::NotInitialized),
        ("AlreadyInitialized", Error::AlreadyInitialized),
        ("Settings", SettingsError { problems: Vec::new() }.into()),
        ("Exhausted", Error::Exhausted(numbers())),
        ("Suspended", Error::Suspended(numbers())),
        ("Saturated", Error::Saturated(numbers())),
        ("Down", Error::Down(numbers())),
        ("Authentication", Error::Authentication(numbers())),
        ("Closed", Error::Closed),
        ("Cancelled", Error::Cancelled),
        ("SelfDeadlock", Error::SelfDeadlock(numbers())),
        ("TransactionAborted", Error::TransactionAborted),
        ("TransactionEnded", Error::TransactionEnded),
        ("Decode", decode.into()),
        ("TooManyRows", Error::TooManyRows),
        ("Application", Error::application("mine")),
    ] {
        let row = rows.iter().find(|row| names(&row[0]).contains(&name)).unwrap();
        assert_eq!(row[2], if error.is_transient() { "yes" } else { "no" }, "{name}");
        let status = ApiError::from(error).status().as_u16().to_string();
        assert!(row[3].ends_with(&status), "{name}: {status}, docs/errors.md says {}", row[3]);
    }
}

#[test]
fn every_file_named_exists() {
    let pages = pages();
    let tour = table("| file | what");
    assert!(tour.len() > 15, "a tour of {} files", tour.len());
    let paths: Vec<&str> = pages
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| ["src/", "tests/", "config/", "examples/"].iter().any(|top| text.starts_with(top)))
        .chain(tour.iter().map(|row| names(&row[0])[0]))
        .collect();
    for path in paths {
        assert!(Path::new(ROOT).join(path).exists(), "a page names {path}");
    }
}

/// It is what a newcomer reads first: the rest has pages of its own.
#[test]
fn the_readme_is_short_and_its_links_lead_somewhere() {
    let readme = readme();
    assert!(readme.len() <= 12_000, "README.md has {} bytes", readme.len());
    for page in pages().split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
        let target = page.0.split('#').next().unwrap();
        if target.is_empty() || target.starts_with("http") {
            continue;
        }
        let is_there = ["", "docs"].iter().any(|folder| Path::new(ROOT).join(folder).join(target).exists());
        assert!(is_there, "a link leads to {target}");
    }
}

#[test]
fn every_story_named_exists() {
    let pages = pages();
    let section = pages.split_once("## What it does around r2d2\n").unwrap().1.split_once("\n## ").unwrap().0;
    let stories: Vec<_> = names(section).into_iter().filter(|name| name.ends_with(".rs")).collect();
    assert!(stories.len() > 5, "{stories:?}");
    for story in stories {
        assert!(Path::new(ROOT).join("tests/pool").join(story).exists(), "a page names tests/pool/{story}");
    }
}
