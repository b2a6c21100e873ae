//! The public error types fit wherever Rust programs expect an error.

use poolhouse::web::ApiError;
use poolhouse::{ConnectFailure, DecodeError, Error, Interruption, QueryError, ServerError, SettingsError};
use std::error::Error as StdError;
use std::fs;
use std::path::Path;

/// Compiles only for types that `Box<dyn Error + Send + Sync>`, and so `?` in `anyhow` or `main`, accepts.
fn name_of<E: StdError + Send + Sync + 'static>() -> &'static str {
    std::any::type_name::<E>().rsplit("::").next().unwrap()
}

/// The public structs and enums below `folder` whose name says that they are errors.
fn declared(folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            declared(&path, names);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines() {
            let rest = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
            let name = rest.unwrap_or_default().split(|c: char| !c.is_alphanumeric()).next().unwrap();
            if ["Error", "Failure", "Interruption"].iter().any(|end| name.ends_with(end)) {
                names.push(name.to_owned());
            }
        }
    }
}

#[test]
fn every_public_error_type_implements_the_error_trait() {
    let mut listed = [
        name_of::<ApiError>(),
        name_of::<ConnectFailure>(),
        name_of::<DecodeError>(),
        name_of::<Error>(),
        name_of::<Interruption>(),
        name_of::<QueryError>(),
        name_of::<ServerError>(),
        name_of::<SettingsError>(),
    ];
    listed.sort_unstable();
    let mut names = Vec::new();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ["error", "settings", "pool", "query", "decode", "health", "web"] {
        declared(&sources.join(room), &mut names);
    }
    names.sort_unstable();
    assert_eq!(names, listed, "list each public error type here");
}
