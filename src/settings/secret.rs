//! A text that must not be seen.

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

#[cfg(test)]
mod tests {
    use super::*;

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
