//! The mapping from errors to HTTP responses. Nothing else in the library chooses a status for a database error.

use crate::error::Error;
use crate::pool::LogThrottle;
use crate::web::request_scope::route;
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error response. Handlers return `Result<_, ApiError>`; every [`Error`](crate::Error) converts into one by the table
/// below.
///
/// The body is `{"error":{"code","message"}}`. Texts of the server and of the driver go to the log, once, when the response is
/// made; the body of a 5xx never contains them.
///
/// | error | status | code | `Retry-After` |
/// |---|---|---|---|
/// | exhausted, suspended, saturated | 503 | `exhausted`, `suspended`, `saturated` | 1 s |
/// | down, closed | 503 | `down`, `closed` | 5 s |
/// | connection lost; a transient SQLSTATE (serialization, deadlock, lock, resources, restart) | 503 | `try_again` | 1 s |
/// | deadline exceeded, cancelled, statement timeout (57014) | 504 | `deadline_exceeded` | – |
/// | outcome unknown | 500 | `outcome_unknown` | – |
/// | unique, foreign key or exclusion violation | 409 | `conflict` | – |
/// | check or not-null violation, a value that the column cannot hold | 422 | `invalid` | – |
/// | everything else, panics included | 500 | `internal` | – |
///
/// A handler with a more specific message (which id is taken, which rule is violated) checks [`Error::constraint`] first and
/// leaves the remaining errors to this table.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    /// One additional header; no response needs two.
    header: Option<(Extra, &'static str)>,
    cause: Option<Cause>,
}

#[derive(Debug, Clone, Copy)]
enum Extra {
    Allow,
    Challenge,
    RetryAfter,
}

impl Extra {
    fn name(self) -> HeaderName {
        match self {
            Extra::Allow => ALLOW,
            Extra::Challenge => WWW_AUTHENTICATE,
            Extra::RetryAfter => RETRY_AFTER,
        }
    }
}

impl ApiError {
    /// Creates a response with this status, a code for programs and a message for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError { status, code, message: message.into(), header: None, cause: None }
    }

    /// Creates a 400, for a request that cannot be parsed.
    pub fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Creates a 404 `not_found`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// Creates a 409 `conflict`.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// Creates a 422 `invalid`, for a well-formed request with a value that is not allowed.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    /// Creates a 500 `internal`. The cause goes to the log and not to the client.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
        let message = "the service failed to answer this request; its log says why";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).caused_by(cause)
    }

    /// Returns the HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the code for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Returns the message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn with_challenge(mut self, challenge: &'static str) -> ApiError {
        self.header = Some((Extra::Challenge, challenge));
        self
    }

    pub(super) fn with_allow(mut self, methods: &'static str) -> ApiError {
        self.header = Some((Extra::Allow, methods));
        self
    }

    /// Creates a 503 with `Retry-After`, for a request that may succeed `retry_after` seconds later.
    pub fn unavailable(code: &'static str, message: &'static str, retry_after: &'static str) -> ApiError {
        let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        error.header = Some((Extra::RetryAfter, retry_after));
        error
    }

    pub(super) fn stopping() -> ApiError {
        ApiError::unavailable("closed", "the service is stopping", "5")
    }

    fn try_again() -> ApiError {
        let message = "the database could not finish this request; its last step was not done";
        ApiError::unavailable("try_again", message, "1")
    }

    pub(super) fn exhausted() -> ApiError {
        ApiError::unavailable("exhausted", "no database connection came free in time", "1")
    }

    pub(super) fn saturated() -> ApiError {
        ApiError::unavailable("saturated", "too many requests wait for the database already", "1")
    }

    pub(super) fn deadline_exceeded() -> ApiError {
        let message = "the database did not answer in time; its last step was not done";
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
    }

    /// For a request whose effect is unknown.
    pub(super) fn deadline_exceeded_outcome_unknown() -> ApiError {
        let message = "no answer in time: a change may or may not have been made; look before trying again";
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
    }

    fn caused_by(mut self, cause: impl Into<Cause>) -> ApiError {
        self.cause = Some(cause.into());
        self
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let answer = match &error {
            Error::Exhausted(_) => ApiError::exhausted(),
            Error::Suspended(_) => {
                ApiError::unavailable("suspended", "the database is under maintenance", "1")
            }
            Error::Saturated(_) => ApiError::saturated(),
            Error::Down(_) => ApiError::unavailable("down", "the database cannot be reached", "5"),
            Error::Authentication(_) => {
                ApiError::unavailable("login_refused", "the database refuses this service's login", "5")
            }
            Error::Closed => ApiError::stopping(),
            // A cancelled request has a response only if its deadline cancelled it; otherwise its client is gone.
            Error::DeadlineExceeded(_) | Error::Cancelled => ApiError::deadline_exceeded(),
            Error::ConnectionLost(_) => ApiError::try_again(),
            Error::OutcomeUnknown(_) => ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "outcome_unknown",
                "the connection broke before the answer came: the change may or may not have been made; look \
                 before trying again",
            ),
            Error::Query(_) => {
                match from_sqlstate(error.sqlstate().unwrap_or_default(), error.is_transient()) {
                    Some(answer) => answer,
                    None => return ApiError::internal(error),
                }
            }
            Error::Application(_) => return from_application(error),
            _ => return ApiError::internal(error),
        };
        answer.caused_by(error)
    }
}

