//! Parses what clients send into values for the services, or into a 422 that lists every problem. It calls no
//! service.
//!
//! Nothing is repaired: unknown, repeated and mistyped fields are refused. One exception, for HTML forms: a query
//! parameter without a value counts as not given.

mod documents;

pub(crate) use documents::{
    BodyKind, DocumentId, DocumentList, body_kind, document_list, json_document, text_document, with_chunks,
};

use crate::problems::Problems;
use crate::services::movies::{GENRES, Movie, MovieFilter, YEARS, is_visible};
use actix_web::dev::Payload;
use actix_web::web::Query;
use actix_web::{FromRequest, HttpRequest};
use poolhouse::web::ApiError;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::future::{Ready, ready};
use std::ops::RangeInclusive;

/// The number of movies on a page: the range, and the default.
const LIMITS: RangeInclusive<u16> = 1..=100;
const DEFAULT_LIMIT: u16 = 20;

/// The ids a movie may have.
const IDS: RangeInclusive<i32> = 1..=i32::MAX;

/// The most characters of a title and of a search.
const TITLE_LENGTH: usize = 500;
const SEARCH_LENGTH: usize = 200;

/// The most characters of a bad value that a response repeats.
const SHOWN_LENGTH: usize = 40;

const PARAMETERS: [&str; 5] = ["search", "genre", "year", "after", "limit"];
const FIELDS: [&str; 4] = ["movie_id", "title", "year", "genres"];

/// A JSON object as it was sent: a map would silently keep only the last of several fields with one name.
#[derive(Debug)]
pub(crate) struct Body(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Body(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The `{movie_id}` of a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MovieId(pub(crate) i32);

impl FromRequest for MovieId {
    type Error = ApiError;
    type Future = Ready<Result<MovieId, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let text = request.match_info().query("movie_id");
        ready(whole_number("movie_id", text, IDS).map(MovieId).map_err(ApiError::invalid))
    }
}

/// Parses the query string of a list: the filter, and the number of movies.
pub(crate) fn movie_filter(query: &str) -> Result<(MovieFilter, u16), ApiError> {
    let mut filter = MovieFilter::default();
    let mut limit = DEFAULT_LIMIT;
    parameters(query, &PARAMETERS, |name, value, problems| match name {
        "search" => filter.search = problems.take(search(value)),
        "genre" => filter.genre = problems.take(known_genre(value)).map(str::to_owned),
        "year" => filter.year = problems.take(whole_number(name, value, YEARS)),
        "after" => filter.after = problems.take(whole_number(name, value, 0..=i32::MAX)).unwrap_or(0),
        _ => limit = problems.take(whole_number(name, value, LIMITS)).unwrap_or(limit),
    })?;
    Ok((filter, limit))
}

/// Passes each parameter of a query string that has a value to `take`, and refuses unknown and repeated ones.
fn parameters<'a>(
    query: &str,
    known: &[&'a str],
    mut take: impl FnMut(&'a str, &str, &mut Problems),
) -> Result<(), ApiError> {
    let Query(pairs) = Query::<Vec<(String, String)>>::from_query(query)
        .map_err(|error| ApiError::invalid(format!("the query string is malformed: {error}")))?;
    let mut problems = Problems::default();
    let mut given = Vec::new();
    for (name, value) in &pairs {
        match known.iter().find(|known| *known == name) {
            None => problems.add(unknown(name, known)),
            Some(name) if given.contains(name) => problems.add(format!("{name}: given more than once")),
            Some(name) => {
                given.push(*name);
                if !value.is_empty() {
                    take(name, value, &mut problems);
                }
            }
        }
    }
    none_or_refuse(&problems)
}

/// Parses the body of a write. The id is the path's if there is one, and the body may only repeat it.
pub(crate) fn movie(body: &Body, path_id: Option<i32>) -> Result<Movie, ApiError> {
    let mut problems = Problems::default();
    let fields = fields(body, &FIELDS, &mut problems);
    let field = |name| fields.get(name).copied();
    // Parses every field before it returns, so that all problems are reported at once.
    let movie_id = problems.take(body_id(field("movie_id"), path_id));
    let title = problems.take(body_title(field("title")));
    let year = problems.take(body_year(field("year")));
    let genres = problems.take(body_genres(field("genres")));
    none_or_refuse(&problems)?;
    Ok(Movie {
        movie_id: movie_id.unwrap_or_default(),
        title: title.unwrap_or_default(),
        year: year.flatten(),
        genres: genres.unwrap_or_default(),
    })
}

/// The fields of a body by their names. Unknown and repeated ones are problems.
fn fields<'a>(body: &'a Body, known: &[&str], problems: &mut Problems) -> HashMap<&'a str, &'a Value> {
    let mut fields = HashMap::new();
    for (name, value) in &body.0 {
        if !known.contains(&name.as_str()) {
            problems.add(unknown(name, known));
        } else if fields.insert(name.as_str(), value).is_some() {
            problems.add(format!("{name}: given more than once"));
        }
    }
    fields
}

fn unknown(name: &str, known: &[&str]) -> String {
    format!("{}: unknown, known are {}", shown(name), known.join(", "))
}

fn body_id(value: Option<&Value>, path_id: Option<i32>) -> Result<i32, String> {
    match (value, path_id) {
        (None, Some(id)) => Ok(id),
        (None, None) => Err("movie_id: missing".to_owned()),
        (Some(value), None) => json_number("movie_id", value, IDS),
        (Some(value), Some(id)) if whole(value) == Some(i64::from(id)) => Ok(id),
        (Some(value), Some(id)) => Err(format!(
            "movie_id: {} is not the {id} of the path; leave it out, or repeat that",
            shown(value)
        )),
    }
}

fn body_title(value: Option<&Value>) -> Result<String, String> {
    title(body_text("title", value)?)
}

fn body_text<'a>(name: &str, value: Option<&'a Value>) -> Result<&'a str, String> {
    match value {
        None => Err(format!("{name}: missing")),
        Some(Value::String(text)) => Ok(text),
        Some(value) => Err(format!("{name}: {} is not a text", shown(value))),
    }
}

