//! Splits a statement into tokens as PostgreSQL's scanner does (PostgreSQL, "Lexical Structure"), as far as names
//! matter.
//!
//! It knows nothing of grammar. Where it cannot be sure of a name it marks the statement as opaque.

/// A token, without the content of literals and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or an identifier, in the form in which PostgreSQL looks it up.
    Word {
        text: String,
        is_quoted: bool,
    },
    Literal,
    Parameter,
    Symbol(char),
}

impl Token {
    /// The keyword in lower case; `None` for any other token. A quoted word is not a keyword.
    pub(super) fn keyword(&self) -> Option<&str> {
        match self {
            Token::Word { text, is_quoted: false } => Some(text),
            _ => None,
        }
    }
}

/// A statement's tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub(super) list: Vec<Token>,
    /// A part may be read differently by PostgreSQL, so `list` may lack names.
    pub(super) is_opaque: bool,
}

/// The most bytes of a name: PostgreSQL truncates longer ones (`NAMEDATALEN`).
const MAX_NAME_BYTES: usize = 63;

/// Whether an identifier may begin with `c`. PostgreSQL accepts every byte above ASCII, even Unicode's white space.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

impl Tokens {
    /// Splits `sql` into tokens.
    pub(super) fn of(sql: &str) -> Tokens {
        let mut scanner = Scanner { rest: sql, is_opaque: false };
        let list = std::iter::from_fn(|| scanner.next()).collect();
        Tokens { list, is_opaque: scanner.is_opaque }
    }
}

/// Reads one token after the other.
pub(super) struct Scanner<'a> {
    pub(super) rest: &'a str,
    pub(super) is_opaque: bool,
}

