//! The health routes, for any app. `crate::health` derives the verdict; this file serves it.

use crate::database_pool::DatabasePool;
use crate::error::{Error, Result};
use crate::health::{HealthReport, HealthStatus};
use crate::pool::{Pool, PoolState};
use crate::query::Execute;
use crate::web::bridge::threads::Load;
use crate::web::bridge::{self, blocking_apart};
use crate::web::health_series::series;
use crate::web::{ApiError, BearerAuth, method_not_allowed, read};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, ServiceConfig};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

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
    pub(super) fn get(&self) -> Result<&Pool> {
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
/// - `GET /api/health/db/series`, with a token: the [`Series`](crate::health::series::Series) of the last minutes, computed like
///   the report, always with 200. `?since=` has the `at_ms` of the last step that the client has, and leaves out the steps up to
///   that.
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
    let routes = HealthRoutes::new(pool, auth);
    move |config| routes.configure(config)
}

/// The [`health_routes`] at another path, and with checks of one's own.
///
/// # Examples
///
/// ```
/// use actix_web::App;
/// use poolhouse::DatabasePool;
/// use poolhouse::web::{BearerAuth, HealthRoutes, json_errors};
///
/// # let auth = BearerAuth::new([]);
/// let health = HealthRoutes::new(DatabasePool, auth)
///     .at("/internal/health")
///     .with_check("uploads", || std::fs::metadata("uploads").map(drop).map_err(|error| error.to_string()));
/// let app = App::new().configure(json_errors).configure(|config| health.configure(config));
/// ```
#[derive(Clone)]
pub struct HealthRoutes {
    pool: WatchedPool,
    auth: BearerAuth,
    path: String,
    checks: Checks,
}

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Checks by their names.
#[derive(Clone, Default)]
struct Checks(Vec<(&'static str, Check)>);

impl std::fmt::Debug for HealthRoutes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let checks: Vec<_> = self.checks.0.iter().map(|(name, _)| name).collect();
        f.debug_struct("HealthRoutes")
            .field("path", &self.path)
            .field("checks", &checks)
            .finish_non_exhaustive()
    }
}

impl HealthRoutes {
    /// The routes of [`health_routes`], at `/api/health`.
    pub fn new(pool: impl Into<WatchedPool>, auth: BearerAuth) -> HealthRoutes {
        HealthRoutes { pool: pool.into(), auth, path: "/api/health".to_owned(), checks: Checks::default() }
    }

    /// Mounts them at `path` in place of `/api/health`: `path`, `path/ready`, `path/db`, `path/db/series` and
    /// `path/db/test`.
    #[must_use]
    pub fn at(mut self, path: &str) -> HealthRoutes {
        path.trim_end_matches('/').clone_into(&mut self.path);
        self
    }

    /// Adds a check. Its result is under `checks` in the report of `/db`: `{"status":"ok"}`, or `"error"` with the text as
    /// `message`. Where one fails, `/db` and `/ready` respond with 503.
    ///
    /// It runs on a worker at every request to these two routes, so it must return at once: read a flag or a file's metadata, and
    /// leave slow checks to a thread of their own that sets a flag. A panic counts as an error.
    #[must_use]
    pub fn with_check(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> HealthRoutes {
        self.checks.0.push((name, Arc::new(check)));
        self
    }

    /// Mounts the routes into an app.
    pub fn configure(self, config: &mut ServiceConfig) {
        let HealthRoutes { pool, auth, path, checks } = self;
        let (pool, checks) = (Data::new(pool), Data::new(checks));
        let resource = |below: &str| {
            web::resource(format!("{path}{below}"))
                .app_data(pool.clone())
                .app_data(checks.clone())
                .default_service(method_not_allowed("GET, HEAD"))
        };
        config
            .service(resource("").route(read().to(process_health)))
            .service(resource("/ready").route(read().to(readiness)))
            .service(resource("/db").route(read().to(pool_health).wrap(auth.clone())))
            .service(resource("/db/series").route(read().to(series).wrap(auth.clone())))
            .service(resource("/db/test").route(read().to(try_pool).wrap(auth)));
    }
}

impl Checks {
    fn run(&self) -> BTreeMap<&'static str, Checked> {
        let checked = self.0.iter().map(|(name, check)| {
            let result = catch_unwind(AssertUnwindSafe(|| check()));
            let message = result.unwrap_or_else(|_| Err("the check panicked".to_owned())).err();
            let status = if message.is_none() { "ok" } else { "error" };
            (*name, Checked { status, message })
        });
        checked.collect()
    }
}

