//! Standard output: plain lines, or on a terminal a text that replaces the one before it.
//!
//! It neither changes a mode of the terminal nor takes its other screen, so that nothing needs to be restored whenever and however the
//! program ends.

use std::io::{self, IsTerminal, Write};

#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    is_terminal: bool,
    has_colours: bool,
    /// The lines of the text that the next one replaces.
    drawn: usize,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_terminal = io::stdout().is_terminal() && !is_dumb;
        Screen { is_terminal, has_colours: is_terminal && !is_plain, drawn: 0 }
    }

    pub(super) fn has_colours(&self) -> bool {
        self.has_colours
    }

    pub(super) fn print(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// Replaces the text before it; where output is no terminal, adds to it.
    pub(super) fn draw(&mut self, text: &str) -> io::Result<()> {
        if !self.is_terminal {
            return self.print(text);
        }
        let (width, height) = match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        };
        let lines = fitted(text, width, height);
        let mut frame = match self.drawn {
            0 => String::new(),
            lines => format!("\r\u{1b}[{lines}A\u{1b}[J"),
        };
        for line in &lines {
            frame.push_str(line);
            frame.push('\n');
        }
        self.drawn = lines.len();
        let mut stdout = io::stdout().lock();
        stdout.write_all(frame.as_bytes())?;
        stdout.flush()
    }
}

/// The lines that fit: a line that wraps, or one above the top, could not be replaced.
fn fitted(text: &str, width: usize, height: usize) -> Vec<String> {
    let room = height.saturating_sub(1).max(1);
    let all = text.lines().count();
    let mut lines: Vec<_> = text.lines().take(room).map(|line| shortened(line, width)).collect();
    if all > room
        && let Some(last) = lines.last_mut()
    {
        *last = shortened(&format!("  … and {} more lines", all - room + 1), width);
    }
    lines
}

/// Leaves out what is beyond the width. Codes of colours take no room; a line that is cut loses them.
fn shortened(line: &str, width: usize) -> String {
    let mut is_code = false;
    let visible: Vec<char> = line
        .chars()
        .filter(|c| {
            let is_visible = !is_code && *c != '\u{1b}';
            is_code = if is_code { *c != 'm' } else { *c == '\u{1b}' };
            is_visible
        })
        .collect();
    match visible.len() > width {
        true => visible.into_iter().take(width.saturating_sub(1)).chain(['…']).collect(),
        false => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_to_the_terminal() {
        assert_eq!(fitted("abc\ndef", 80, 24), ["abc", "def"]);
        assert_eq!(fitted("abcdef", 4, 24), ["abc…"]);
        let coloured = "ab \u{1b}[1;32mcd\u{1b}[0m";
        assert_eq!(fitted(coloured, 5, 24), [coloured]);
        assert_eq!(fitted(coloured, 4, 24), ["ab …"]);
        assert_eq!(fitted("a\nb\nc\nd", 80, 3), ["a", "  … and 3 more lines"]);
    }
}
