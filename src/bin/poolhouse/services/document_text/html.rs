//! HTML to text: what a reader of the page would read, with a blank line between blocks. It builds no tree: memory and time
//! are linear in the length of the HTML, however its elements are nested.

use html5gum::{DefaultEmitter, Token, Tokenizer};

/// Elements that begin and end a paragraph.
const BLOCKS: [&[u8]; 30] = [
    b"address",
    b"article",
    b"aside",
    b"blockquote",
    b"body",
    b"center",
    b"details",
    b"dialog",
    b"div",
    b"dl",
    b"fieldset",
    b"figcaption",
    b"figure",
    b"footer",
    b"form",
    b"h1",
    b"h2",
    b"h3",
    b"h4",
    b"h5",
    b"h6",
    b"header",
    b"hr",
    b"main",
    b"nav",
    b"ol",
    b"p",
    b"section",
    b"table",
    b"ul",
];

/// Elements that begin and end a line.
const LINES: [&[u8]; 10] =
    [b"br", b"caption", b"dd", b"dt", b"legend", b"li", b"option", b"summary", b"tr", b"optgroup"];

/// Elements whose content is not read, or not as text.
const SKIPPED: [&[u8]; 7] =
    [b"script", b"style", b"template", b"noscript", b"textarea", b"iframe", b"noframes"];

/// The white space of HTML; every other one is a character like any.
const SPACE: [u8; 5] = [b' ', b'\t', b'\n', b'\r', b'\x0c'];

/// The space to write before the next word: each kind includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    None,
    Space,
    Line,
    Paragraph,
}

/// Text under construction. Bytes, because a token may end inside a character.
#[derive(Debug)]
struct Writer {
    out: Vec<u8>,
    gap: Gap,
}

impl Writer {
    fn new() -> Writer {
        Writer { out: Vec::new(), gap: Gap::None }
    }

    fn widen(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }

    /// Writes the gap; at the beginning there is none.
    fn close_gap(&mut self) {
        let gap: &[u8] = match std::mem::replace(&mut self.gap, Gap::None) {
            _ if self.out.is_empty() => b"",
            Gap::None => b"",
            Gap::Space => b" ",
            Gap::Line => b"\n",
            Gap::Paragraph => b"\n\n",
        };
        self.out.extend(gap);
    }

    /// Writes text whose white space only separates words.
    fn write_words(&mut self, text: &[u8]) {
        for byte in text {
            if SPACE.contains(byte) {
                self.widen(Gap::Space);
            } else {
                self.close_gap();
                self.out.push(*byte);
            }
        }
    }

    /// Writes text as it is.
    fn write_preformatted(&mut self, text: &[u8]) {
        self.close_gap();
        self.out.extend(text);
    }

    fn into_text(self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// The text of a page, and its title.
pub(super) fn to_text(html: &str) -> (String, Option<String>) {
    let mut emitter = DefaultEmitter::default();
    // As a browser does: `<` inside a script begins no element.
    emitter.naively_switch_states(true);
    let (mut text, mut title) = (Writer::new(), Writer::new());
    // The names of elements whose content is not text of the page; while there is one, others inside it are not looked at.
    let mut inside: Option<Vec<u8>> = None;
    let mut preformatted = 0_usize;
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Token::StartTag(tag) if inside.is_none() => {
                let name: &[u8] = &tag.name;
                if SKIPPED.contains(&name) || name == b"title" {
                    inside = (!tag.self_closing).then(|| name.to_vec());
                }
                preformatted += usize::from(name == b"pre");
                text.widen(gap_around(name));
            }
            Token::EndTag(tag) => {
                let name: &[u8] = &tag.name;
                match &inside {
                    Some(open) if open == name => inside = None,
                    Some(_) => {}
                    None => {
                        preformatted -= usize::from(name == b"pre" && preformatted > 0);
                        text.widen(gap_around(name));
                    }
                }
            }
            Token::String(words) => match &inside {
                Some(open) if open == b"title" => title.write_words(&words),
                Some(_) => {}
                None if preformatted > 0 => text.write_preformatted(&words),
                None => text.write_words(&words),
            },
            _ => {}
        }
    }
    let title = title.into_text();
    (text.into_text(), Some(title).filter(|title| !title.is_empty()))
}

fn gap_around(name: &[u8]) -> Gap {
    match name {
        _ if BLOCKS.contains(&name) || name == b"pre" => Gap::Paragraph,
        _ if LINES.contains(&name) => Gap::Line,
        b"td" | b"th" | b"img" => Gap::Space,
        _ => Gap::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(html: &str) -> String {
        to_text(html).0
    }

    #[test]
    fn a_page_is_read_as_a_reader_reads_it() {
        let html =
            "<!doctype html><html><head><title> My\n &amp; your page</title><style>p { color: red }</style>
            <script>if (a < b) document.write('<p>no</p>')</script></head>
            <body><h1>Caf&eacute;</h1><p>One <b>bold</b>\n word.<br>Next line<p>Two<!-- not this -->
            <ul><li>first<li>second</ul><table><tr><td>a<td>b<tr><td>c</table>
            <pre>  kept\n    as it is</pre>end";
        let (text, title) = to_text(html);
        assert_eq!(title.as_deref(), Some("My & your page"));
        assert_eq!(
            text,
            "Café\n\nOne bold word.\nNext line\n\nTwo\n\nfirst\nsecond\n\na b\nc\n\n  kept\n    as it is\n\nend"
        );
    }

    #[test]
    fn pages_that_are_broken_or_deep_are_read_too() {
        assert_eq!(text("a</p></p><b>b &lt;&#0;&bogus; <"), "a\n\nb <\u{fffd}&bogus; <");
        assert_eq!(text("<script>never closed"), "");
        assert_eq!(text("<p attr='never closed"), "");
        assert_eq!(text("</pre></pre>x  y"), "x y");
        assert_eq!(text(&format!("{}deep", "<div><pre>".repeat(100_000))), "deep");
        let long = "界é👾 ".repeat(50_000);
        assert_eq!(text(&format!("<p>{long}")), long.trim_end());
    }
}
