//! The routes below `/api/documents`: reading needs no token, writing does.

use crate::http::handlers::input::{self, BodyKind, DocumentId, DocumentList};
use crate::services::documents::{self as service, DocumentError};
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_LENGTH, LOCATION};
use actix_web::web::{self, Data, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use poolhouse::settings::DocumentSettings;
use poolhouse::web::{ApiError, BearerAuth, blocking, method_not_allowed, read};
use std::io;

pub(crate) fn document_routes(
    auth: BearerAuth,
    settings: DocumentSettings,
) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        let all = web::resource("/api/documents")
            .app_data(Data::new(settings))
            .route(read().to(list))
            .route(web::post().to(create).wrap(auth.clone()))
            .default_service(method_not_allowed("GET, HEAD, POST"));
        let one = web::resource("/api/documents/{document_id}")
            .route(read().to(show))
            .route(web::delete().to(remove).wrap(auth))
            .default_service(method_not_allowed("GET, HEAD, DELETE"));
        config.service(all).service(one);
    }
}

async fn list(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let (list, limit) = input::document_list(request.query_string())?;
    Ok(match list {
        DocumentList::All { after } => {
            HttpResponse::Ok().json(blocking(move || service::list_documents(after, limit)).await?)
        }
        DocumentList::Search { search, after } => {
            let page = blocking(move || service::search_documents(&search, after, limit)).await?;
            HttpResponse::Ok().json(page)
        }
    })
}

async fn show(id: DocumentId, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let with_chunks = input::with_chunks(request.query_string())?;
    let document = blocking(move || service::find_document(id.0, with_chunks)).await?;
    Ok(HttpResponse::Ok().json(document))
}

async fn create(
    request: HttpRequest,
    payload: Payload,
    settings: Data<DocumentSettings>,
) -> Result<HttpResponse, ApiError> {
    let kind = input::body_kind(&request)?;
    let settings = **settings;
    let body = read_body(&request, payload, settings.max_bytes as usize).await?;
    let query = request.query_string().to_owned();
    // Parsing and splitting may take as long as a query.
    let document = blocking(move || {
        let submission = match kind {
            // Ignored, they would be lost.
            BodyKind::Json if !query.is_empty() => {
                let message = "a JSON document has no parameters: source and title are members of the body";
                return Err(ApiError::invalid(message));
            }
            BodyKind::Json => input::json_document(&body)?,
            BodyKind::Text(media_type) => input::text_document(&query, media_type, body)?,
        };
        service::add_document(submission, &settings).map_err(ApiError::from)
    })
    .await?;
    let location = format!("/api/documents/{}", document.document_id);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(document))
}

async fn remove(id: DocumentId) -> Result<HttpResponse, ApiError> {
    blocking(move || service::remove_document(id.0)).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Reads a body of at most `limit` bytes. One that is declared as longer is refused before it is read.
async fn read_body(request: &HttpRequest, payload: Payload, limit: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes (DOCUMENT_MAX_BYTES)");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: usize| length > limit) {
        return Err(too_large());
    }
    match payload.to_bytes_limited(limit).await {
        Err(_) => Err(too_large()),
        Ok(Ok(body)) => Ok(body.into()),
        Ok(Err(error)) => Err(match error.as_error::<PayloadError>() {
            Some(PayloadError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                let message = "the body was not complete at the request's deadline";
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
            }
            _ => ApiError::bad_request("broken_body", "the body could not be read to its end"),
        }),
    }
}

impl From<DocumentError> for ApiError {
    fn from(error: DocumentError) -> ApiError {
        match error {
            DocumentError::Unknown(_) => ApiError::not_found(error.to_string()),
            DocumentError::Taken(_) => ApiError::conflict(error.to_string()),
            DocumentError::NotText(_) | DocumentError::NoWords => ApiError::invalid(error.to_string()),
            DocumentError::Invalid(message) => ApiError::invalid(message),
            DocumentError::DiskFull(error) => {
                // The response has no place for the server's text.
                log::warn!("The database's disk is full: {error}");
                ApiError::unavailable("disk_full", "the database's disk is full: nothing was stored", "60")
            }
            DocumentError::Database(error) => error.into(),
        }
    }
}
