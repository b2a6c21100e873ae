//! Secrets: a text that is never shown, and the tests by which production refuses weak ones.

use sha2::{Digest, Sha256};
use std::fmt;

/// A secret text: `Debug` shows `***`, and there is neither `Display` nor `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// Returns the secret itself. The name makes each use easy to find.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// What is shown in place of a secret.
pub(super) const MASK: &str = "***";

/// What production requires instead of a placeholder.
pub(super) const OWN_SECRET: &str = "a random secret of your own, for instance from `openssl rand -hex 24`";

/// Whether a secret is a placeholder of a template, or among the first guesses of an attacker.
///
/// Long words count anywhere in the text. Short words count at its start only, because a random token may contain them.
pub(super) fn is_placeholder(secret: &str) -> bool {
    const ANYWHERE: [&str; 7] =
        ["changeme", "change-me", "change_me", "password", "secret", "example", "placeholder"];
    const AT_START: [&str; 4] = ["your-", "your_", "xxx", "todo"];

    let secret = secret.trim().to_lowercase();
    ANYWHERE.iter().any(|word| secret.contains(word))
        || AT_START.iter().any(|word| secret.starts_with(word))
        || (secret.starts_with('<') && secret.ends_with('>'))
}

/// A secret with fewer different characters or bytes is not random: among random tokens of digits of the smallest length,
/// one in ten million has so few.
const LEAST_VARIETY: usize = 6;

/// Texts whose hashes are refused: the public token in `.env.dev`, the output of `printf` and `echo` for an unset variable,
/// and the first guesses of an attacker.
const KNOWN: [&str; 9] = [PUBLIC_TOKEN, "", "\n", "admin", "changeme", "password", "secret", "test", "token"];

/// The token of `.env.dev`.
const PUBLIC_TOKEN: &str = "dev-only-token-0123456789abcdef-not-a-secret";

/// Whether a secret is too uniform to be random, such as a repeated letter.
pub(super) fn is_uniform(secret: &[u8]) -> bool {
    let mut seen: Vec<u8> = secret.to_vec();
    seen.sort_unstable();
    seen.dedup();
    seen.len() < LEAST_VARIETY
}

/// Whether a SHA-256 is the hash of a known text, or not a hash at all (all zeros).
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
