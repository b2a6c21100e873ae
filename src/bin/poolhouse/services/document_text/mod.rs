//! From the bytes of a document to a row and its chunks: decoding, HTML to text, the title, splitting. It knows neither
//! files nor the database's tables.

mod html;
mod split;

use crate::repositories::documents::{NewChunks, NewDocument};
use crate::services::movies::is_visible;
use poolhouse::settings::DocumentSettings;
use sha2::{Digest, Sha256};
use std::fmt;

/// The most characters of a title.
pub(crate) const TITLE_LENGTH: usize = 500;

/// Why bytes are no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotText {
    /// There is no byte.
    Empty,
    /// A NUL, which PostgreSQL cannot store and no text has; its position.
    Binary(usize),
    /// The first bytes are the byte order mark of UTF-16.
    Utf16,
    /// The position of the first byte that is not UTF-8.
    NotUtf8(usize),
    /// White space only, or HTML without text.
    Blank,
}

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotText::Empty => f.write_str("is empty"),
            NotText::Binary(at) => write!(f, "is binary: byte {at} is NUL"),
            NotText::Utf16 => f.write_str("is UTF-16: only UTF-8 is read"),
            NotText::NotUtf8(at) => write!(f, "is not UTF-8: byte {at} is not part of a character"),
            NotText::Blank => f.write_str("has no text"),
        }
    }
}

/// The text of a document as it was sent, with what identifies it.
#[derive(Debug)]
pub(crate) struct Content {
    text: String,
    sha256: [u8; 32],
    byte_length: usize,
}

impl Content {
    /// Decodes bytes as UTF-8. A byte order mark is left out of the text.
    pub(crate) fn decode(bytes: Vec<u8>) -> Result<Content, NotText> {
        if bytes.is_empty() {
            return Err(NotText::Empty);
        }
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err(NotText::Utf16);
        }
        if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
            return Err(NotText::Binary(at));
        }
        let (sha256, byte_length) = (Sha256::digest(&bytes).into(), bytes.len());
        let mut text =
            String::from_utf8(bytes).map_err(|error| NotText::NotUtf8(error.utf8_error().valid_up_to()))?;
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        if text.trim().is_empty() {
            return Err(NotText::Blank);
        }
        Ok(Content { text, sha256, byte_length })
    }

    /// The hash of the bytes.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

/// A document, ready to be written.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) document: NewDocument,
    text: String,
    pieces: Vec<std::ops::Range<usize>>,
}

impl Prepared {
    /// Makes HTML text, finds the title where none is given, and splits the text.
    ///
    /// # Errors
    ///
    /// HTML has no text.
    pub(crate) fn new(
        source: String,
        title: Option<String>,
        media_type: &str,
        content: Content,
        settings: &DocumentSettings,
    ) -> Result<Prepared, NotText> {
        let (text, own_title) = match media_type {
            "text/html" | "application/xhtml+xml" => {
                // Dropped here: the text has taken its place.
                let html = content.text;
                html::to_text(&html)
            }
            "text/markdown" => {
                let title = content.text.lines().find_map(|line| line.strip_prefix("# ")).map(str::to_owned);
                (content.text, title)
            }
            _ => (content.text, None),
        };
        let (size, overlap) = (settings.chunk_bytes as usize, settings.overlap_bytes as usize);
        let pieces = split::split(&text, size, overlap);
        if pieces.is_empty() {
            return Err(NotText::Blank);
        }
        let title = title.or_else(|| own_title.and_then(|title| as_title(&title)));
        let title = title.or_else(|| as_title(source.rsplit('/').find(|part| !part.is_empty())?));
        let document = NewDocument {
            source,
            title: title.unwrap_or_else(|| "untitled".to_owned()),
            media_type: media_type.to_owned(),
            sha256: content.sha256,
            byte_length: column(content.byte_length),
            chunk_bytes: settings.chunk_bytes.cast_signed(),
            overlap_bytes: settings.overlap_bytes.cast_signed(),
        };
        Ok(Prepared { document, text, pieces })
    }

    pub(crate) fn chunks(&self) -> NewChunks<'_> {
        NewChunks {
            starts: self.pieces.iter().map(|piece| column(piece.start)).collect(),
            ends: self.pieces.iter().map(|piece| column(piece.end)).collect(),
            texts: self.pieces.iter().map(|piece| &self.text[piece.clone()]).collect(),
        }
    }
}

/// A number of bytes as the tables store it. The largest document allowed is far below the limit, and HTML's text is at
/// most a small multiple of it.
fn column(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// A title found in a document: on one line, without control characters, not too long; `None` if nothing visible is left.
fn as_title(found: &str) -> Option<String> {
    let words = found.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let title: String = words.collect::<Vec<_>>().join(" ").chars().take(TITLE_LENGTH).collect();
    is_visible(&title).then_some(title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_reason() {
        let refused = |bytes: &[u8]| Content::decode(bytes.to_vec()).unwrap_err();
        assert_eq!(refused(b""), NotText::Empty);
        assert_eq!(refused(b" \r\n\t\xc2\xa0"), NotText::Blank);
        assert_eq!(refused(b"ab\0c"), NotText::Binary(2));
        assert_eq!(refused(b"caf\xe9 au lait"), NotText::NotUtf8(3));
        assert_eq!(refused(b"\xff\xfea\0"), NotText::Utf16);
        assert_eq!(refused(b"\xef\xbb\xbf"), NotText::Blank);
    }

    #[test]
    fn titles_are_made_of_what_can_be_seen() {
        assert_eq!(as_title(" a\n\tb\u{7}c ").as_deref(), Some("a b c"));
        assert_eq!(as_title("\u{200b}\n"), None);
        assert_eq!(as_title(&"界".repeat(600)).map(|title| title.chars().count()), Some(TITLE_LENGTH));
    }
}