/// The response for a statement that the server rejected; `None` if the SQLSTATE does not show that the request caused it.
fn from_sqlstate(sqlstate: &str, is_transient: bool) -> Option<ApiError> {
    match sqlstate {
        // unique, foreign key, exclusion violation
        "23505" | "23503" | "23P01" => Some(ApiError::conflict("this contradicts what is stored already")),
        // check, not-null violation; too long, out of range, not a date, unreadable text, NUL in a text
        "23514" | "23502" | "22001" | "22003" | "22007" | "22008" | "22P02" | "22021" | "22P05" => {
            Some(ApiError::invalid("the database refuses a value of this request"))
        }
        "57014" => Some(ApiError::deadline_exceeded()),
        _ if is_transient => Some(ApiError::try_again()),
        _ => None,
    }
}

/// Unwraps the response that a handler returned as the error of its transaction.
fn from_application(error: Error) -> ApiError {
    match error {
        Error::Application(own) => match own.downcast::<ApiError>() {
            Ok(answer) => *answer,
            Err(own) => ApiError::internal(own),
        },
        other => ApiError::internal(other),
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.code, self.message)
    }
}

impl std::error::Error for ApiError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: BodyError<'a>,
}

#[derive(Serialize)]
struct BodyError<'a> {
    code: &'a str,
    message: &'a str,
}

/// Responses 503 and 504, reported at most once per second with their number.
static UNAVAILABLE: LazyLock<LogThrottle> = LazyLock::new(|| LogThrottle::new(Duration::from_secs(1)));

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Logs the cause and builds the response. actix-web calls it once per response, so each error is logged once.
    fn error_response(&self) -> HttpResponse {
        if self.status.is_server_error() {
            let cause: &dyn fmt::Display = match &self.cause {
                Some(cause) => cause,
                None => &self.message,
            };
            let status = self.status.as_u16();
            if self.status == StatusCode::INTERNAL_SERVER_ERROR {
                log::error!("answering {status} {}{}: {cause}", self.code, route());
            } else if let Some(count) = UNAVAILABLE.count() {
                // During an outage every request gets this response; one line reports all of them.
                log::warn!(
                    "answering {status} {}{} ({count} such answers since the last line): {cause}",
                    self.code,
                    route()
                );
            }
        }
        let mut response = HttpResponse::build(self.status);
        if let Some((extra, value)) = self.header {
            response.insert_header((extra.name(), HeaderValue::from_static(value)));
        }
        response
            .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
            .json(Body { error: BodyError { code: self.code, message: &self.message } })
    }
}

#[cfg(test)]
mod tests;
