//! Settings that are one word of a fixed list: a macro that defines the enum, its words and both conversions.
//!
//! The lists live here once; the table of variables takes its allowed words from them. Knows neither the table nor the
//! reader.

/// Defines a fieldless enum whose values are the words of one variable: `ALL`, `as_str`, `Display` and `FromStr`.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        pub enum $name:ident for $variable:literal {
            $($(#[$value_meta:meta])* $value:ident = $word:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_meta])* $value,)+
        }

        impl $name {
            /// Every value, in the order in which error messages list them.
            pub const ALL: &'static [$name] = &[$($name::$value),+];

            /// The words of `ALL`.
            pub(super) const WORDS: &'static [&'static str] = &[$($word),+];

            #[doc = concat!("Returns the word that `", $variable, "` has for this value.")]
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$value => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::error::Error;

            #[doc = concat!("Reads a word of `", $variable, "`, in lower case.")]
            ///
            /// # Errors
            ///
            /// - [`Error::Settings`](crate::Error::Settings): not one of the words; the message lists them.
            fn from_str(word: &str) -> Result<$name, crate::error::Error> {
                let value = $name::ALL.iter().copied().find(|value| value.as_str() == word);
                value.ok_or_else(|| $crate::settings::choice::unknown_word($variable, word, $name::WORDS))
            }
        }
    };
}

pub(super) use choice;

use crate::error::{Error, Problem, SettingsError};

pub(super) fn unknown_word(variable: &str, word: &str, words: &[&str]) -> Error {
    let problem =
        Problem { variable: variable.to_owned(), value: word.to_owned(), allowed: words.join(", ") };
    SettingsError { problems: vec![problem] }.into()
}
