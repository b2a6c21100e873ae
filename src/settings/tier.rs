//! The deployment tiers.

use crate::error::{Error, Problem, SettingsError};
use std::fmt;
use std::str::FromStr;

/// A deployment tier, picked by `APP_ENV`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// `.env.dev`: a developer's machine.
    Dev,
    /// `.env.preprod`: like production, with test data.
    Preprod,
    /// `.env.production`: refuses weak secrets and unencrypted connections off this machine.
    Production,
}

impl Tier {
    /// Every tier, from the most to the least forgiving.
    pub const ALL: [Tier; 3] = [Tier::Dev, Tier::Preprod, Tier::Production];

    /// The name as `APP_ENV` gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Dev => "dev",
            Tier::Preprod => "preprod",
            Tier::Production => "production",
        }
    }

    /// The file that holds this tier's variables.
    pub fn env_file(self) -> &'static str {
        match self {
            Tier::Dev => ".env.dev",
            Tier::Preprod => ".env.preprod",
            Tier::Production => ".env.production",
        }
    }

    /// The fewest characters a bearer token may have.
    pub(super) fn min_token_length(self) -> usize {
        match self {
            Tier::Dev => 1,
            Tier::Preprod => 16,
            Tier::Production => 32,
        }
    }

    /// The tier of exactly this name.
    pub(super) fn named(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.as_str() == name)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = Error;

    /// # Errors
    ///
    /// - [`Error::Settings`]: not the name of a tier; the message lists the names.
    fn from_str(name: &str) -> Result<Tier, Error> {
        Tier::named(name).ok_or_else(|| {
            SettingsError {
                problems: vec![Problem {
                    variable: super::variables::APP_ENV.name.to_owned(),
                    value: name.to_owned(),
                    allowed: super::variables::APP_ENV.allowed(),
                }],
            }
            .into()
        })
    }
}
