//! A text that must not be seen.

use sha2::{Digest, Sha256};
use std::fmt;

/// A secret text: `Debug` shows `***`, there is no `Display` and no `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself; the name makes each use easy to find.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// What stands in the place of a secret wherever one would be shown.
pub(super) const MASK: &str = "***";

/// What production asks for in the place of a placeholder.
pub(super) const OWN_SECRET: &str = "a random secret of your own, for instance from `openssl rand -hex 24`";

/// Whether a secret is one that somebody meant to fill in, or that everybody tries first.
///
/// Long words count anywhere in the text. Short ones count at its start only, where chance does not put
/// them into a random token.
pub(super) fn is_placeholder(secret: &str) -> bool {
    const ANYWHERE: [&str; 7] =
        ["changeme", "change-me", "change_me", "password", "secret", "example", "placeholder"];
    const AT_START: [&str; 4] = ["your-", "your_", "xxx", "todo"];

    let secret = secret.trim().to_lowercase();
    ANYWHERE.iter().any(|word| secret.contains(word))
        || AT_START.iter().any(|word| secret.starts_with(word))
        || (secret.starts_with('<') && secret.ends_with('>'))
}

/// Fewer different characters or bytes than this are no random secret: by chance the shortest token of digits has so
/// few once in ten million.
const LEAST_VARIETY: usize = 6;

/// What a hash must not be the hash of: the token in `.env.dev`, which is public, what an unset variable leaves (`printf`
/// or `echo`), and words that everybody tries first.
const KNOWN: [&str; 9] = [PUBLIC_TOKEN, "", "\n", "admin", "changeme", "password", "secret", "test", "token"];

/// The token of `.env.dev`.
const PUBLIC_TOKEN: &str = "dev-only-token-0123456789abcdef-not-a-secret";

/// Whether a secret is too uniform to be random: a repeated letter, say.
pub(super) fn is_uniform(secret: &[u8]) -> bool {
    let mut seen: Vec<u8> = secret.to_vec();
    seen.sort_unstable();
    seen.dedup();
    seen.len() < LEAST_VARIETY
}

/// Whether a SHA-256 belongs to no secret: to a text that everybody knows, or to nothing (all zeros).
pub(super) fn is_known_hash(sha256: &[u8; 32]) -> bool {
    is_uniform(sha256) || KNOWN.iter().any(|text| <[u8; 32]>::from(Sha256::digest(text)) == *sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_token_is_the_one_in_the_file() {
        assert!(include_str!("../../.env.dev").contains(&format!("API_TOKENS=dev={PUBLIC_TOKEN}\n")));
    }

    #[test]
    fn placeholders_are_recognised_in_any_case_and_random_text_is_not() {
        for text in [
            "changeme",
            "CHANGE-ME",
            "please-change_me-now",
            "password",
            "Passw0rd-Password1",
            "secret",
            "your-token-goes-here",
            "YOUR_TOKEN",
            "<token of 32 characters>",
            "example",
            "placeholder-0123456789abcdef",
            "xxxxxxxx",
            "TODO",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["", "f3b1c0de9a774b6d8c2e5f10", "x9Lq-todo-Zk", "pa<ss>", "yourself", "correct horse"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }
}
