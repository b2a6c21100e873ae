//! Bearer tokens (RFC 6750): middleware that guards routes.
//!
//! It knows hashes of tokens, never a token, and nothing of the database.

use crate::pool::LogThrottle;
use crate::settings::ApiToken;
use crate::web::ApiError;
use actix_web::HttpMessage;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};
use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// Middleware that accepts a request only with one of the configured bearer tokens. It wraps an app, a scope, a resource or
/// a single route; cloning is cheap, and clones share their tokens.
///
/// Tokens are compared in constant time: the SHA-256 of the presented token is compared with every accepted one. The log has
/// the name of the token that was used (`debug`), never its text. A handler behind the middleware finds [`TokenName`] in the
/// request's extensions.
///
/// Every refusal is a 401 with `WWW-Authenticate`, in the three cases of RFC 6750, section 3.1: no credentials (without an
/// error code), a malformed header (`invalid_request`; the RFC prescribes 400, but with 401 every client asks for a token),
/// and a wrong token (`invalid_token`). Without any configured token, every request is refused.
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
#[derive(Debug, Clone)]
pub struct BearerAuth {
    shared: Arc<AcceptedTokens>,
}

/// Shows the names: the hash of a weak token can be guessed.
impl fmt::Debug for AcceptedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.tokens.iter().map(|(name, _)| name)).finish()
    }
}

/// The name of the token that authorized a request, in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName(pub Arc<str>);

struct AcceptedTokens {
    /// Name and SHA-256 of each.
    tokens: Vec<(Arc<str>, [u8; 32])>,
    /// Reports guessing without filling the log.
    refusals: LogThrottle,
}

impl BearerAuth {
    /// Creates the middleware with these accepted tokens.
    pub fn new(tokens: impl IntoIterator<Item = ApiToken>) -> BearerAuth {
        let tokens = tokens.into_iter().map(|token| (token.name.into(), token.sha256)).collect();
        BearerAuth {
            shared: Arc::new(AcceptedTokens { tokens, refusals: LogThrottle::new(Duration::from_secs(10)) }),
        }
    }

    /// The name of the accepted token in these headers.
    fn check(&self, headers: &HeaderMap) -> Result<Arc<str>, Refusal> {
        let token = presented(headers)?;
        let digest: [u8; 32] = Sha256::digest(token).into();
        // Every entry is compared, and the last match kept without a branch, so that the time taken reveals neither whether
        // nor which token matched.
        let mut matched = u32::MAX;
        for (index, (_, sha256)) in (0..).zip(&self.shared.tokens) {
            matched.conditional_assign(&index, sha256.ct_eq(&digest));
        }
        match self.shared.tokens.get(matched as usize) {
            Some((name, _)) => Ok(name.clone()),
            None => Err(Refusal::WrongToken),
        }
    }
}

/// The token that a request presents, as bytes. Its characters are not checked: a wrong one matches no hash.
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

/// Why a request is refused.
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

/// The service that [`BearerAuth`] wraps around another.
#[derive(Debug)]
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
                // Truncated: both are as long as the client makes them.
                let (method, path) = (request.method().as_str(), request.path());
                log::debug!("{method:.20} {path:.200} with token \"{name}\"");
                request.extensions_mut().insert(TokenName(name));
                let answer = self.inner.call(request);
                Box::pin(async move { answer.await.map(ServiceResponse::map_into_left_body) })
            }
            Err(refusal) => {
                if refusal == Refusal::WrongToken
                    && let Some(count) = self.auth.shared.refusals.count()
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
