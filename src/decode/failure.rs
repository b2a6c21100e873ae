//! What went wrong inside a row, before it is known in which column.

use crate::error::DecodeError;
use postgres::Column;
use serde::de::{Expected, Unexpected};
use std::fmt::{self, Display};

/// The longest message kept: a value quoted in it may be megabytes.
const MAX_MESSAGE: usize = 400;

/// A failure on its way up from a value. Boxed, so that the `Result`s of the hot path stay small.
#[derive(Debug)]
pub(super) struct Failure(Box<Inner>);

#[derive(Debug)]
struct Inner {
    column: Option<usize>,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    /// Said completely.
    Stated(String),
    /// Said by the target type, which may not have quoted the value it refused.
    Refused(String),
    /// The target wants a field that is not there.
    MissingField(&'static str),
    /// The target met a field twice.
    DuplicateField(&'static str),
    /// The target denies a field that is there.
    UnknownField(String, &'static [&'static str]),
}

impl Failure {
    fn new(cause: Cause) -> Failure {
        Failure(Box::new(Inner { column: None, cause }))
    }

    /// A failure in the words of `message`.
    pub(super) fn stated(message: impl Into<String>) -> Failure {
        Failure::new(Cause::Stated(shortened(message.into())))
    }

    /// Bytes that are not the binary form of their type: a server or a driver gone wrong.
    pub(super) fn malformed(bytes: &[u8], reason: impl Display) -> Failure {
        Failure::stated(format!("malformed value of {} bytes: {reason}", bytes.len()))
    }

    /// The contents of a JSON column do not fit.
    pub(super) fn json(error: serde_json::Error) -> Failure {
        Failure::stated(format!(
            "the JSON does not fit: {error}; for the JSON as text, cast it in SQL, as in (column)::text"
        ))
    }

    /// Names the column it happened in, unless one nearer has been named.
    pub(super) fn at(mut self, column: usize) -> Failure {
        if self.0.column.is_none() {
            self.0.column = Some(column);
        }
        self
    }

    /// Names the element of an array it happened in, counted from 1 like PostgreSQL does.
    pub(super) fn in_element(self, index: usize) -> Failure {
        Failure::stated(format!("element {}: {}", index + 1, self.0.cause))
    }

    /// Quotes the value, where the type that refused it has not done so.
    pub(super) fn reading(mut self, value: &str) -> Failure {
        if let Cause::Refused(reason) = &self.0.cause {
            // Ours are ASCII; only a numeric can be longer than this.
            let value = value.get(..80).unwrap_or(value);
            self.0.cause = Cause::Stated(shortened(format!("cannot read \"{value}\": {reason}")));
        }
        self
    }

    /// Adds `advice`, unless it is about a column in particular.
    pub(super) fn with_advice(mut self, advice: &str) -> Failure {
        if let (None, Cause::Stated(reason) | Cause::Refused(reason)) = (self.0.column, &self.0.cause) {
            self.0.cause = Cause::Stated(format!("{reason}; {advice}"));
        }
        self
    }

    /// The error for callers, with the column's name and type.
    pub(super) fn into_decode_error(self, columns: &[Column]) -> DecodeError {
        let Inner { column, cause } = *self.0;
        if let Some(column) = column.and_then(|index| columns.get(index)) {
            return DecodeError {
                column: column.name().to_owned(),
                postgres_type: column.type_().name().to_owned(),
                message: cause.to_string(),
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
        DecodeError { column: String::new(), postgres_type: String::new(), message: shortened(message) }
    }

    /// What to say of two columns with the same name.
    pub(super) fn ambiguous(name: &str) -> String {
        format!("more than one column is named \"{name}\": give the others names of their own with AS")
    }
}

/// The columns' names, quoted, for a message.
pub(super) fn names(columns: &[Column]) -> String {
    let quoted: Vec<String> = columns.iter().map(|column| format!("\"{}\"", column.name())).collect();
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
            Cause::Stated(message) | Cause::Refused(message) => f.write_str(message),
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
            // How a NULL shows up where no Option stands.
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
    fn a_value_is_quoted_only_where_the_target_has_not_done_so() {
        assert_eq!(
            Failure::custom("bad date").reading("infinity").to_string(),
            "cannot read \"infinity\": bad date"
        );
        let said = Failure::invalid_type(Unexpected::Str("infinity"), &"i32").reading("infinity");
        assert_eq!(said.to_string(), "expected i32, found string \"infinity\"");
    }
}
