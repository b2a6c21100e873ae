//! The input of the routes below `/api/documents`.

use super::{
    Body, DEFAULT_LIMIT, LIMITS, body_text, fields, none_or_refuse, parameters, printable, search, shown,
    title, whole_number,
};
use crate::problems::Problems;
use crate::services::documents::{Place, Submission};
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use poolhouse::web::ApiError;
use serde_json::error::Category;
use std::future::{Ready, ready};
use std::ops::RangeInclusive;

/// The ids a document may have.
const IDS: RangeInclusive<i64> = 1..=i64::MAX;

/// The most bytes of a source, as in the tables.
const SOURCE_BYTES: usize = 2048;

/// The most characters of a media type.
const MEDIA_TYPE_LENGTH: usize = 100;

const PARAMETERS: [&str; 3] = ["search", "after", "limit"];
const FIELDS: [&str; 4] = ["source", "title", "media_type", "text"];

/// The `{document_id}` of a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DocumentId(pub(crate) i64);

impl FromRequest for DocumentId {
    type Error = ApiError;
    type Future = Ready<Result<DocumentId, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let text = request.match_info().query("document_id");
        ready(whole_number("document_id", text, IDS).map(DocumentId).map_err(ApiError::invalid))
    }
}

/// Which documents a list has.
#[derive(Debug, PartialEq)]
pub(crate) enum DocumentList {
    /// All after this id.
    All { after: i64 },
    /// Those that match, after this place.
    Search { search: String, after: Option<Place> },
}

/// Parses the query string of a list: which documents, and how many. `after` is what the page before has given as
/// `next_after`: a place in a search, an id otherwise.
pub(crate) fn document_list(query: &str) -> Result<(DocumentList, u16), ApiError> {
    let (mut words, mut after, mut limit) = (None, None, DEFAULT_LIMIT);
    let mut is_search = false;
    let read = parameters(query, &PARAMETERS, |name, value, problems| match name {
        "search" => {
            is_search = true;
            words = problems.take(search(value));
        }
        "after" => after = Some(value.to_owned()),
        _ => limit = problems.take(whole_number(name, value, LIMITS)).unwrap_or(limit),
    });
    // What `after` may be is known once all parameters are read.
    let list = match (is_search, after) {
        (false, after) => {
            let after = after.map_or(Ok(0), |text| whole_number("after", &text, 0..=i64::MAX));
            after.map(|after| DocumentList::All { after })
        }
        (true, after) => after
            .map(|text| place(&text))
            .transpose()
            .map(|after| DocumentList::Search { search: words.unwrap_or_default(), after }),
    };
    match (read, list) {
        (Ok(()), Ok(list)) => Ok((list, limit)),
        (Ok(()), Err(problem)) => Err(ApiError::invalid(problem)),
        (Err(error), Ok(_)) => Err(error),
        (Err(error), Err(problem)) => Err(ApiError::invalid(format!("{}; {problem}", error.message()))),
    }
}

fn place(text: &str) -> Result<Place, String> {
    let parsed = text.split_once(',').and_then(|(rank, id)| {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b".e-".contains(&byte));
        let rank = rank.parse::<f32>().ok().filter(|number| is_number(rank) && number.is_finite());
        let document_id = whole_number("after", id, IDS).ok();
        Some(Place { rank: rank?, document_id: document_id? })
    });
    parsed.ok_or_else(|| format!("after: {} is not the next_after of a search", shown(text)))
}

/// Parses the query string of one document: whether its chunks are wanted, which is the default.
pub(crate) fn with_chunks(query: &str) -> Result<bool, ApiError> {
    let mut with_chunks = true;
    parameters(query, &["chunks"], |name, value, problems| match value {
        "true" => with_chunks = true,
        "false" => with_chunks = false,
        _ => problems.add(format!("{name}: {} is neither true nor false", shown(value))),
    })?;
    Ok(with_chunks)
}

/// What the body of a new document is declared as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Json,
    /// The document itself, of this media type.
    Text(String),
}

