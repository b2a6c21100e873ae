//! Settings: what each variable takes, what each tier refuses, and that a mistake is shown in full and a secret
//! never.

#![expect(clippy::unwrap_used, reason = "clippy takes the helpers of tests for other code")]

mod bad_values;
mod database;
mod defaults;
mod files;
mod secrets;
mod spellings;
mod tiers;

use poolhouse::settings::{
    DatabaseSettings, PgBouncerMode, PrePing, Source, SslMode, TargetSessionAttrs, Tier, VARIABLES,
};
use poolhouse::{Error, PoolSettings, Problem, Settings};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Enough for any tier.
const COMPLETE: [(&str, &str); 2] =
    [("DATABASE_URL", "postgres://app:mS8dQ2vL@db.internal:6432/movies"), ("API_TOKENS", TOKEN)];

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(pairs: &[(&str, &str)]) -> poolhouse::Result<Settings> {
    Settings::from_vars(&variables(pairs))
}

fn accepted(pairs: &[(&str, &str)]) -> Settings {
    load(pairs).unwrap_or_else(|error| panic!("{pairs:?}: {error}"))
}

fn problems_of(result: poolhouse::Result<Settings>) -> Vec<Problem> {
    match result {
        Err(Error::Settings(error)) => error.problems,
        Err(error) => panic!("not a settings error: {error}"),
        Ok(settings) => panic!("accepted: {settings:?}"),
    }
}

fn refused(pairs: &[(&str, &str)]) -> Vec<Problem> {
    match load(pairs) {
        Ok(_) => panic!("accepted: {pairs:?}"),
        result => problems_of(result),
    }
}

/// The one problem there is.
fn refusal(pairs: &[(&str, &str)]) -> Problem {
    let mut problems = refused(pairs);
    assert_eq!(problems.len(), 1, "{pairs:?}: {problems:?}");
    problems.remove(0)
}

fn complete(tier: &str, more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let tier = Tier::ALL.iter().find(|known| known.as_str() == tier).unwrap().as_str();
    let mut pairs = vec![("APP_ENV", tier)];
    pairs.extend(COMPLETE);
    pairs.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    pairs.extend(more);
    pairs
}

fn effective(settings: &Settings, variable: &str) -> (String, String) {
    let row = settings.effective().iter().find(|row| row.variable == variable).unwrap();
    (row.value.clone(), row.source.to_string())
}

fn row(value: &str, source: &str) -> (String, String) {
    (value.to_owned(), source.to_owned())
}