fn title(text: &str) -> Result<String, String> {
    let title = text.trim();
    if title.is_empty() {
        return Err("title: must not be empty".to_owned());
    }
    printable("title", title, TITLE_LENGTH)?;
    if !is_visible(title) {
        return Err("title: has no visible character".to_owned());
    }
    Ok(title.to_owned())
}

fn body_year(value: Option<&Value>) -> Result<Option<i32>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => json_number("year", value, YEARS).map(Some),
    }
}

fn body_genres(value: Option<&Value>) -> Result<Vec<String>, String> {
    let values = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(value) => return Err(format!("genres: {} is not a list of texts", shown(value))),
    };
    let mut genres: Vec<String> = Vec::new();
    for value in values {
        let text = value.as_str().ok_or_else(|| format!("genres: {} is not a text", shown(value)))?;
        let genre = known_genre(text)?;
        if genres.iter().any(|earlier| earlier == genre) {
            return Err(format!("genres: {genre} is given more than once"));
        }
        genres.push(genre.to_owned());
    }
    Ok(genres)
}

/// A search without a letter or digit matches no title.
fn search(text: &str) -> Result<String, String> {
    if !text.contains(char::is_alphanumeric) {
        return Err(format!("search: {} has no letter and no digit", shown(text)));
    }
    printable("search", text, SEARCH_LENGTH)?;
    Ok(text.to_owned())
}

fn known_genre(text: &str) -> Result<&'static str, String> {
    let known = GENRES.into_iter().find(|genre| *genre == text);
    known.ok_or_else(|| format!("genre: {} is unknown, known are {}", shown(text), GENRES.join(", ")))
}

/// Refuses NUL, which PostgreSQL cannot store, and the other control characters, which cannot be read.
fn printable(name: &str, text: &str, longest: usize) -> Result<(), String> {
    if let Some(character) = text.chars().find(|character| character.is_control()) {
        return Err(format!("{name}: has the control character U+{:04X}", u32::from(character)));
    }
    match text.chars().count() {
        length if length > longest => {
            Err(format!("{name}: has {length} characters, at most {longest} may be"))
        }
        _ => Ok(()),
    }
}

fn whole_number<N>(name: &str, text: &str, allowed: RangeInclusive<N>) -> Result<N, String>
where
    N: TryFrom<i64> + PartialOrd + fmt::Display,
{
    let digits = text.strip_prefix('-').unwrap_or(text);
    let number = match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<i64>().ok(),
        false => None,
    };
    within(name, number, &text, allowed)
}

fn json_number(name: &str, value: &Value, allowed: RangeInclusive<i32>) -> Result<i32, String> {
    within(name, whole(value), value, allowed)
}

/// JSON has one type of number: `1995.0` and `1e3` are whole.
fn whole(value: &Value) -> Option<i64> {
    /// Up to here a float represents every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT);
    value.as_i64().or_else(|| float().map(|float| float as i64))
}

fn within<N>(
    name: &str,
    number: Option<i64>,
    given: &dyn fmt::Display,
    allowed: RangeInclusive<N>,
) -> Result<N, String>
where
    N: TryFrom<i64> + PartialOrd + fmt::Display,
{
    let number = number.and_then(|number| N::try_from(number).ok()).filter(|number| allowed.contains(number));
    number.ok_or_else(|| {
        let (first, last) = allowed.into_inner();
        format!("{name}: {} is not a whole number from {first} to {last}", shown(given))
    })
}

/// A value as a response repeats it: quoted, and shortened.
fn shown(value: &(impl fmt::Display + ?Sized)) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_LENGTH) {
        Some((end, _)) => format!("'{}…'", &text[..end]),
        None => format!("'{text}'"),
    }
}

fn none_or_refuse(problems: &Problems) -> Result<(), ApiError> {
    if problems.is_empty() { Ok(()) } else { Err(ApiError::invalid(problems.joined("; "))) }
}

#[cfg(test)]
mod tests;
