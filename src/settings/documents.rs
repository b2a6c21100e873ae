//! The settings of the reference service's documents: how large one may be, and how its text is split.

use crate::error::{Result, SettingsError};
use crate::settings::reader::Reader;
use crate::settings::tier::Tier;
use crate::settings::variables::{
    DOCUMENT_CHUNK_BYTES, DOCUMENT_MAX_BYTES, DOCUMENT_OVERLAP_BYTES, Variable,
};
use std::collections::BTreeMap;

/// How large a document of the reference service may be, and how its text is split into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentSettings {
    /// `DOCUMENT_MAX_BYTES`: the largest document, in bytes.
    pub max_bytes: u32,
    /// `DOCUMENT_CHUNK_BYTES`: the longest chunk, in bytes of UTF-8.
    pub chunk_bytes: u32,
    /// `DOCUMENT_OVERLAP_BYTES`: how much of a chunk's end the next one may repeat, in bytes.
    pub overlap_bytes: u32,
}

impl DocumentSettings {
    /// Checks values that were changed in code, by the same rules as the variables.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): every value out of range.
    pub fn validate(&self) -> Result<()> {
        let mut reader = Reader::new(Tier::Dev, BTreeMap::new());
        for (variable, value) in self.rows() {
            if !variable.allowed.has_count(value) {
                reader.report(variable, value.to_string(), variable.allowed());
            }
        }
        self.compare(&mut reader);
        let problems = reader.finish().1;
        if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems }.into()) }
    }

    fn rows(&self) -> [(&'static Variable, u32); 3] {
        [
            (&DOCUMENT_MAX_BYTES, self.max_bytes),
            (&DOCUMENT_CHUNK_BYTES, self.chunk_bytes),
            (&DOCUMENT_OVERLAP_BYTES, self.overlap_bytes),
        ]
    }

    /// Reports values that contradict one another, unless they have a problem already.
    fn compare(&self, reader: &mut Reader) {
        let [(max, _), (chunk, _), (overlap, _)] = self.rows();
        if self.chunk_bytes > self.max_bytes && !reader.has_problem(&[max, chunk]) {
            let allowed = format!("at most {}, the value of {}", self.max_bytes, max.name);
            reader.report(chunk, self.chunk_bytes.to_string(), allowed);
        }
        let half = self.chunk_bytes / 2;
        if self.overlap_bytes > half && !reader.has_problem(&[chunk, overlap]) {
            let allowed = format!("at most {half}, half of {}", chunk.name);
            reader.report(overlap, self.overlap_bytes.to_string(), allowed);
        }
    }
}

pub(super) fn read(reader: &mut Reader) -> DocumentSettings {
    let settings = DocumentSettings {
        max_bytes: reader.count(&DOCUMENT_MAX_BYTES),
        chunk_bytes: reader.count(&DOCUMENT_CHUNK_BYTES),
        overlap_bytes: reader.count(&DOCUMENT_OVERLAP_BYTES),
    };
    settings.compare(reader);
    settings
}
