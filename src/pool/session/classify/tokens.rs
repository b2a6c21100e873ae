//! The tokens of a statement, as PostgreSQL's scanner cuts them ("Lexical Structure"), as far as names go.

/// A token. What is inside literals and numbers does not matter here.
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
    /// The keyword that this is, in lower case; `None` for everything else. A quoted word is no keyword.
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
    /// Something in it is not read as PostgreSQL reads it, so that names may be hidden.
    pub(super) is_opaque: bool,
}

/// PostgreSQL cuts longer names off (`NAMEDATALEN`).
const LONGEST_NAME: usize = 63;

/// What PostgreSQL takes for the start of an identifier: every byte above ASCII, too, Unicode's white space included.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

impl Tokens {
    pub(super) fn of(sql: &str) -> Tokens {
        let mut scanner = Scanner { rest: sql, is_opaque: false };
        let list = std::iter::from_fn(|| scanner.next()).collect();
        Tokens { list, is_opaque: scanner.is_opaque }
    }
}

struct Scanner<'a> {
    rest: &'a str,
    is_opaque: bool,
}

impl Scanner<'_> {
    fn skip_past(&mut self, end: impl FnMut(char) -> bool) {
        self.rest = self.rest.split_once(end).map_or("", |(_, rest)| rest);
    }

    /// A literal after its opening quote. A doubled quote is met as the next literal.
    fn literal(&mut self) -> Token {
        self.skip_past(|c| c == '\'');
        Token::Literal
    }

    /// A literal with backslash escapes, after its opening quote.
    fn escaped_literal(&mut self) -> Token {
        let mut is_escaped = false;
        self.skip_past(|c| {
            let is_end = c == '\'' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        if self.rest.starts_with('\'') {
            // A doubled quote: the same literal goes on.
            self.rest = &self.rest[1..];
            return self.escaped_literal();
        }
        // After a line break a quote continues the literal, in which a backslash escapes as before.
        self.skip_blank();
        self.is_opaque |= self.rest.starts_with('\'');
        Token::Literal
    }

    /// A `/* … */` comment after its opening, which nests.
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

    /// White space and comments.
    fn skip_blank(&mut self) {
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
        self.is_opaque |= text.len() > LONGEST_NAME;
        Token::Word { text, is_quoted }
    }

    /// A quoted name, after its opening quote.
    fn quoted(&mut self) -> Token {
        let (text, rest) = self.rest.split_once('"').unwrap_or((self.rest, ""));
        // A doubled quote inside a name: neither half is its name.
        self.is_opaque |= rest.starts_with('"');
        let text = text.to_owned();
        self.rest = rest;
        self.word(text, true)
    }

    /// `$1`, or a literal between `$tag$` and `$tag$`.
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

    fn next(&mut self) -> Option<Token> {
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
                // Written with escapes, so that its text is not its name.
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
                // Only ASCII is folded, in a database of the encoding UTF8.
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
    fn names_are_those_that_postgresql_looks_up() {
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
    fn what_may_hide_names_is_opaque() {
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
