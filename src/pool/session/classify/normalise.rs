//! A statement's text for log lines: on one line, of bounded length, and without literals and numbers, which may be the users' data.
//!
//! Deny by default: the text ends where it is not certain what is a literal.

use crate::pool::session::classify::tokens::{Scanner, Token};
use std::fmt::Write;

/// The most bytes of a normalised text, but for the token in which they are reached.
const MAX_BYTES: usize = 300;

/// The text with `?` in place of literals and numbers, one space in place of blanks and comments, and control characters escaped. `…`
/// stands for what is left out at its end.
pub(crate) fn normalised(sql: &str) -> String {
    let mut scanner = Scanner { rest: sql, is_opaque: false };
    let mut text = String::new();
    loop {
        let before = scanner.rest.len();
        scanner.skip_blank();
        let (blank, rest) = (before - scanner.rest.len(), scanner.rest);
        let is_number = rest.starts_with(|c: char| c.is_ascii_digit());
        let Some(token) = scanner.next() else { return text };
        if is_number {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            scanner.rest = rest.trim_start_matches(is_part);
        }
        let token_text = &rest[..rest.len() - scanner.rest.len()];
        // Where strings are not standard, a backslash may hide the literal's end.
        let is_unsure = token == Token::Literal && token_text.contains('\\');
        if scanner.is_opaque || is_unsure || text.len() >= MAX_BYTES {
            text.push('…');
            return text;
        }
        if blank > 0 && !text.is_empty() {
            text.push(' ');
        }
        match token {
            Token::Literal => text.push('?'),
            _ if is_number => text.push('?'),
            _ => token_text.chars().for_each(|c| push_escaped(&mut text, c)),
        }
    }
}

/// Names may have any character.
fn push_escaped(text: &mut String, c: char) {
    match c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
        true => drop(write!(text, "{}", c.escape_default())),
        false => text.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_numbers_comments_and_line_ends_do_not_appear() {
        for (sql, shown) in [
            (
                "SELECT  title\n FROM movies -- secret\n WHERE id = $1",
                "SELECT title FROM movies WHERE id = $1",
            ),
            ("SELECT 'secret', $$secret$$, $a$secret$a$, x'ff'", "SELECT ?, ?, ?, x?"),
            ("SELECT a1, 42, 4.2e-3, 0xff, 1_000 LIMIT 10", "SELECT a1, ?, ?-?, ?, ? LIMIT ?"),
            ("/* secret */ SELECT 'it''s'", "SELECT ??"),
            ("SELECT \"a\nb\u{1b}[2J\"", r#"SELECT "a\nb\u{1b}[2J""#),
            ("SELECT E'it\\'s secret'", "SELECT…"),
            ("SELECT 'a\\', 'secret'", "SELECT…"),
            ("SELECT E'a'\n'\\' secret'", "SELECT…"),
            ("SELECT 'unfinished secret", "SELECT ?"),
            ("", ""),
        ] {
            assert_eq!(normalised(sql), shown, "{sql}");
        }
    }

    #[test]
    fn a_text_of_any_length_is_short_and_in_one_line() {
        for part in ["x'secret'\n", "1,", "\"\u{7}\",", "/*", "日本語 ", "$1\r", "'"] {
            let sql = part.repeat(1024 * 1024 / part.len());
            let shown = normalised(&sql);
            assert!(shown.len() < MAX_BYTES + 100 && !shown.contains(char::is_control), "{part}: {shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
        let name = "n".repeat(1024 * 1024);
        assert_eq!(normalised(&name), "…", "no name is that long");
    }
}
