//! An error message of the server, with the fields that it has (PostgreSQL, "Error and Notice Message Fields").

use std::fmt;

/// An error that the server reported.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The fields as the server sent them: a letter, the text, and a zero byte each.
    fields: Box<str>,
}

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse; `None` if it has no message.
    pub(crate) fn parse(body: &[u8]) -> Option<ServerError> {
        // A server whose encoding is not UTF-8 sends messages in its own before the session's is set.
        let error = ServerError { fields: String::from_utf8_lossy(body).into() };
        error.field('M').is_some().then_some(error)
    }

    fn field(&self, name: char) -> Option<&str> {
        self.fields.split('\0').find_map(|field| field.strip_prefix(name))
    }

    /// The severity in English: `ERROR`, `FATAL`, `PANIC`; for a notice `WARNING`, `NOTICE` and others.
    pub fn severity(&self) -> &str {
        // Servers before 9.6, and PgBouncer, send `S` only, in the server's language.
        self.field('V').or_else(|| self.field('S')).unwrap_or_default()
    }

    /// The five-character SQLSTATE; empty if the server sent none.
    pub fn sqlstate(&self) -> &str {
        self.field('C').unwrap_or_default()
    }

    /// The message, in the server's language.
    pub fn message(&self) -> &str {
        self.field('M').unwrap_or_default()
    }

    /// Details of the problem.
    pub fn detail(&self) -> Option<&str> {
        self.field('D')
    }

    /// What could be done about it.
    pub fn hint(&self) -> Option<&str> {
        self.field('H')
    }

    /// Where in the statement's text the error is, in characters, counted from 1.
    pub fn position(&self) -> Option<usize> {
        self.field('P')?.parse().ok()
    }

    /// The functions and statements that were being run, the innermost first.
    pub fn context(&self) -> Option<&str> {
        self.field('W')
    }

    /// The schema of the table, type or constraint concerned.
    pub fn schema(&self) -> Option<&str> {
        self.field('s')
    }

    /// The table concerned.
    pub fn table(&self) -> Option<&str> {
        self.field('t')
    }

    /// The column concerned.
    pub fn column(&self) -> Option<&str> {
        self.field('c')
    }

    /// The type concerned.
    pub fn data_type(&self) -> Option<&str> {
        self.field('d')
    }

    /// The violated constraint.
    pub fn constraint(&self) -> Option<&str> {
        self.field('n')
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerError").field(&self.fields.split('\0').collect::<Vec<_>>()).finish()
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())?;
        if let Some(detail) = self.detail() {
            write!(f, " ({detail})")?;
        }
        if let Some(hint) = self.hint() {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}
