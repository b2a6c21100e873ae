//! Parses the MovieLens format, line by line: `movieId,title,genres`, the year in parentheses at the title's end, the
//! genres separated by `|`. It knows no database.

use crate::problems::Problems;
use crate::services::movies::{GENRES, YEARS, is_visible};
use csv::ByteRecord;
use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::rc::Rc;

/// The required first line.
const HEADER: [&str; 3] = ["movieId", "title", "genres"];
/// What the file has for a movie without genres.
const NO_GENRES: &str = "(no genres listed)";
/// The most bytes of a record: after a missing closing quote the rest of the file would be read as one field.
const RECORD_LIMIT: u64 = 1024 * 1024;

/// A movie on one line, borrowed from the file's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MovieLine<'a> {
    pub(crate) movie_id: i32,
    pub(crate) title: &'a str,
    pub(crate) year: Option<i32>,
    pub(crate) genres: Vec<&'a str>,
}

/// Reads a file movie by movie. It uses the memory of one record, and some bytes for each movie's id and line, so
/// that a duplicate id can name the first line.
pub(crate) struct MovieFile<R> {
    records: csv::Reader<Metered<R>>,
    record: ByteRecord,
    bytes: Rc<Cell<u64>>,
    lines: HashMap<i32, u64>,
    problems: Problems,
    is_header_read: bool,
}

impl<R: Read> MovieFile<R> {
    pub(crate) fn new(input: R) -> MovieFile<R> {
        let bytes = Rc::new(Cell::new(0));
        let record_start = Rc::new(Cell::new(0));
        let metered = Metered { input, bytes: Rc::clone(&bytes), record_start, has_ended: false };
        let records = csv::ReaderBuilder::new()
            .has_headers(false)
            // We report a wrong number of fields ourselves: csv would stop at the first.
            .flexible(true)
            // By default csv takes CR LF for the end of a line and the start of the next one, so that every record
            // has the number of the line before.
            .terminator(csv::Terminator::Any(b'\n'))
            .buffer_capacity(64 * 1024)
            .from_reader(metered);
        MovieFile {
            records,
            record: ByteRecord::new(),
            bytes,
            lines: HashMap::new(),
            problems: Problems::default(),
            is_header_read: false,
        }
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// The problems of the lines so far.
    pub(crate) fn into_problems(self) -> Problems {
        self.problems
    }

    /// Whether all lines so far were valid.
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// Reads to the next valid line; `None` at the end, or if the rest cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<MovieLine<'_>>> {
        if !self.is_header_read {
            self.is_header_read = true;
            if !self.read_header()? {
                return Ok(None);
            }
        }
        loop {
            if !self.read_record()? {
                if self.lines.is_empty() && self.is_good() {
                    self.add_problem(1, "the file has a header and no movies");
                }
                return Ok(None);
            }
            let line = self.record.position().map_or(0, csv::Position::line);
            match parse_line(&self.record) {
                Err(what) => self.add_problem(line, &what),
                Ok(movie) => match self.lines.insert(movie.movie_id, line) {
                    None => break,
                    Some(first) => {
                        let what = format!("movie id {} is on line {first} already", movie.movie_id);
                        self.add_problem(line, &what);
                    }
                },
            }
        }
        // Parsed twice, because the borrow checker does not see that returning from the loop ends the borrow.
        Ok(parse_line(&self.record).ok())
    }

    fn add_problem(&mut self, line: u64, what: &str) {
        self.problems.add(format!("line {line}: {what}"));
    }

    fn read_header(&mut self) -> io::Result<bool> {
        if !self.read_record()? {
            let what = format!("the file is empty, its first line must be {}", HEADER.join(","));
            self.add_problem(1, &what);
            return Ok(false);
        }
        let found: Vec<_> = fields(&self.record).map(String::from_utf8_lossy).collect();
        // Some editors write a byte order mark first.
        let is_right = found.len() == HEADER.len()
            && found.iter().zip(HEADER).all(|(found, name)| found.trim_start_matches('\u{feff}') == name);
        if !is_right {
            let what = format!("the header must be {}, not {}", HEADER.join(","), quoted(&found.join(",")));
            self.add_problem(1, &what);
        }
        Ok(is_right)
    }

