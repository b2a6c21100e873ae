//! The deployment tiers, and the rules that differ between them.

use crate::settings::choice::choice;

choice! {
    /// A deployment tier, selected by `APP_ENV`, from the least to the most strict.
    pub enum Tier for "APP_ENV" {
        /// `.env.dev`: a developer's machine.
        Dev = "dev",
        /// `.env.preprod`: like production, with test data.
        Preprod = "preprod",
        /// `.env.production`: refuses weak secrets, and unencrypted connections to other machines.
        Production = "production",
    }
}

impl Tier {
    /// Returns the name of the file that holds this tier's variables.
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
}
