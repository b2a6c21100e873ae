//! The words of a statement, as PostgreSQL's scanner would cut them.

/// A word of a statement.
pub(super) struct Word {
    pub(super) text: String,
    /// An opening parenthesis follows.
    pub(super) is_called: bool,
    /// A dot precedes.
    pub(super) is_qualified: bool,
    pub(super) is_quoted: bool,
    /// Written with escapes (`U&"…"`), so its text is not its name.
    pub(super) is_escaped: bool,
}

/// The words of a statement in lower case, without comments and string literals.
pub(super) struct Words<'a> {
    rest: &'a str,
    after_dot: bool,
}

/// What PostgreSQL takes for the start of an identifier: every byte above ASCII, too.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

impl<'a> Words<'a> {
    pub(super) fn of(sql: &'a str) -> Words<'a> {
        Words { rest: sql, after_dot: false }
    }

    fn skip_past(&mut self, end: impl FnMut(char) -> bool) {
        self.rest = self.rest.split_once(end).map_or("", |(_, rest)| rest);
    }

    /// A literal after its opening quote; a doubled quote is met as the next literal.
    fn skip_literal(&mut self, has_escapes: bool) {
        let mut escaped = false;
        self.skip_past(|c| {
            if escaped {
                escaped = false;
                return false;
            }
            escaped = has_escapes && c == '\\';
            c == '\''
        });
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
            self.rest = self.rest.trim_start();
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

    fn word(&mut self, text: String, is_quoted: bool, is_escaped: bool) -> Word {
        self.skip_blank();
        let is_qualified = std::mem::take(&mut self.after_dot);
        Word { text, is_called: self.rest.starts_with('('), is_qualified, is_quoted, is_escaped }
    }

    fn quoted(&mut self, inside: usize, is_escaped: bool) -> Word {
        let inside = &self.rest[inside..];
        let (text, rest) = inside.split_once('"').unwrap_or((inside, ""));
        // A doubled quote inside a name: neither half is its name.
        let is_escaped = is_escaped || rest.starts_with('"');
        let text = text.to_lowercase();
        self.rest = rest;
        self.word(text, true, is_escaped)
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        loop {
            self.skip_blank();
            let first = self.rest.chars().next()?;
            let after = &self.rest[first.len_utf8()..];
            match (first, after.chars().next()) {
                ('\'', _) => {
                    self.rest = after;
                    self.skip_literal(false);
                }
                ('e' | 'E', Some('\'')) => {
                    self.rest = &after[1..];
                    self.skip_literal(true);
                }
                ('u' | 'U', Some('&')) if after[1..].starts_with('"') => return Some(self.quoted(3, true)),
                ('"', _) => return Some(self.quoted(1, false)),
                ('$', _) => {
                    // $1 is a parameter; $tag$ … $tag$ is a literal.
                    let tag =
                        after.find(|c: char| !(is_letter(c) || c.is_ascii_digit())).unwrap_or(after.len());
                    if after[tag..].starts_with('$') && !after.starts_with(|c: char| c.is_ascii_digit()) {
                        let (quote, inside) = self.rest.split_at(tag + 2);
                        self.rest = inside.split_once(quote).map_or("", |(_, rest)| rest);
                    } else {
                        self.rest = &after[tag..];
                    }
                }
                _ if is_letter(first) => {
                    let is_part = |c: char| is_letter(c) || c.is_ascii_digit() || c == '$';
                    let end = self.rest.find(|c: char| !is_part(c)).unwrap_or(self.rest.len());
                    let text = self.rest[..end].to_lowercase();
                    self.rest = &self.rest[end..];
                    return Some(self.word(text, false, false));
                }
                _ => {
                    self.after_dot = first == '.';
                    self.rest = after;
                }
            }
        }
    }
}
