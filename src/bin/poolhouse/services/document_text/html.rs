//! HTML to text: what a reader of the page would read, with a blank line between blocks. It builds no tree and keeps no attribute:
//! memory and time are linear in the length of the HTML, however its elements are nested and whatever they have.

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, State, Tokenizer, naive_next_state};

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
    /// Has room for so many bytes.
    fn new(capacity: usize) -> Writer {
        Writer { out: Vec::with_capacity(capacity), gap: Gap::None }
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

    fn into_text(mut self) -> String {
        self.out.shrink_to_fit();
        String::from_utf8(self.out)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// The text of a page, and its title.
pub(super) fn to_text(html: &str) -> (String, Option<String>) {
    let mut page = Page::new(html.len());
    let emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: Span<()>| page.read(&event));
    let mut tokenizer = Tokenizer::new_with_emitter(html, emitter);
    while let Some(Ok(state)) = tokenizer.next() {
        tokenizer.set_state(state);
    }
    drop(tokenizer);
    let title = page.title.into_text();
    (page.text.into_text(), Some(title).filter(|title| !title.is_empty()))
}

/// A page, as far as it is read.
#[derive(Debug)]
struct Page {
    text: Writer,
    title: Writer,
    /// The name of the start tag read last.
    tag: Vec<u8>,
    /// The name of the element whose content is not text of the page; while there is one, others inside it are not looked at.
    inside: Option<Vec<u8>>,
    preformatted: usize,
}

impl Page {
    /// For HTML of so many bytes.
    fn new(length: usize) -> Page {
        let (text, title) = (Writer::new(length), Writer::new(0));
        Page { text, title, tag: Vec::new(), inside: None, preformatted: 0 }
    }

    /// Returns how to read on, where it is not as before: `<` inside a script begins no element.
    fn read(&mut self, event: &CallbackEvent<'_>) -> Option<State> {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                self.tag.clear();
                self.tag.extend_from_slice(name);
                if self.inside.is_none() {
                    self.preformatted += usize::from(*name == b"pre");
                    self.text.widen(gap_around(name));
                }
            }
            // `<script/>` is a whole element in XHTML, and a mistake in HTML.
            CallbackEvent::CloseStartTag { self_closing: true } => {
                self.preformatted -= usize::from(self.tag == b"pre" && self.inside.is_none());
            }
            CallbackEvent::CloseStartTag { self_closing: false } => {
                let name = self.tag.as_slice();
                if self.inside.is_none() && (SKIPPED.contains(&name) || name == b"title") {
                    self.inside = Some(name.to_vec());
                }
                return naive_next_state(name);
            }
            CallbackEvent::EndTag { name } => match &self.inside {
                Some(open) if open == name => self.inside = None,
                Some(_) => {}
                None => {
                    self.preformatted -= usize::from(*name == b"pre" && self.preformatted > 0);
                    self.text.widen(gap_around(name));
                }
            },
            CallbackEvent::String { value } => self.read_words(value),
            _ => {}
        }
        None
    }

    fn read_words(&mut self, words: &[u8]) {
        match &self.inside {
            // Another one belongs to a picture.
            Some(open) if open == b"title" && self.title.out.is_empty() => self.title.write_words(words),
            Some(_) => {}
            None if self.preformatted > 0 => self.text.write_preformatted(words),
            None => self.text.write_words(words),
        }
    }
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
    use proptest::prelude::*;

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
    fn elements_that_close_themselves_hide_nothing() {
        assert_eq!(
            text("<title/>a<script src='x'/><p>b<pre/>c  d</p><style>p {}</style>e"),
            "a\n\nb\n\nc d\n\ne"
        );
        let (text, title) = to_text("<title>One</title><svg><title>Menu</title></svg>Text");
        assert_eq!((text.as_str(), title.as_deref()), ("Text", Some("One")));
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

    proptest! {
        /// `&nGt;` has five bytes and stands for six: the text is at most a small multiple of the page.
        #[test]
        fn no_page_is_too_broken(
            html in "(<|>|/|!--|--|!doctype|\\[CDATA\\[|script|title|pre|template|a='|b=|&|#x?|nGt;|;|\"| |\n|é|[a-z0-9]){0,60}",
        ) {
            let (text, title) = to_text(&html);
            prop_assert!(text.len() + title.map_or(0, |title| title.len()) <= 2 * html.len());
            prop_assert!(!text.contains('\0'));
        }
    }
}