/// The result of one check.
#[derive(Serialize)]
struct Checked {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

fn are_all_well(checked: &BTreeMap<&'static str, Checked>) -> bool {
    checked.values().all(|checked| checked.message.is_none())
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

async fn readiness(pool: Data<WatchedPool>, checks: Data<Checks>) -> HttpResponse {
    let lends = pool.get().is_ok_and(|pool| {
        let status = pool.status();
        status.state == PoolState::Open && HealthReport::new(&status).status != HealthStatus::Error
    });
    if lends && are_all_well(&checks.run()) {
        HttpResponse::Ok().json(Readiness { status: "ready" })
    } else {
        HttpResponse::ServiceUnavailable().json(Readiness { status: "unavailable" })
    }
}

async fn pool_health(pool: Data<WatchedPool>, checks: Data<Checks>) -> HttpResponse {
    let checks = checks.run();
    let report = match pool.get() {
        Ok(pool) => HealthReport::of(&pool.observe()),
        Err(error) => HealthReport::without_pool(&error),
    };
    let status = match report.status {
        HealthStatus::Error => StatusCode::SERVICE_UNAVAILABLE,
        HealthStatus::Healthy | HealthStatus::Warning if !are_all_well(&checks) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        HealthStatus::Healthy | HealthStatus::Warning => StatusCode::OK,
    };
    HttpResponse::build(status).json(PoolHealth { report, checks, request_threads: bridge::load() })
}

#[derive(Serialize)]
struct PoolHealth {
    #[serde(flatten)]
    report: HealthReport,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    checks: BTreeMap<&'static str, Checked>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ApiToken;
    use actix_web::http::StatusCode;
    use actix_web::test::{TestRequest, call_service, init_service, read_body_json};
    use actix_web::{App, rt};
    use serde_json::{Value, json};
    use sha2::{Digest, Sha256};
    use std::sync::atomic::{AtomicBool, Ordering};

    const TOKEN: &str = "first-token-0123456789-0123456789";

    /// The process has no pool, so the report of the pool is an error; its checks are looked at.
    #[test]
    fn own_checks_appear_below_the_chosen_path_and_a_panic_in_one_is_an_error() {
        let token = ApiToken { name: "first".to_owned(), sha256: Sha256::digest(TOKEN).into() };
        let auth = BearerAuth::new([token]);
        let is_full = Arc::new(AtomicBool::new(false));
        let seen = is_full.clone();
        let health = HealthRoutes::new(DatabasePool, auth)
            .at("/internal/")
            .with_check("disk", move || match seen.load(Ordering::Relaxed) {
                true => Err("no room".to_owned()),
                false => Ok(()),
            })
            .with_check("mail", || panic!("a check"));
        rt::System::new().block_on(async {
            let app = init_service(App::new().configure(|config| health.configure(config))).await;
            let get = |path: &str| {
                TestRequest::get()
                    .uri(path)
                    .insert_header(("authorization", format!("Bearer {TOKEN}")))
                    .to_request()
            };
            assert_eq!(call_service(&app, get("/internal")).await.status(), StatusCode::OK);
            assert_eq!(
                call_service(&app, get("/internal/ready")).await.status(),
                StatusCode::SERVICE_UNAVAILABLE
            );
            assert_eq!(call_service(&app, get("/api/health")).await.status(), StatusCode::NOT_FOUND);
            for (full, disk) in
                [(false, json!({"status": "ok"})), (true, json!({"status": "error", "message": "no room"}))]
            {
                is_full.store(full, Ordering::Relaxed);
                let report: Value = read_body_json(call_service(&app, get("/internal/db")).await).await;
                assert_eq!(report["checks"]["disk"], disk);
                assert_eq!(report["checks"]["mail"]["message"], "the check panicked");
            }
        });
    }
}
