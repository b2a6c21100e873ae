//! Bearer tokens (RFC 6750): who may call a guarded route.

use crate::settings::ApiToken;
use crate::web::ApiError;
use crate::web::log_throttle::LogThrottle;
use actix_web::HttpMessage;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// Middleware that lets a request pass only with one of the accepted bearer tokens. Wrap an app, a scope, a
/// resource or a single route in it; cloning is cheap, and clones share their tokens.
///
/// Tokens are compared in constant time: the SHA-256 of the presented one with every accepted one, each time.
/// Logs name the token that was used (`debug`), never its text. A handler behind it can read
/// [`TokenName`] from the request's extensions.
///
/// Every refusal is a 401 with `WWW-Authenticate`, in the three cases of RFC 6750, section 3.1: no
/// credentials (no error named), a malformed header (`invalid_request`; the RFC would answer 400, this
/// answers 401 so that every client asks for a token), a wrong token (`invalid_token`). With no accepted
/// token at all everything is refused.
///
/// # Examples
///
/// ```
/// use actix_web::{App, HttpResponse, web};
/// use poolhouse::{settings::ApiToken, web::BearerAuth};
///
/// # let tokens: Vec<ApiToken> = Vec::new();
/// let auth = BearerAuth::new(tokens);
/// let app = App::new().service(
///     web::resource("/api/things")
///         .route(web::get().to(|| async { "for everybody" }))
///         .route(web::post().to(HttpResponse::Created).wrap(auth.clone())),
/// );
/// ```
#[derive(Clone)]
pub struct BearerAuth {
    accepted: Arc<Accepted>,
}

/// The name of the token that let a request pass, in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName(pub Arc<str>);

struct Accepted {
    tokens: Vec<(Arc<str>, [u8; 32])>,
    /// So that guessing is seen in the log and does not fill it.
    refusals: LogThrottle,
}

impl BearerAuth {
    /// Accepts these tokens.
    pub fn new(tokens: impl IntoIterator<Item = ApiToken>) -> BearerAuth {
        let tokens = tokens.into_iter().map(|token| (token.name.into(), token.sha256)).collect();
        BearerAuth {
            accepted: Arc::new(Accepted { tokens, refusals: LogThrottle::new(Duration::from_secs(10)) }),
        }
    }

    /// The name of the accepted token that these headers carry.
    fn check(&self, headers: &HeaderMap) -> Result<Arc<str>, Refusal> {
        let token = presented(headers)?;
        let digest: [u8; 32] = Sha256::digest(token).into();
        // Every entry is compared and the last match kept without a branch: how long this takes says neither
        // whether nor which token matched.
        let mut matched = u32::MAX;
        for (index, (_, sha256)) in (0..).zip(&self.accepted.tokens) {
            matched.conditional_assign(&index, sha256.ct_eq(&digest));
        }
        match self.accepted.tokens.get(matched as usize) {
            Some((name, _)) => Ok(name.clone()),
            None => Err(Refusal::WrongToken),
        }
    }
}

/// The token a request presents, as bytes: what it may consist of is for the comparison to find out.
fn presented(headers: &HeaderMap) -> Result<&[u8], Refusal> {
    let mut all = headers.get_all(AUTHORIZATION);
    let header = all.next().ok_or(Refusal::NoCredentials)?.as_bytes();
    if all.next().is_some() {
        return Err(Refusal::Malformed);
    }
    let scheme_end = header.iter().position(|byte| *byte == b' ').unwrap_or(header.len());
    let (scheme, token) = header.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Refusal::Malformed);
    }
    match token.trim_ascii() {
        token if token.is_empty() || token.contains(&b' ') => Err(Refusal::Malformed),
        token => Ok(token),
    }
}

/// Why a request does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NoCredentials,
    Malformed,
    WrongToken,
}

impl Refusal {
    fn into_error(self) -> ApiError {
        let (message, challenge) = match self {
            Refusal::NoCredentials => (
                "this needs a token: send the header 'Authorization: Bearer <token>'",
                r#"Bearer realm="poolhouse""#,
            ),
            Refusal::Malformed => (
                "the Authorization header is malformed: send it once, as 'Authorization: Bearer <token>'",
                r#"Bearer realm="poolhouse", error="invalid_request""#,
            ),
            Refusal::WrongToken => {
                ("this token is not accepted", r#"Bearer realm="poolhouse", error="invalid_token""#)
            }
        };
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).with_challenge(challenge)
    }
}

impl<S, B> Transform<S, ServiceRequest> for BearerAuth
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = actix_web::Error;
    type Transform = BearerAuthService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, Self::InitError>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(BearerAuthService { inner, auth: self.clone() }))
    }
}

/// A service behind [`BearerAuth`].
pub struct BearerAuthService<S> {
    inner: S,
    auth: BearerAuth,
}

impl<S, B> Service<ServiceRequest> for BearerAuthService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    forward_ready!(inner);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        match self.auth.check(request.headers()) {
            Ok(name) => {
                // Cut: either may be as long as the server takes it.
                let (method, path) = (request.method().as_str(), request.path());
                log::debug!("{method:.20} {path:.200} with token \"{name}\"");
                request.extensions_mut().insert(TokenName(name));
                let answer = self.inner.call(request);
                Box::pin(async move { answer.await.map(ServiceResponse::map_into_left_body) })
            }
            Err(refusal) => {
                if refusal == Refusal::WrongToken
                    && let Some(count) = self.auth.accepted.refusals.count()
                {
                    let from = request
                        .peer_addr()
                        .map_or_else(String::new, |peer| format!(", the last from {}", peer.ip()));
                    log::warn!("refused requests with a wrong token: {count}{from}");
                }
                let answer = request.error_response(refusal.into_error()).map_into_right_body();
                Box::pin(ready(Ok(answer)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
