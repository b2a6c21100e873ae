//! The metrics route, for any app. `crate::metrics` writes the pool's numbers; this file adds those of the web layer and serves them.

use crate::metrics::{Family, PoolCollector, encode};
use crate::pool::Pool;
use crate::web::bridge::{self, threads::Load};
use crate::web::request_metrics::RequestCollector;
use crate::web::{BearerAuth, WatchedPool, method_not_allowed, read};
use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{self, Data, ServiceConfig};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use std::fmt;

/// The Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Mounts `GET /metrics` into an app: the numbers of the pool, of the threads of [`blocking`](super::blocking), and of the requests that
/// [`observe_requests`](super::observe_requests) has counted, in the Prometheus text format.
///
/// With `auth` a scrape needs a token; with `None` anybody who reaches the port can scrape. `docs/metrics.md` lists the metrics.
///
/// A scrape reads counters. It uses no connection and no blocking thread, so that it is answered in milliseconds with every connection
/// lent and with the server gone. For several pools, or metrics of one's own beside these, register
/// [`PoolCollector`](crate::metrics::PoolCollector) and [`RequestCollector`](super::RequestCollector) with a registry of
/// one's own.
///
/// # Examples
///
/// ```
/// use actix_web::App;
/// use actix_web::middleware::from_fn;
/// use poolhouse::DatabasePool;
/// use poolhouse::web::{BearerAuth, metrics_routes, observe_requests};
///
/// # let auth = BearerAuth::new([]);
/// let app = App::new()
///     .wrap(from_fn(observe_requests))
///     .configure(metrics_routes(DatabasePool, Some(auth)));
/// ```
pub fn metrics_routes(
    pool: impl Into<WatchedPool>,
    auth: Option<BearerAuth>,
) -> impl FnOnce(&mut ServiceConfig) + Clone + Send + 'static {
    let pool = pool.into();
    move |config| {
        let mut registry = Registry::default();
        let status = move || pool.get().map(Pool::status).into_iter().collect();
        registry.register_collector(Box::new(PoolCollector::new(status)));
        registry.register_collector(Box::new(ThreadCollector));
        registry.register_collector(Box::new(RequestCollector));
        let route = read().to(scrape);
        let route = match auth {
            Some(auth) => route.wrap(auth),
            None => route,
        };
        let resource = web::resource("/metrics").app_data(Data::new(registry)).route(route);
        config.service(resource.default_service(method_not_allowed("GET, HEAD")));
    }
}

async fn scrape(registry: Data<Registry>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, TEXT_FORMAT))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(encode(&registry))
}

/// Collects the load of the threads of `blocking`.
#[derive(Debug)]
struct ThreadCollector;

impl Collector for ThreadCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Load { threads, busy, waiting, refused } = bridge::load();
        let mut family =
            Family::gauge(&mut encoder, "poolhouse_request_threads", "Request threads by state.")?;
        family.set(&[("state", "busy")], busy as f64)?;
        family.set(&[("state", "idle")], (threads - busy) as f64)?;
        let help = "Requests that wait for a request thread.";
        Family::gauge(&mut encoder, "poolhouse_request_threads_waiting", help)?.set(&[], waiting as f64)?;
        let help = "Requests refused because too many waited for a request thread.";
        Family::counter(&mut encoder, "poolhouse_request_threads_refused", help)?.count(&[], refused)
    }
}
