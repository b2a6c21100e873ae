//! The database that a command works on, and the failures that name it, with advice.

use crate::cli::{Failure, spelled};
use crate::dev_postgres::LocalPostgres;
use crate::schema;
use poolhouse::{Error, Settings};
use std::fmt;

/// The database and the user, as messages name them.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    name: String,
    /// What to do if the server refuses the login although the settings are right.
    login_advice: Option<String>,
}

impl Target {
    pub(crate) fn of(settings: &Settings, local: Option<&LocalPostgres>) -> Target {
        let database = &settings.pool.database;
        Target {
            name: format!("{database} as user {}", database.user),
            login_advice: local.map(LocalPostgres::login_advice),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(crate) fn unusable(target: &Target) -> impl FnOnce(Error) -> Failure {
    move |error| match (error, &target.login_advice) {
        (error @ Error::Settings(_), _) => error.into(),
        (error @ Error::Authentication(_), Some(advice)) => {
            Failure::Failed(format!("cannot use the database {target}: {error}\n{advice}"))
        }
        (error, _) => Failure::Failed(format!("cannot use the database {target}: {error}")),
    }
}

pub(crate) fn not_applied(target: &Target) -> impl FnOnce(Error) -> Failure {
    move |error| {
        let advice = schema::advice(&error).map_or(String::new(), |advice| format!("\n{advice}"));
        Failure::Failed(format!("cannot make the tables in {target}: {error}{advice}"))
    }
}

pub(crate) fn missing_schema(target: &Target) -> Failure {
    Failure::Failed(format!(
        "the database {target} lacks tables of this version: run {} first",
        spelled("schema")
    ))
}