    /// Reads the next record that is no empty line; `false` at the end.
    fn read_record(&mut self) -> io::Result<bool> {
        loop {
            let start = self.records.position().line();
            self.records.get_ref().record_start.set(self.bytes.get());
            match self.records.read_byte_record(&mut self.record).map_err(csv::Error::into_kind) {
                Ok(true) if fields(&self.record).eq([b""]) => {}
                Ok(more) => return Ok(more),
                Err(csv::ErrorKind::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                    let what = format!("more than {} KiB: is a closing quote missing?", RECORD_LIMIT / 1024);
                    self.add_problem(start, &what);
                    return Ok(false);
                }
                Err(csv::ErrorKind::Io(error)) => return Err(error),
                Err(other) => return Err(io::Error::other(format!("{other:?}"))),
            }
        }
    }
}

/// Counts the bytes that are read, refuses records that are too long, and ends the last line.
struct Metered<R> {
    input: R,
    bytes: Rc<Cell<u64>>,
    /// The count at the start of the current record.
    record_start: Rc<Cell<u64>>,
    has_ended: bool,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.get() - self.record_start.get() > RECORD_LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.input.read(buffer)?;
        self.bytes.set(self.bytes.get() + read as u64);
        if read == 0 && !self.has_ended && !buffer.is_empty() {
            // csv takes the end of the file as the end of an open quote. One more line break makes such a field
            // contain a line break, which is refused; without an open quote it is an empty line.
            self.has_ended = true;
            buffer[0] = b'\n';
            return Ok(1);
        }
        Ok(read)
    }
}

/// The fields of a record, without the CR of a CR LF.
fn fields(record: &ByteRecord) -> impl Iterator<Item = &[u8]> {
    let last = record.len().saturating_sub(1);
    record.iter().enumerate().map(move |(index, field)| match field.strip_suffix(b"\r") {
        Some(field) if index == last => field,
        _ => field,
    })
}

/// Parses one record; the error says what is wrong and what would be right.
fn parse_line(record: &ByteRecord) -> Result<MovieLine<'_>, String> {
    if fields(record).any(|field| field.contains(&b'\n') || field.contains(&b'\r')) {
        return Err("a line break inside a field: is a closing quote missing?".to_owned());
    }
    let mut fields = fields(record);
    let (Some(movie_id), Some(title), Some(genres), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        let (found, s) = (record.len(), if record.len() == 1 { "" } else { "s" });
        return Err(format!("{found} field{s} instead of {}: {}", HEADER.len(), HEADER.join(",")));
    };
    let movie_id = parse_id(text(movie_id, "movieId")?)?;
    let (title, year) = split_year(text(title, "title")?.trim());
    if title.is_empty() {
        return Err("the title is empty".to_owned());
    }
    if title.contains(char::is_control) {
        return Err(format!("the title {} contains a control character", quoted(title)));
    }
    if !is_visible(title) {
        return Err(format!("the title {} has no visible character", quoted(title)));
    }
    Ok(MovieLine { movie_id, title, year, genres: parse_genres(text(genres, "genres")?)? })
}

fn text<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str, String> {
    str::from_utf8(bytes)
        .map_err(|_| format!("{name} is not UTF-8: {}", quoted(&String::from_utf8_lossy(bytes))))
}

fn parse_id(text: &str) -> Result<i32, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(id) if is_number && id > 0 => Ok(id),
        _ => Err(format!("movie id {}: must be a whole number from 1 to {}", quoted(text), i32::MAX)),
    }
}

/// `Toy Story (1995)` → `Toy Story` and 1995. Any other text is a title as it is, also if only the year would remain.
fn split_year(text: &str) -> (&str, Option<i32>) {
    let split = || {
        let (title, year) = text.strip_suffix(')')?.rsplit_once('(')?;
        let is_year = year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit());
        let year = year.parse().ok().filter(|year| is_year && YEARS.contains(year))?;
        let title = title.trim_end();
        (!title.is_empty()).then_some((title, Some(year)))
    };
    split().unwrap_or((text, None))
}

fn parse_genres(text: &str) -> Result<Vec<&str>, String> {
    if text == NO_GENRES {
        return Ok(Vec::new());
    }
    let genres: Vec<_> = text.split('|').collect();
    for (index, genre) in genres.iter().enumerate() {
        if !GENRES.contains(genre) {
            return Err(format!(
                "genre {}: must be {NO_GENRES} or, separated by |, some of {}",
                quoted(genre),
                GENRES.join(" ")
            ));
        }
        if genres[..index].contains(genre) {
            return Err(format!("genre {} is given twice", quoted(genre)));
        }
    }
    Ok(genres)
}

/// Text from a file for a message: short, and without control characters, which could move a terminal's cursor.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let start: String = text.chars().take(SHOWN).collect();
    let dots = if start.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", start.escape_debug())
}

#[cfg(test)]
mod tests;
