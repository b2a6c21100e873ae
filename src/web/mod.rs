//! For any actix-web app: the bridge from async handlers to blocking code, bearer tokens, request deadlines and ids, the health
//! routes, metrics, a live page, and the mapping from errors to HTTP responses.
//!
//! It knows nothing of the reference service: no route, table or type of it. The table of errors and their statuses is at
//! [`ApiError`].
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web::Json};
//! use poolhouse::web::{ApiError, BearerAuth, blocking, health_routes, json_errors};
//! use poolhouse::{DatabasePool, Settings};
//! use std::time::Duration;
//!
//! async fn years() -> Result<Json<Vec<i32>>, ApiError> {
//!     let sql = "SELECT DISTINCT year FROM movies WHERE year IS NOT NULL ORDER BY year";
//!     Ok(Json(blocking(move || poolhouse::execute_query(sql, &[])).await?))
//! }
//!
//! // A plain `fn main`: the pool is opened before the actix system starts, and closed after it has ended.
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let settings = Settings::load()?;
//!     DatabasePool::initialize(&settings.pool)?;
//!     let auth = BearerAuth::new(settings.http.tokens);
//!     let app = move || {
//!         App::new()
//!             .configure(json_errors)
//!             .configure(health_routes(DatabasePool, auth.clone()))
//!             .route("/years", actix_web::web::get().to(years))
//!     };
//!     actix_web::rt::System::new()
//!         .block_on(async { HttpServer::new(app).bind(settings.http.bind)?.run().await })?;
//!     DatabasePool::close(Duration::from_secs(5));
//!     Ok(())
//! }
//! ```

mod api_error;
mod bearer_auth;
mod bridge;
mod dashboard;
mod health_routes;
mod health_series;
mod input;
mod metrics_routes;
mod observe;
mod request_deadline;
mod request_metrics;
mod request_scope;

pub use api_error::ApiError;
pub use bearer_auth::{BearerAuth, BearerAuthService, TokenName};
pub use bridge::{
    BlockingLimits, BodyWriter, StreamedBody, blocking, execute_query, execute_query_one, limit_blocking,
    stream_body,
};
pub use dashboard::dashboard_routes;
pub use health_routes::{HealthRoutes, WatchedPool, health_routes};
pub use input::{MAX_BODY, json_errors, json_errors_up_to, method_not_allowed, read};
pub use metrics_routes::metrics_routes;
pub use observe::observe_requests;
pub use request_deadline::{RequestDeadline, RequestDeadlineService};
pub use request_metrics::RequestCollector;
pub use request_scope::{RequestId, request_id};