impl Scanner<'_> {
    /// Skips past the next character for which `end` returns true, or to the end of the text.
    fn skip_past(&mut self, end: impl FnMut(char) -> bool) {
        self.rest = self.rest.split_once(end).map_or("", |(_, rest)| rest);
    }

    /// Reads a literal after its opening quote. A doubled quote begins another literal, which makes no difference
    /// here.
    fn literal(&mut self) -> Token {
        self.skip_past(|c| c == '\'');
        Token::Literal
    }

    /// Reads a literal with backslash escapes, after its opening quote.
    fn escaped_literal(&mut self) -> Token {
        let mut is_escaped = false;
        self.skip_past(|c| {
            let is_end = c == '\'' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        if self.rest.starts_with('\'') {
            // A doubled quote is part of the literal.
            self.rest = &self.rest[1..];
            return self.escaped_literal();
        }
        // A quote after a line break continues the literal, with backslash escapes; this scanner does not follow it.
        self.skip_blank();
        self.is_opaque |= self.rest.starts_with('\'');
        Token::Literal
    }

    /// Skips a `/* … */` comment after its opening. Comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 1;
        while depth > 0 && !self.rest.is_empty() {
            let (step, change) = match &self.rest.as_bytes()[..self.rest.len().min(2)] {
                b"/*" => (2, 1),
                b"*/" => (2, -1),
                _ => (self.rest.chars().next().map_or(0, char::len_utf8), 0),
            };
            depth += change;
            self.rest = &self.rest[step..];
        }
    }

    /// Skips white space and comments.
    pub(super) fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches(is_space);
            if let Some(inside) = self.rest.strip_prefix("/*") {
                self.rest = inside;
                self.skip_comment();
            } else if self.rest.starts_with("--") {
                self.skip_past(|c| c == '\n' || c == '\r');
            } else {
                return;
            }
        }
    }

    fn word(&mut self, text: String, is_quoted: bool) -> Token {
        self.is_opaque |= text.len() > MAX_NAME_BYTES;
        Token::Word { text, is_quoted }
    }

    /// Reads a quoted name, after its opening quote.
    fn quoted(&mut self) -> Token {
        let (text, rest) = self.rest.split_once('"').unwrap_or((self.rest, ""));
        // The name contains a doubled quote, so the part before it is not the name.
        self.is_opaque |= rest.starts_with('"');
        let text = text.to_owned();
        self.rest = rest;
        self.word(text, true)
    }

    /// Reads `$1`, or a literal between `$tag$` and `$tag$`.
    fn dollar(&mut self) -> Token {
        let inside = &self.rest[1..];
        let digits = inside.find(|c: char| !c.is_ascii_digit()).unwrap_or(inside.len());
        let tag = inside.find(|c: char| !(is_letter(c) || c.is_ascii_digit())).unwrap_or(inside.len());
        if digits > 0 || !inside[tag..].starts_with('$') {
            self.rest = &inside[digits..];
            return if digits > 0 { Token::Parameter } else { Token::Symbol('$') };
        }
        let (quote, body) = self.rest.split_at(tag + 2);
        self.rest = body.split_once(quote).map_or("", |(_, rest)| rest);
        Token::Literal
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let first = self.rest.chars().next()?;
        let after = &self.rest[first.len_utf8()..];
        let token = match (first, after.chars().next()) {
            ('\'', _) => {
                self.rest = after;
                self.literal()
            }
            ('e' | 'E', Some('\'')) => {
                self.rest = &after[1..];
                self.escaped_literal()
            }
            ('u' | 'U', Some('&')) if after[1..].starts_with('"') => {
                // The name is written with escapes, so its text is not the name.
                self.is_opaque = true;
                self.rest = &after[2..];
                self.quoted()
            }
            ('"', _) => {
                self.rest = after;
                self.quoted()
            }
            ('$', _) => self.dollar(),
            _ if is_letter(first) => {
                let is_part = |c: char| is_letter(c) || c.is_ascii_digit() || c == '$';
                let end = self.rest.find(|c: char| !is_part(c)).unwrap_or(self.rest.len());
                // In a database with the encoding UTF8, PostgreSQL folds only ASCII letters.
                let text = self.rest[..end].to_ascii_lowercase();
                self.rest = &self.rest[end..];
                self.word(text, false)
            }
            _ => {
                self.rest = after;
                Token::Symbol(first)
            }
        };
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(sql: &str) -> Vec<String> {
        let words = Tokens::of(sql).list.into_iter().filter_map(|token| match token {
            Token::Word { text, .. } => Some(text),
            _ => None,
        });
        words.collect()
    }

    #[test]
    fn names_are_split_and_folded_as_postgresql_does() {
        for (sql, names) in [
            ("SELECT Title, \"Title\" FROM Movies", &["select", "title", "Title", "from", "movies"][..]),
            ("a.charge, 'charge', $$charge$$, $a$charge$a$, $1, a$b", &["a", "charge", "a$b"]),
            ("a -- charge\r b /* charge /* charge */ charge */ c", &["a", "b", "c"]),
            ("E'it\\'s charge', E'a\\\\', b, E'a''charge', 'a\\', c", &["b", "c"]),
            ("\u{a0}charge(1)", &["\u{a0}charge"]),
        ] {
            assert_eq!(words(sql), names, "{sql}");
        }
        assert_eq!(words("ÄTZEND"), ["Ätzend"], "only ASCII is folded");
    }

    #[test]
    fn text_that_may_hide_names_is_opaque() {
        for sql in [
            "SELECT U&\"ch\\0061rge\"(1)",
            "SELECT \"a\"\"b\"(1)",
            "SELECT E'a'\n'\\' || charge() || \\''",
            &format!("SELECT {}(1)", "x".repeat(64)),
        ] {
            assert!(Tokens::of(sql).is_opaque, "{sql}");
        }
        for sql in ["SELECT E'a', 'b'", "SELECT 'it''s'", "SELECT 'a'\n'b'", &"x".repeat(63)] {
            assert!(!Tokens::of(sql).is_opaque, "{sql}");
        }
    }
}
