//! The health routes, for any app. `crate::health` derives the verdict; this file serves it.

use crate::database_pool::DatabasePool;
use crate::error::{Error, Result};
use crate::health::{HealthReport, HealthStatus};
use crate::pool::{Pool, PoolState};
use crate::query::Execute;
use crate::web::bridge::threads::Load;
use crate::web::bridge::{self, blocking_apart};
use crate::web::{ApiError, BearerAuth, method_not_allowed, read};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, ServiceConfig};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The pool that health routes report on: [`DatabasePool`], initialized before or later, or another [`Pool`].
#[derive(Debug, Clone)]
pub struct WatchedPool(Watched);

#[derive(Debug, Clone)]
enum Watched {
    ProcessWide,
    Own(Pool),
}

impl From<DatabasePool> for WatchedPool {
    fn from(_: DatabasePool) -> WatchedPool {
        WatchedPool(Watched::ProcessWide)
    }
}

impl From<Pool> for WatchedPool {
    fn from(pool: Pool) -> WatchedPool {
        WatchedPool(Watched::Own(pool))
    }
}

impl WatchedPool {
    fn get(&self) -> Result<&Pool> {
        match &self.0 {
            Watched::ProcessWide => DatabasePool::get(),
            Watched::Own(pool) => Ok(pool),
        }
    }
}

/// Mounts the health routes into an app.
///
/// - `GET /api/health`, open: 200 while the process serves requests; it uses no connection.
/// - `GET /api/health/ready`, open: 200 with `{"status":"ready"}` while the pool lends connections, 503 with
///   `{"status":"unavailable"}` while it is not initialized, closed or suspended, or while the report of `/api/health/db` is
///   `error`. All connections lent is 200: the pool queues callers, and a load balancer that removes a busy instance
///   overloads the others. It reads counters, uses no connection, and its body contains only the status.
/// - `GET /api/health/db`, with a token: the [`HealthReport`], with 200 if its status is `healthy` or `warning`, and 503 if it
///   is `error`. The worker computes it from counters: it needs no blocking thread and no connection, so it works with all
///   connections lent and with the server down.
/// - `GET /api/health/db/test`, with a token: runs `SELECT 1, now()` through the pool; an error is an [`ApiError`].
///
/// Each accepts `HEAD` too, and responds to other methods with 405.
///
/// # Examples
///
/// ```
/// use actix_web::App;
/// use poolhouse::DatabasePool;
/// use poolhouse::web::{BearerAuth, health_routes, json_errors};
///
/// # let auth = BearerAuth::new([]);
/// let app = App::new().configure(json_errors).configure(health_routes(DatabasePool, auth));
/// ```
pub fn health_routes(
    pool: impl Into<WatchedPool>,
    auth: BearerAuth,
) -> impl FnOnce(&mut ServiceConfig) + Clone + Send + 'static {
    let pool = pool.into();
    move |config| {
        let resource = |path| web::resource(path).default_service(method_not_allowed("GET, HEAD"));
        config
            .service(resource("/api/health").route(read().to(process_health)))
            .service(
                resource("/api/health/ready").app_data(Data::new(pool.clone())).route(read().to(readiness)),
            )
            .service(
                resource("/api/health/db")
                    .app_data(Data::new(pool.clone()))
                    .route(read().to(pool_health).wrap(auth.clone())),
            )
            .service(
                resource("/api/health/db/test")
                    .app_data(Data::new(pool))
                    .route(read().to(try_pool).wrap(auth)),
            );
    }
}

#[derive(Serialize)]
struct ProcessHealth {
    status: &'static str,
    message: &'static str,
}

async fn process_health() -> HttpResponse {
    HttpResponse::Ok().json(ProcessHealth { status: "ok", message: "the service is running" })
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
}

async fn readiness(pool: Data<WatchedPool>) -> HttpResponse {
    let is_ready = pool.get().is_ok_and(|pool| {
        let status = pool.status();
        status.state == PoolState::Open && HealthReport::new(&status).status != HealthStatus::Error
    });
    if is_ready {
        HttpResponse::Ok().json(Readiness { status: "ready" })
    } else {
        HttpResponse::ServiceUnavailable().json(Readiness { status: "unavailable" })
    }
}

async fn pool_health(pool: Data<WatchedPool>) -> HttpResponse {
    let report = match pool.get() {
        Ok(pool) => HealthReport::new(&pool.status()),
        Err(error) => HealthReport::without_pool(&error),
    };
    let status = match report.status {
        HealthStatus::Error => StatusCode::SERVICE_UNAVAILABLE,
        HealthStatus::Healthy | HealthStatus::Warning => StatusCode::OK,
    };
    HttpResponse::build(status).json(PoolHealth { report, request_threads: bridge::load() })
}

#[derive(Serialize)]
struct PoolHealth {
    #[serde(flatten)]
    report: HealthReport,
    request_threads: Load,
}

#[derive(Serialize)]
struct PoolTried {
    status: &'static str,
    message: &'static str,
    test_result: TestRow,
}

#[derive(Serialize, Deserialize)]
struct TestRow {
    test: i32,
    current_time: DateTime<Utc>,
}

async fn try_pool(pool: Data<WatchedPool>) -> Result<HttpResponse, ApiError> {
    let test_result = blocking_apart(move || {
        // Quoted, because unquoted current_time is a keyword.
        let row = pool.get()?.execute_query_one(r#"SELECT 1 AS test, now() AS "current_time""#, &[])?;
        row.ok_or_else(|| Error::application("SELECT without FROM returned no row"))
    })
    .await?;
    let message = "a query went through the pool and came back";
    Ok(HttpResponse::Ok().json(PoolTried { status: "ok", message, test_result }))
}