/// Reads the header `Content-Type`.
pub(crate) fn body_kind(request: &HttpRequest) -> Result<BodyKind, ApiError> {
    let refused = |message: &'static str| {
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    };
    let media_type = request.mime_type().ok().flatten();
    let Some(media_type) = media_type else {
        return Err(refused("send JSON with 'Content-Type: application/json', or a text with 'text/plain'"));
    };
    let charset = media_type.get_param("charset");
    if charset.is_some_and(|charset| charset != "utf-8" && charset != "us-ascii") {
        return Err(refused("send the text as UTF-8"));
    }
    match (media_type.type_().as_str(), media_type.subtype().as_str()) {
        ("application", "json") => Ok(BodyKind::Json),
        ("text", _) => Ok(BodyKind::Text(media_type.essence_str().to_ascii_lowercase())),
        _ => Err(refused("send JSON with 'Content-Type: application/json', or a text with 'text/plain'")),
    }
}

/// Parses a new document in JSON.
pub(crate) fn json_document(body: &[u8]) -> Result<Submission, ApiError> {
    let body: Body = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => ApiError::invalid(format!("the body does not fit: {error}")),
        _ => ApiError::bad_request("invalid_json", format!("the body is not valid JSON: {error}")),
    })?;
    let mut problems = Problems::default();
    let fields = fields(&body, &FIELDS, &mut problems);
    let field = |name| fields.get(name).copied();
    let source = problems.take(body_text("source", field("source")).and_then(source));
    let title = field("title").filter(|value| !value.is_null());
    let title = title.and_then(|value| problems.take(body_text("title", Some(value)).and_then(super::title)));
    let media_type = match field("media_type").filter(|value| !value.is_null()) {
        Some(value) => problems.take(body_text("media_type", Some(value)).and_then(media_type)),
        None => Some("text/plain".to_owned()),
    };
    let text = problems.take(body_text("text", field("text")).and_then(text));
    none_or_refuse(&problems)?;
    Ok(Submission {
        source: source.unwrap_or_default(),
        title,
        media_type: media_type.unwrap_or_default(),
        content: text.unwrap_or_default().into_bytes(),
    })
}

/// Parses a new document that is the body itself; its source and title are in the query string.
pub(crate) fn text_document(
    query: &str,
    media_type: String,
    content: Vec<u8>,
) -> Result<Submission, ApiError> {
    let (mut given_source, mut given_title) = (None, None);
    let mut is_given = false;
    let read = parameters(query, &["source", "title"], |name, value, problems| match name {
        "source" => {
            is_given = true;
            given_source = problems.take(source(value));
        }
        _ => given_title = problems.take(title(value)),
    });
    const MISSING: &str = "source: missing, as in /api/documents?source=https://example.org/page";
    match (read, is_given) {
        (Ok(()), true) => {}
        (Ok(()), false) => return Err(ApiError::invalid(MISSING)),
        (Err(error), true) => return Err(error),
        (Err(error), false) => return Err(ApiError::invalid(format!("{}; {MISSING}", error.message()))),
    }
    Ok(Submission { source: given_source.unwrap_or_default(), title: given_title, media_type, content })
}

/// A source that begins with a slash is a file that `ingest` has loaded, and may replace and remove.
fn source(text: &str) -> Result<String, String> {
    let source = text.trim();
    if source.is_empty() {
        return Err("source: must not be empty".to_owned());
    }
    printable("source", source, SOURCE_BYTES)?;
    match source {
        _ if source.len() > SOURCE_BYTES => {
            Err(format!("source: has {} bytes, at most {SOURCE_BYTES} may be", source.len()))
        }
        _ if source.starts_with('/') => {
            Err(format!("source: {} begins with a slash, as only files do", shown(source)))
        }
        _ => Ok(source.to_owned()),
    }
}

fn media_type(text: &str) -> Result<String, String> {
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let subtype = text.split_once('/').filter(|(kind, _)| kind.eq_ignore_ascii_case("text"));
    match subtype {
        Some((_, subtype)) if is_token(subtype) && text.len() <= MEDIA_TYPE_LENGTH => {
            Ok(text.to_ascii_lowercase())
        }
        _ => Err(format!("media_type: {} is not text/plain, text/markdown, text/html or alike", shown(text))),
    }
}

fn text(text: &str) -> Result<String, String> {
    match text {
        _ if text.trim().is_empty() => Err("text: must not be empty".to_owned()),
        _ if text.contains('\0') => Err("text: has the control character U+0000".to_owned()),
        _ => Ok(text.to_owned()),
    }
}
