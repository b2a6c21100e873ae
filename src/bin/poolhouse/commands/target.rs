//! The database that a command works on, and what to tell its user where it will not do.

use crate::cli::{Failure, spelled};
use crate::dev_postgres::LocalPostgres;
use crate::schema;
use poolhouse::{Error, Settings};
use std::fmt;

/// The database and the user, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    name: String,
    /// What to do where the login is refused and the settings are not to blame.
    login_advice: Option<String>,
}

impl Place {
    pub(crate) fn of(settings: &Settings, local: Option<&LocalPostgres>) -> Place {
        let database = &settings.pool.database;
        Place {
            name: format!("{database} as user {}", database.user),
            login_advice: local.map(LocalPostgres::login_advice),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(crate) fn unusable(place: &Place) -> impl FnOnce(Error) -> Failure {
    move |error| match (error, &place.login_advice) {
        (error @ Error::Settings(_), _) => error.into(),
        (error @ Error::Authentication(_), Some(advice)) => {
            Failure::Failed(format!("cannot use the database {place}: {error}\n{advice}"))
        }
        (error, _) => Failure::Failed(format!("cannot use the database {place}: {error}")),
    }
}

pub(crate) fn not_applied(place: &Place) -> impl FnOnce(Error) -> Failure {
    move |error| {
        let advice = schema::advice(&error).map_or(String::new(), |advice| format!("\n{advice}"));
        Failure::Failed(format!("cannot make the tables in {place}: {error}{advice}"))
    }
}

pub(crate) fn missing_schema(place: &Place) -> Failure {
    Failure::Failed(format!("the database {place} has no movies table yet: run {} first", spelled("schema")))
}
