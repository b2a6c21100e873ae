//! What surrounds every request: an id, its route in log lines, and a count for the metrics.

use crate::web::request_metrics::Counted;
use crate::web::request_scope::{HEADER, Scope, within};
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

/// Gives each request an id, names its route in log lines, and counts it. Mount it as the app's outermost middleware, which is the one
/// wrapped last: `App::new().wrap(actix_web::middleware::from_fn(observe_requests))`.
///
/// - The id is that of the request's header `X-Request-Id`, where it is safe; otherwise one is made. It is in the header of the same
///   name of the response, and [`request_id`](super::request_id) returns it wherever the request is worked on.
/// - The log lines of [`ApiError`](super::ApiError) name method and pattern, as in `(GET /api/movies/{movie_id})`.
/// - [`metrics_routes`](super::metrics_routes) and [`RequestCollector`](super::RequestCollector) show the requests by method, pattern
///   and status.
///
/// # Errors
///
/// Those of the service behind it.
pub async fn observe_requests<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let scope = Arc::new(Scope::of(&request));
    let counted = Counted::begin(scope.clone());
    // A middleware may do its work in the call itself, before its future is polled.
    let mut service = pin!(within(Some(scope.clone()), || next.call(request)));
    let mut outcome = poll_fn(|context| within(Some(scope.clone()), || service.as_mut().poll(context))).await;
    counted.end(match &outcome {
        Ok(response) => response.status().as_u16(),
        Err(error) => error.as_response_error().status_code().as_u16(),
    });
    if let (Ok(response), Some(id)) = (&mut outcome, scope.id.header()) {
        response.headers_mut().insert(HEADER.clone(), id);
    }
    outcome
}
