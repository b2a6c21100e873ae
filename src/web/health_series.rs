//! `GET /api/health/db/series`, behind a live page. `crate::health::series` derives the numbers; this file serves them.

use crate::health::HealthReport;
use crate::health::series::Series;
use crate::web::ApiError;
use crate::web::bridge;
use crate::web::bridge::threads::Load;
use crate::web::health_routes::WatchedPool;
use actix_web::http::header::{CacheControl, CacheDirective};
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    since: Option<String>,
}

/// Computed by the worker from counters, so that it is answered whatever the pool and the server go through.
pub(super) async fn series(request: HttpRequest, pool: Data<WatchedPool>) -> Result<HttpResponse, ApiError> {
    let since = since(request.query_string())?;
    let series = match pool.get() {
        Ok(pool) => Series::of(&pool.observe(), &pool.statements(), since),
        Err(error) => Series::without_pool(HealthReport::without_pool(&error)),
    };
    Ok(HttpResponse::Ok()
        .insert_header(CacheControl(vec![CacheDirective::NoStore]))
        .json(Body { series, request_threads: bridge::load() }))
}

#[derive(Serialize)]
struct Body {
    #[serde(flatten)]
    series: Series,
    request_threads: Load,
}

fn since(query: &str) -> Result<Option<u64>, ApiError> {
    let Since { since: Some(text) } = Query::<Since>::from_query(query)?.into_inner() else {
        return Ok(None);
    };
    let number = text.parse().map_err(|_| {
        // Truncated: it is as long as the client makes it.
        let message = format!(
            "since is '{text:.20}': give the at_ms of the last step you have, a whole number of milliseconds"
        );
        ApiError::invalid(message)
    })?;
    Ok(Some(number))
}
