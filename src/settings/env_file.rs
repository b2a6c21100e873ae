//! Reads a tier's `.env` file.
//!
//! The file is passed to `dotenvy` line by line, so that every mistake has its line number and an unclosed quote does not
//! swallow the lines below it. Values that `dotenvy` would change silently are refused. Which values a variable accepts is
//! not checked here.

use crate::error::Problem;
use crate::settings::reader::{RawValue, Source};
use crate::settings::tier::Tier;
use crate::settings::variables::VARIABLES;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Prefixes of our variables: an unknown name with one of them is a typing error, not another program's variable.
const OUR_PREFIXES: [&str; 2] = ["DB_", "DATABASE_"];

/// The variables of a file, unchecked, and the problems with the file itself.
#[derive(Default)]
pub(super) struct EnvFile {
    pub(super) values: BTreeMap<String, RawValue>,
    pub(super) problems: Vec<Problem>,
}

/// Reads the file of `tier` in `dir`. The error is a file that is missing or cannot be read.
pub(super) fn read(dir: &Path, tier: Tier) -> Result<EnvFile, Problem> {
    let name = tier.env_file();
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => Ok(parse(name, &bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && tier == Tier::Dev => Ok(EnvFile::default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Problem {
            variable: name.to_owned(),
            value: format!("not found in {}", dir.display()),
            allowed: match tier {
                Tier::Production => "a copy of .env.production.template, filled in".to_owned(),
                _ => format!("a file with the variables of the {tier} tier"),
            },
        }),
        Err(error) => Err(Problem {
            variable: name.to_owned(),
            value: format!("cannot be read in {}: {error}", dir.display()),
            allowed: "a file that this user may read".to_owned(),
        }),
    }
}

fn parse(name: &str, bytes: &[u8]) -> EnvFile {
    let mut file = EnvFile::default();
    let mut first_lines: BTreeMap<String, usize> = BTreeMap::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let mut problem = |variable: String, value: String, allowed: String| {
            file.problems.push(Problem { variable, value, allowed });
        };
        let (variable, text) = match parse_line(line) {
            Ok(Some(pair)) => pair,
            Ok(None) => continue,
            Err((what, allowed)) => {
                problem(format!("{name} line {number}"), what.to_owned(), allowed.to_owned());
                continue;
            }
        };
        let is_known = VARIABLES.iter().any(|known| known.name == variable);
        let upper = variable.to_ascii_uppercase();
        if !is_known && OUR_PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) {
            let value = format!("unknown variable in {name} line {number}");
            problem(variable.clone(), value, format!("the nearest known name is {}", nearest(&upper)));
        } else if is_known && let Some(first) = first_lines.get(&variable) {
            let value = format!("set in {name} line {first} and line {number}");
            problem(variable.clone(), value, "one line".to_owned());
        }
        first_lines.entry(variable.clone()).or_insert(number);
        let text = text.trim();
        if is_known && !text.is_empty() {
            let source = Source::File(name.to_owned());
            file.values.insert(variable, RawValue { text: text.to_owned(), source });
        }
    }
    file
}

fn nearest(name: &str) -> &'static str {
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    VARIABLES.iter().map(|known| known.name).min_by_key(distance).unwrap_or_default()
}

/// Parses one line: a variable, or nothing. The error is the problem and the allowed form.
fn parse_line(line: &[u8]) -> Result<Option<(String, String)>, (&'static str, &'static str)> {
    const SHAPE: &str = "NAME=value, # comment, or an empty line";

    let line = std::str::from_utf8(line).map_err(|_| ("is not UTF-8", "a file in UTF-8"))?;
    if line.starts_with('\u{feff}') {
        return Err(("begins with a byte order mark", "a file in UTF-8 without one"));
    }
    let trimmed = line.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok(None);
    }
    let Some((name, value)) = trimmed.split_once('=') else {
        return Err(("has no =", SHAPE));
    };
    let name = name.trim().strip_prefix("export ").unwrap_or(name).trim();
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if name.is_empty()
        || !name.chars().all(is_name_char)
        || name.starts_with(|c: char| !c.is_ascii_alphabetic() && c != '_')
    {
        return Err(("has a name that is not made of letters, digits and `_`", SHAPE));
    }
    check_value(value)?;
    match dotenvy::from_read_iter(trimmed.as_bytes()).next() {
        Some(Ok(pair)) => Ok(Some(pair)),
        Some(Err(_)) => Err((
            "has a value that cannot be read: spaces or quotes inside it?",
            "the whole value in single quotes",
        )),
        None => Ok(None),
    }
}

/// Refuses values that `dotenvy` would reject without a reason, or change silently: it substitutes `$`, even with nothing,
/// takes `#` at the start for a comment, and drops a backslash at the end.
fn check_value(value: &str) -> Result<(), (&'static str, &'static str)> {
    const QUOTED: &str = "the value in single quotes";

    if value.starts_with('#') {
        return Err(("has a value that begins with #, which would be a comment", QUOTED));
    }
    let mut quote = None;
    let mut chars = value.trim_start().chars();
    let mut is_after_space = value.starts_with(char::is_whitespace);
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), _) => {}
            (_, '\\') => match chars.next() {
                Some('\\' | '\'' | '"' | '$' | ' ' | 'n') => {}
                _ => return Err(("has a backslash that escapes nothing", QUOTED)),
            },
            (_, '$') => return Err(("has a $, which would be replaced", QUOTED)),
            (None, '#') if is_after_space => return Ok(()),
            (None, '\'' | '"') => quote = Some(c),
            _ => {}
        }
        is_after_space = c.is_whitespace();
    }
    match quote {
        Some(_) => Err(("has a quote that is not closed on the same line", QUOTED)),
        None => Ok(()),
    }
}
