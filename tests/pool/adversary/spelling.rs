//! One statement, written in all the ways that mean the same to PostgreSQL ("Lexical Structure").

/// Decides how each part is written; all zeros write it plainly.
#[derive(Debug, Clone)]
pub(super) struct Choices {
    of: Vec<u8>,
    next: usize,
}

impl Choices {
    pub(super) fn new(of: Vec<u8>) -> Choices {
        Choices { of, next: 0 }
    }

    pub(super) fn plain() -> Choices {
        Choices::new(vec![0])
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn below(&mut self, end: usize) -> usize {
        let chosen = self.of[self.next % self.of.len()];
        self.next += 1;
        usize::from(chosen) % end
    }
}

/// White space as PostgreSQL has it; the last but one hide a quotation mark and an end of line that is none.
const GAPS: [&str; 10] = [
    " ",
    "\n",
    "\t",
    "\r",
    "\u{c}",
    "/**/ ",
    " /* x /* y */ z */ ",
    " -- x\n",
    " /*'*/ ",
    " -- \u{2028} '\n",
];

/// Writes `template`, whose marks are those of [`super::carriers`].
pub(super) fn write(template: &str, choices: &mut Choices) -> String {
    let wrapped = wrap(template, choices);
    let mut sql = choices.pick(&["", "\n", "/* x */", "-- x\n", ";", "("]).to_owned();
    let is_in_parentheses = sql == "(" && is_query(template);
    if !is_in_parentheses && sql == "(" {
        sql.clear();
    }
    let mut rest = wrapped.as_str();
    let mut quote = None;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '«' => {
                let end = rest.find('»').expect("a whole text");
                sql.push_str(&text(&rest['«'.len_utf8()..end], choices));
                end + '»'.len_utf8()
            }
            '{' => {
                let end = rest.find('}').expect("a whole name");
                sql.push_str(&name(&rest[1..end], choices));
                end + 1
            }
            '\'' | '"' if quote.is_none_or(|quote| quote == c) => {
                quote = if quote.is_none() { Some(c) } else { None };
                sql.push(c);
                1
            }
            ' ' if quote.is_none() => {
                sql.push_str(choices.pick(&GAPS));
                1
            }
            c if c.is_ascii_alphabetic() && quote.is_none() => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                let is_part = sql.ends_with('$') || rest[end..].starts_with('$');
                sql.push_str(&if is_part { rest[..end].to_owned() } else { case(&rest[..end], choices) });
                end
            }
            c => {
                sql.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    if is_in_parentheses {
        sql.push(')');
    }
    sql.push_str(choices.pick(&["", ";", " -- x", "\n/* ; */", " ;;"]));
    sql
}

fn is_query(template: &str) -> bool {
    ["SELECT ", "VALUES ", "TABLE ", "WITH "].iter().any(|word| template.starts_with(word))
        && !template.contains(" INTO ")
}

/// The same as a part of something else.
fn wrap(template: &str, choices: &mut Choices) -> String {
    let around = choices.pick(&[
        "",
        "",
        "",
        "SELECT * FROM (?) AS q",
        "WITH q AS (?) SELECT * FROM q",
        "EXPLAIN (ANALYZE) ?",
    ]);
    // Before a comment's end of line nothing may follow.
    if around.is_empty() || !is_query(template) || template.contains("INSERT") {
        return template.to_owned();
    }
    around.replace('?', template)
}

fn case(word: &str, choices: &mut Choices) -> String {
    match choices.below(4) {
        0 => word.to_owned(),
        1 => word.to_ascii_lowercase(),
        2 => word.to_ascii_uppercase(),
        _ => word
            .chars()
            .enumerate()
            .map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
            .collect(),
    }
}

/// A name of small letters.
fn name(mark: &str, choices: &mut Choices) -> String {
    let (name, ways) = match mark.strip_prefix('~') {
        Some(name) => (name, 5),
        None => (mark, 8),
    };
    let (first, rest) = name.split_at(1);
    let code = u32::from(first.chars().next().unwrap_or('x'));
    match choices.below(ways) {
        0 => name.to_owned(),
        1 => name.to_ascii_uppercase(),
        2 => format!("\"{name}\""),
        3 => format!("U&\"\\{code:04x}{rest}\""),
        4 => format!("u&\"!+{code:06x}{rest}\" UESCAPE '!'"),
        5 => format!("public.{name}"),
        6 => format!("\"public\" . /**/ {name}"),
        _ => format!("PUBLIC.U&\"\\{code:04x}{rest}\""),
    }
}

/// A string constant.
fn text(text: &str, choices: &mut Choices) -> String {
    let (first, rest) = text.split_at(1);
    let code = u32::from(first.chars().next().unwrap_or('x'));
    let doubled = rest.replace('\'', "''");
    match choices.below(7) {
        0 => format!("'{first}{doubled}'"),
        1 => format!("E'\\x{code:02x}{doubled}'"),
        2 => format!("$${text}$$"),
        3 => format!("$q${text}$q$"),
        4 => format!("U&'\\{code:04x}{doubled}'"),
        5 => format!("'{first}'\n  '{doubled}'"),
        _ => format!("e'{first}{doubled}'"),
    }
}
