//! The shape of a statement: its text without values and comments, for people to read.
//!
//! Deny by default: where a part of the text may be read differently by the server, or the statement is none that reads or writes
//! rows, the shape is its first word.

use crate::pool::session::classify::tokens::{Token, Tokens};
use crate::pool::session::classify::{Form, Syntax};

/// The longest text that is looked at, and the longest shape, in bytes.
const LONGEST_TEXT: usize = 16 * 1024;
const LONGEST_SHAPE: usize = 300;

/// The shape of `sql`: keywords and names in lower case as the server looks them up, `?` for each literal and number, `$` for each
/// parameter.
pub(crate) fn shape(sql: &str) -> String {
    let tokens = if sql.len() <= LONGEST_TEXT { Tokens::of(sql) } else { Tokens::default() };
    // A backslash may escape a quote, depending on a setting of the session.
    let is_readable = !tokens.is_opaque && !sql.contains('\\') && sql.len() <= LONGEST_TEXT;
    if !is_readable || !matches!(Syntax::of(sql).form, Form::Query | Form::Write) {
        let first = sql.split_ascii_whitespace().next().unwrap_or_default();
        let is_word = (1..=20).contains(&first.len()) && first.bytes().all(|byte| byte.is_ascii_alphabetic());
        return if is_word { format!("{} …", first.to_ascii_lowercase()) } else { "…".to_owned() };
    }
    let mut shape = String::new();
    let mut before = Piece::Start;
    for token in tokens.list {
        let piece = piece(&token, &before);
        if let Some(piece) = piece {
            if is_spaced(&before, &piece) {
                shape.push(' ');
            }
            piece.write(&mut shape);
            before = piece;
        }
        if shape.len() > LONGEST_SHAPE {
            shape.truncate(shape.floor_char_boundary(LONGEST_SHAPE));
            shape.push('…');
            break;
        }
    }
    // A list of values is one value: its length is no part of the shape.
    while shape.contains("?, ?") {
        shape = shape.replace("?, ?", "?");
    }
    shape
}

/// A part of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Start,
    Word(String),
    Value,
    Number,
    Parameter,
    Symbol(char),
}

impl Piece {
    fn write(&self, shape: &mut String) {
        match self {
            Piece::Start => {}
            Piece::Word(word) => shape.extend(word.chars().map(|c| if c.is_control() { ' ' } else { c })),
            Piece::Value | Piece::Number => shape.push('?'),
            Piece::Parameter => shape.push('$'),
            Piece::Symbol(symbol) => shape.push(*symbol),
        }
    }
}

/// What the token adds; `None` where it continues a number.
fn piece(token: &Token, before: &Piece) -> Option<Piece> {
    let is_in_number = *before == Piece::Number;
    Some(match token {
        Token::Word { text, is_quoted: true } => Piece::Word(format!("\"{text}\"")),
        Token::Word { text, .. } if is_in_number && may_continue_number(text) => return None,
        Token::Word { text, .. } => Piece::Word(text.clone()),
        // A doubled quote.
        Token::Literal if *before == Piece::Value => return None,
        Token::Literal => Piece::Value,
        Token::Parameter => Piece::Parameter,
        Token::Symbol('0'..='9' | '.') if is_in_number => return None,
        Token::Symbol('0'..='9') => Piece::Number,
        Token::Symbol(symbol) if symbol.is_control() => return None,
        Token::Symbol(symbol) => Piece::Symbol(*symbol),
    })
}

/// Whether the word can be the rest of a number, such as 1e5, 0xff or 1_000.
fn may_continue_number(word: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_hexdigit() || c == '_';
    word.strip_prefix(['e', 'x', 'o', 'b', '_']).is_some_and(|rest| rest.chars().all(is_digit))
}

/// Whether there is a space between two pieces.
fn is_spaced(before: &Piece, after: &Piece) -> bool {
    const OPERATORS: &str = "+-*/<>=~!@#%^&|`?:";
    match (before, after) {
        (Piece::Start | Piece::Symbol('(' | '[' | '.'), _) => false,
        (_, Piece::Symbol(')' | ']' | '[' | ',' | ';' | '.')) => false,
        (Piece::Word(word), Piece::Symbol('(')) => {
            matches!(word.as_str(), "in" | "values" | "and" | "or" | "as" | "from")
        }
        (Piece::Symbol(before), Piece::Symbol(after)) => {
            !(OPERATORS.contains(*before) && OPERATORS.contains(*after))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_has_names_and_no_values() {
        for (sql, expected) in [
            (
                "SELECT Title, \"Year\"  FROM movies\n WHERE movie_id = $1 -- secret",
                "select title, \"Year\" from movies where movie_id = $",
            ),
            ("SELECT 'a''b', E'c', $$d$$, 1.5, 1e5, 0xff, 1_000", "select ?"),
            (
                "SELECT count(*)::int4 FROM m.t AS x WHERE a >= 12 AND b IN (1, 2, 3)",
                "select count(*) :: int4 from m.t as x where a >= ? and b in (?)",
            ),
            ("SELECT a FROM t LIMIT 5 OFFSET 10", "select a from t limit ? offset ?"),
            ("INSERT INTO t VALUES ('x', 3)", "insert into t values (?)"),
            ("SELECT 'secret' /* secret */ || name FROM t", "select ? || name from t"),
        ] {
            assert_eq!(shape(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_text_that_may_hide_values_has_no_shape() {
        for (sql, expected) in [
            ("ALTER ROLE app PASSWORD secret", "alter …"),
            ("SET search_path TO secret", "set …"),
            (r"SELECT 'it\'s secret'", "select …"),
            ("SELECT \"a\"\"secret\"", "select …"),
            ("'secret'", "…"),
            ("", "…"),
        ] {
            assert_eq!(shape(sql), expected, "{sql}");
        }
        assert_eq!(shape(&format!("SELECT '{}'", "secret".repeat(10_000))), "select …");
    }

    #[test]
    fn a_shape_is_short_and_has_no_control_characters() {
        let long = format!("SELECT {} FROM t", "\u{e9}bcd, ".repeat(200));
        assert!(shape(&long).len() <= LONGEST_SHAPE + '…'.len_utf8());
        assert_eq!(shape("SELECT \"a\u{1b}[2J</script>\" FROM t\u{7}"), "select \"a [2J</script>\" from t");
    }
}
