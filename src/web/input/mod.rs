//! Responses to malformed requests that reach no handler, as the same JSON as every other error.

use crate::web::ApiError;
use actix_web::error::{JsonPayloadError, PathError, PayloadError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::web::{self, JsonConfig, PathConfig, QueryConfig, ServiceConfig};
use actix_web::{HttpRequest, Route, guard};
use serde_json::error::Category;
use std::io;

/// The largest JSON body that [`json_errors`] accepts, in bytes: 1 MiB.
pub const MAX_BODY: usize = 1024 * 1024;

/// Makes the responses to malformed requests JSON: `App::new().configure(poolhouse::web::json_errors)`.
///
/// | the request | status | code |
/// |---|---|---|
/// | no such path | 404 | `not_found` |
/// | body not complete at the [request's deadline](super::RequestDeadline) | 408 | `body_timeout` |
/// | body above [`MAX_BODY`], or the limit of [`json_errors_up_to`] | 413 | `too_large` |
/// | body not declared as JSON | 415 | `unsupported_media_type` |
/// | body that is not JSON (the message has line and column), or is incomplete | 400 | `invalid_json`, `broken_body` |
/// | JSON, path or query string that does not fit the handler's type | 422 | `invalid` |
///
/// Each resource responds to a wrong method itself: see [`method_not_allowed`]. The same responses for a resource's own
/// configuration are [`ApiError`]'s conversions from actix-web's errors:
/// `JsonConfig::default().limit(200).error_handler(|error, _| ApiError::from(error).into())`.
pub fn json_errors(config: &mut ServiceConfig) {
    json_errors_up_to(MAX_BODY)(config);
}

/// Does what [`json_errors`] does, and accepts JSON bodies of up to `max_body` bytes:
/// `App::new().configure(json_errors_up_to(64 * 1024))`.
pub fn json_errors_up_to(max_body: usize) -> impl FnOnce(&mut ServiceConfig) + Copy + Send + 'static {
    move |config| {
        config
            .app_data(
                JsonConfig::default().limit(max_body).error_handler(|error, _| ApiError::from(error).into()),
            )
            .app_data(PathConfig::default().error_handler(|error, _| ApiError::from(error).into()))
            .app_data(QueryConfig::default().error_handler(|error, _| ApiError::from(error).into()))
            .default_service(web::to(no_such_path));
    }
}

/// Returns a route for `GET` and `HEAD`, both of which every server must support (RFC 9110, section 9.1).
pub fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// Returns a route for a resource's `default_service`: 405 `method_not_allowed`, with the methods in `Allow`.
///
/// # Panics
///
/// At the first such request, if `allow` is not a valid header value.
pub fn method_not_allowed(allow: &'static str) -> Route {
    web::to(move |request: HttpRequest| async move {
        // Truncated: a method is as long as the client makes it.
        let message = format!("{:.20} is not possible here, only {allow}", request.method().as_str());
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        Err::<(), _>(error.with_allow(allow))
    })
}

async fn no_such_path(request: HttpRequest) -> Result<(), ApiError> {
    // Truncated: a path is as long as the client makes it.
    let path: String = request.path().chars().take(100).collect();
    Err(ApiError::not_found(format!("there is nothing at {path}")))
}

impl From<JsonPayloadError> for ApiError {
    fn from(error: JsonPayloadError) -> ApiError {
        body_error(&error)
    }
}

impl From<PathError> for ApiError {
    fn from(error: PathError) -> ApiError {
        path_error(&error)
    }
}

impl From<QueryPayloadError> for ApiError {
    fn from(error: QueryPayloadError) -> ApiError {
        query_error(&error)
    }
}

fn body_error(error: &JsonPayloadError) -> ApiError {
    match error {
        JsonPayloadError::OverflowKnownLength { limit, .. } | JsonPayloadError::Overflow { limit } => {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                format!("the body is larger than {limit} bytes"),
            )
        }
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
