//! What a request can get wrong before a handler sees it, answered in the same JSON as everything else.

use crate::web::ApiError;
use actix_web::error::{JsonPayloadError, PathError, PayloadError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::web::{self, JsonConfig, PathConfig, QueryConfig, ServiceConfig};
use actix_web::{HttpRequest, Route, guard};
use serde_json::error::Category;
use std::io;

/// The largest JSON body accepted, in bytes: 1 MiB.
pub const MAX_BODY: usize = 1024 * 1024;

/// Answers bad requests as JSON: `App::new().configure(poolhouse::web::json_errors)`.
///
/// | the request | status | code |
/// |---|---|---|
/// | no such path | 404 | `not_found` |
/// | body not complete at the [request's deadline](super::RequestDeadline) | 408 | `body_timeout` |
/// | body above [`MAX_BODY`] | 413 | `too_large` |
/// | body not declared as JSON | 415 | `unsupported_media_type` |
/// | body that is no JSON (the message has line and column), or breaks off | 400 | `invalid_json`, `broken_body` |
/// | JSON, path or query string of another shape than the handler's type | 422 | `invalid` |
///
/// A wrong method is answered by its resource: see [`method_not_allowed`].
pub fn json_errors(config: &mut ServiceConfig) {
    config
        .app_data(JsonConfig::default().limit(MAX_BODY).error_handler(|error, _| body_error(&error).into()))
        .app_data(PathConfig::default().error_handler(|error, _| path_error(&error).into()))
        .app_data(QueryConfig::default().error_handler(|error, _| query_error(&error).into()))
        .default_service(web::to(no_such_path));
}

/// A route for `GET` and for `HEAD`, which every server must support alike (RFC 9110, section 9.1).
pub fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// For a resource's `default_service`: 405 `method_not_allowed`, with the methods it has in `Allow`.
///
/// # Panics
///
/// At the first such request, where `allow` is no valid header value.
pub fn method_not_allowed(allow: &'static str) -> Route {
    web::to(move |request: HttpRequest| async move {
        // Cut, because a method may be as long as the server takes it.
        let message = format!("{:.20} is not possible here, only {allow}", request.method().as_str());
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        Err::<(), _>(error.with_allow(allow))
    })
}

async fn no_such_path(request: HttpRequest) -> Result<(), ApiError> {
    // Cut, because a path may be as long as the server takes it.
    let path: String = request.path().chars().take(100).collect();
    Err(ApiError::not_found(format!("there is nothing at {path}")))
}

fn body_error(error: &JsonPayloadError) -> ApiError {
    match error {
        JsonPayloadError::OverflowKnownLength { .. } | JsonPayloadError::Overflow { .. } => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body is larger than {MAX_BODY} bytes"),
        ),
        JsonPayloadError::ContentType => ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the body as JSON, with 'Content-Type: application/json'",
        ),
        JsonPayloadError::Deserialize(error) => match error.classify() {
            Category::Data => ApiError::invalid(format!("the body does not fit: {error}")),
            _ => ApiError::bad_request("invalid_json", format!("the body is not valid JSON: {error}")),
        },
        JsonPayloadError::Payload(PayloadError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            let message = "the body was not complete at the request's deadline";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
        }
        _ => ApiError::bad_request("broken_body", "the body could not be read to its end"),
    }
}

fn path_error(error: &PathError) -> ApiError {
    match error {
        PathError::Deserialize(error) => ApiError::invalid(format!("the path does not fit: {error}")),
        _ => ApiError::invalid("the path does not fit"),
    }
}

fn query_error(error: &QueryPayloadError) -> ApiError {
    match error {
        QueryPayloadError::Deserialize(error) => {
            ApiError::invalid(format!("the query string does not fit: {error}"))
        }
        _ => ApiError::invalid("the query string does not fit"),
    }
}

#[cfg(test)]
mod tests;
