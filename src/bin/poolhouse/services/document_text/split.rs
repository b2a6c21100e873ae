//! Splits a text into chunks: at the end of a paragraph, else of a sentence, else of a word, else between characters.
//!
//! The time is linear in the text's length, whatever its content: each chunk looks at one window of the chunk size, and
//! the end advances by at least a quarter of it.

use std::ops::Range;
use unicode_segmentation::UnicodeSegmentation;

/// Where a chunk may end, within its window.
struct Boundaries {
    paragraphs: Vec<usize>,
    sentences: Vec<usize>,
    words: Vec<usize>,
}

/// The ranges of the chunks of `text`. Each has at most `size` bytes, and neither begins nor ends with white space; the next
/// one repeats at most `overlap` bytes of it. Together they hold every other character.
///
/// `size` is at least 64 and `overlap` at most half of it, as the settings ensure.
pub(super) fn split(text: &str, size: usize, overlap: usize) -> Vec<Range<usize>> {
    let (length, mut start, mut earlier_end) = (text.trim_end().len(), skip_space(text, 0), 0);
    let mut chunks = Vec::new();
    while start < length {
        if length - start <= size {
            chunks.push(start..length);
            break;
        }
        let window = &text[start..text.floor_char_boundary(start + size)];
        let boundaries = Boundaries::of(window);
        // Not too early, so that chunks are not short and each one ends well after the one before.
        let earliest = (size / 2).max((earlier_end + size / 4).saturating_sub(start));
        let end = boundaries.last_from(earliest).or_else(|| last_character(window, earliest));
        let end = start + end.unwrap_or(window.len());
        let trimmed = start + text[start..end].trim_end().len();
        if trimmed > start {
            chunks.push(start..trimmed);
        }
        earlier_end = end;
        let repeated = boundaries.first_between((end - start) - overlap.min(end - start), end - start);
        start = skip_space(text, repeated.map_or(end, |at| start + at));
    }
    chunks
}

/// The position of the first character from `start` that is no white space.
fn skip_space(text: &str, start: usize) -> usize {
    start + (text[start..].len() - text[start..].trim_start().len())
}

impl Boundaries {
    fn of(window: &str) -> Boundaries {
        let after = |(at, part): (usize, &str)| at + part.len();
        Boundaries {
            paragraphs: paragraph_ends(window),
            sentences: window.split_sentence_bound_indices().map(after).collect(),
            words: window.split_word_bound_indices().map(after).collect(),
        }
    }

    /// The last boundary of the best kind at or after `earliest`. The end of the window is none: it is there only because the
    /// chunk size is used up.
    fn last_from(&self, earliest: usize) -> Option<usize> {
        [&self.paragraphs, &self.sentences, &self.words].into_iter().find_map(|kind| {
            let inside = kind.split_last().map_or(&[][..], |(_, inside)| inside);
            inside.last().copied().filter(|at| *at >= earliest)
        })
    }

    /// The first beginning of a sentence from `first` on and before `end`, else that of a word.
    fn first_between(&self, first: usize, end: usize) -> Option<usize> {
        [&self.sentences, &self.words].into_iter().find_map(|kind| {
            let index = kind.partition_point(|at| *at < first);
            kind.get(index).copied().filter(|at| *at < end)
        })
    }
}

/// Where blank lines end, and then the end of the window.
fn paragraph_ends(window: &str) -> Vec<usize> {
    let mut ends = Vec::new();
    let (mut at, mut is_blank) = (0, true);
    for line in window.split_inclusive('\n') {
        let was_blank = is_blank;
        is_blank = line.trim().is_empty();
        if was_blank && !is_blank && at > 0 {
            ends.push(at);
        }
        at += line.len();
    }
    ends.push(window.len());
    ends
}

/// Where the window's last user-perceived character begins, if that is not before `earliest`: the window may end inside it.
fn last_character(window: &str, earliest: usize) -> Option<usize> {
    window.grapheme_indices(true).next_back().map(|(at, _)| at).filter(|at| *at >= earliest && *at > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str, size: usize, overlap: usize) -> Vec<&str> {
        split(text, size, overlap).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn a_text_is_split_between_paragraphs_then_sentences_then_words() {
        let one = "The first paragraph has some forty bytes.";
        let two = "The second one is about as long. It has two sentences in it.";
        assert_eq!(texts(&format!("{one}\n \n{two}\n"), 70, 0), [one, two]);
        assert_eq!(
            texts(two.replace(" It", "  It").as_str(), 60, 0),
            ["The second one is about as long.", "It has two sentences in it."]
        );
        let words = "word ".repeat(30);
        assert!(texts(&words, 64, 0).iter().all(|chunk| chunk.len() <= 64 && chunk.ends_with("word")));
    }

    #[test]
    fn a_chunk_begins_with_whole_sentences_of_the_one_before() {
        let text = "One is here now. Two is here now. Three is here now. Four is here now. Five is here now.";
        let chunks = texts(text, 64, 30);
        assert_eq!(chunks[0], "One is here now. Two is here now. Three is here now.");
        assert!(chunks[1].starts_with("Three is here now. Four"), "{chunks:?}");
    }

    #[test]
    fn a_character_is_never_split() {
        let family = "👨\u{200d}👩\u{200d}👧";
        for chunk in texts(&family.repeat(40), 64, 0) {
            assert!(chunk.len() <= 64 && chunk.starts_with('👨') && chunk.ends_with('👧'), "{chunk}");
        }
        // One that is longer than a chunk is split between code points.
        let stacked = format!("e{}", "\u{301}".repeat(500));
        assert_eq!(texts(&stacked, 64, 0).concat(), stacked);
    }

    proptest! {
        #[test]
        fn every_text_is_covered_by_chunks_that_fit(
            text in "([a-z]{1,9}|[0-9]|[.!?] |\\n|\\n\\n| |é|界|👨\u{200d}👩|\u{301}|\u{3000}|\r\n){0,150}",
            size in 64..200_usize,
            part in 0..=100_usize,
        ) {
            let chunks = split(&text, size, size / 2 * part / 100);
            let mut covered = 0;
            for chunk in &chunks {
                let piece = &text[chunk.clone()];
                prop_assert!(!piece.is_empty() && piece.len() <= size && piece == piece.trim());
                prop_assert!(chunk.end > covered, "each chunk has something new");
                if chunk.start > covered {
                    prop_assert!(text[covered..chunk.start].trim().is_empty(), "left out");
                } else {
                    prop_assert!(covered - chunk.start <= size / 2 * part / 100, "repeats too much");
                }
                covered = chunk.end;
            }
            prop_assert!(text[covered..].trim().is_empty());
        }
    }
}
