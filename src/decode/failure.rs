//! The internal error of decoding, which becomes a `DecodeError` once its column is known.

use crate::error::DecodeError;
use crate::rows::Column;
use serde::de::{Expected, Unexpected};
use std::fmt::{self, Display};

/// The longest message kept: a value quoted in it may have megabytes.
const MAX_MESSAGE: usize = 400;

/// A failure to decode a value. Boxed, so that the `Result`s of the hot path stay small.
#[derive(Debug)]
pub(super) struct Failure(Box<Inner>);

#[derive(Debug)]
struct Inner {
    column: Option<usize>,
    cause: Cause,
    advice: Option<&'static str>,
}

#[derive(Debug)]
enum Cause {
    /// A complete message.
    Stated(String),
    /// A complete message about an element inside of the column's value.
    InElement(String),
    /// The message of the target type, which may not quote the refused value.
    Refused(String),
    /// The target requires a field that is missing.
    MissingField(&'static str),
    /// The target found a field twice.
    DuplicateField(&'static str),
    /// The target denies an existing field.
    UnknownField(String, &'static [&'static str]),
}

impl Failure {
    fn new(cause: Cause) -> Failure {
        Failure(Box::new(Inner { column: None, cause, advice: None }))
    }

    /// A failure with a complete message.
    pub(super) fn stated(message: impl Into<String>) -> Failure {
        Failure::new(Cause::Stated(shortened(message.into())))
    }

    /// A failure for bytes that are not the binary form of their type, which is a defect of the server or the driver.
    pub(super) fn malformed(bytes: &[u8], reason: impl Display) -> Failure {
        Failure::stated(format!("malformed value of {} bytes: {reason}", bytes.len()))
    }

    /// A failure for a JSON column whose contents do not fit.
    pub(super) fn json(error: serde_json::Error) -> Failure {
        Failure::stated(format!(
            "the JSON does not fit: {error}; for the JSON as text, cast it in SQL, as in (column)::text"
        ))
    }

    /// Sets the column, unless an inner deserializer has set it.
    pub(super) fn at(mut self, column: usize) -> Failure {
        if self.0.column.is_none() {
            self.0.column = Some(column);
        }
        self
    }

    /// Adds the index of the array element, counted from 1 as in PostgreSQL.
    pub(super) fn in_element(self, index: usize) -> Failure {
        let message = format!("element {}: {}", index + 1, self.0.cause);
        Failure::new(Cause::InElement(shortened(message)))
    }

    /// Adds the value to the message, unless the message quotes it already.
    pub(super) fn reading(mut self, value: &str) -> Failure {
        if let Cause::Refused(reason) = &self.0.cause {
            // The texts are ASCII; only a numeric can be longer than this.
            let value = value.get(..80).unwrap_or(value);
            self.0.cause = Cause::Stated(shortened(format!("cannot read \"{value}\": {reason}")));
        }
        self
    }

    /// Adds `advice` to the public error's message.
    pub(super) fn with_advice(mut self, advice: &'static str) -> Failure {
        self.0.advice = Some(advice);
        self
    }

    /// Whether the failure concerns the row, and no column of it.
    pub(super) fn is_of_row(&self) -> bool {
        self.0.column.is_none()
    }

    /// Whether the failure concerns an element inside of a column's value, and not the value as a whole.
    pub(super) fn is_in_element(&self) -> bool {
        matches!(self.0.cause, Cause::InElement(_))
    }

    /// Converts into the public error, with the column's name and type.
    pub(super) fn into_decode_error(self, columns: &[Column]) -> DecodeError {
        let Inner { column, cause, advice } = *self.0;
        let with_advice = |message: String| match advice {
            Some(advice) => format!("{message}; {advice}"),
            None => message,
        };
        if let Some(column) = column.and_then(|index| columns.get(index)) {
            return DecodeError {
                column: column.name.to_string(),
                postgres_type: column.type_.name().to_owned(),
                message: with_advice(cause.to_string()),
            };
        }
        let message = match cause {
            Cause::MissingField(field) if columns.is_empty() => {
                format!("no column \"{field}\"; the query returns none")
            }
            Cause::MissingField(field) => {
                format!("no column \"{field}\"; the query returns {}", names(columns))
            }
            Cause::DuplicateField(field) => Failure::ambiguous(field),
            Cause::UnknownField(name, fields) => {
                format!("column \"{name}\" is not wanted: the struct denies all but {}", fields.join(", "))
            }
            stated => stated.to_string(),
        };
        DecodeError {
            column: String::new(),
            postgres_type: String::new(),
            message: with_advice(shortened(message)),
        }
    }

    /// The message for two columns with the same name.
    pub(super) fn ambiguous(name: &str) -> String {
        format!("more than one column is named \"{name}\": give the others names of their own with AS")
    }
}

/// The columns' names, quoted, for a message.
pub(super) fn names(columns: &[Column]) -> String {
    let quoted: Vec<String> = columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    quoted.join(", ")
}

fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Stated(message) | Cause::InElement(message) | Cause::Refused(message) => {
                f.write_str(message)
            }
            Cause::MissingField(field) => write!(f, "no field \"{field}\""),
            Cause::DuplicateField(field) => write!(f, "more than one field is named \"{field}\""),
            Cause::UnknownField(field, fields) => {
                write!(f, "field \"{field}\" is not wanted: the struct denies all but {}", fields.join(", "))
            }
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.cause.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl serde::de::Error for Failure {
    fn custom<M: Display>(message: M) -> Failure {
        Failure::new(Cause::Refused(shortened(message.to_string())))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Failure {
        match unexpected {
            // serde's representation of a NULL for a target that is not an Option.
            Unexpected::Option => {
                Failure::stated(format!("expected {expected}, found NULL: use Option, or COALESCE in SQL"))
            }
            other => Failure::stated(format!("expected {expected}, found {other}")),
        }
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Failure {
        Failure::stated(format!("expected {expected}, found {unexpected}"))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Failure {
        Failure::stated(format!("expected {expected}, found a length of {length}"))
    }

    fn missing_field(field: &'static str) -> Failure {
        Failure::new(Cause::MissingField(field))
    }

    fn duplicate_field(field: &'static str) -> Failure {
        Failure::new(Cause::DuplicateField(field))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Failure {
        Failure::new(Cause::UnknownField(field.to_owned(), expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::Error;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let failure = Failure::custom("é".repeat(MAX_MESSAGE));
        let text = failure.to_string();
        assert!(text.len() <= MAX_MESSAGE + '…'.len_utf8());
        assert!(text.ends_with("é…"));
    }

    #[test]
    fn the_innermost_column_is_the_one_named() {
        let failure = Failure::stated("x").at(3).at(7);
        assert_eq!(failure.0.column, Some(3));
    }

    #[test]
    fn a_value_is_quoted_unless_the_target_has_quoted_it() {
        assert_eq!(
            Failure::custom("bad date").reading("infinity").to_string(),
            "cannot read \"infinity\": bad date"
        );
        let quoted = Failure::invalid_type(Unexpected::Str("infinity"), &"i32").reading("infinity");
        assert_eq!(quoted.to_string(), "expected i32, found string \"infinity\"");
    }
}
