//! Counts requests by method, route and status, with the time until the response begins.
//!
//! **Lock rule**: each worker counts in series of its own, which only it writes, without a lock. A worker's list of series is locked
//! to add one, which happens once for each route and status, and to read.

use crate::metrics::Family;
use crate::pool::{Histogram, SharedHistogram};
use crate::web::request_scope::Scope;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The status of a request whose client has gone before the response, as nginx has it.
const CLIENT_GONE: u16 = 499;

/// The label of all paths that no route matches.
const UNMATCHED: &str = "unmatched";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    method: &'static str,
    route: String,
    status: u16,
}

/// The requests of one key on one worker.
#[derive(Debug)]
struct Series {
    key: Key,
    times: SharedHistogram,
}

type Worker = Arc<Mutex<Vec<Arc<Series>>>>;

/// Every thread that has counted a request.
static WORKERS: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// What one worker has counted.
#[derive(Default)]
struct Own {
    /// `None` before its first request.
    worker: Option<Worker>,
    series: HashMap<Key, Arc<Series>>,
}

thread_local! {
    static OWN: RefCell<Own> = RefCell::default();
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that is counted when it ends, also where its client leaves before that.
pub(super) struct Counted {
    scope: Arc<Scope>,
    started: Instant,
    status: u16,
}

impl Counted {
    pub(super) fn begin(scope: Arc<Scope>) -> Counted {
        Counted { scope, started: Instant::now(), status: CLIENT_GONE }
    }

    pub(super) fn end(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Scope { method, pattern, .. } = &*self.scope;
        let route = pattern.as_deref().unwrap_or(UNMATCHED).to_owned();
        let (key, time) = (Key { method, route, status: self.status }, self.started.elapsed());
        // A request may be dropped while its thread ends.
        let _ = OWN.try_with(|own| own.borrow_mut().count(key, time));
    }
}

impl Own {
    fn count(&mut self, key: Key, time: Duration) {
        if let Some(series) = self.series.get(&key) {
            return series.times.add(time);
        }
        let worker = self.worker.get_or_insert_with(|| {
            let worker = Worker::default();
            locked(&WORKERS).push(worker.clone());
            worker
        });
        let series = Arc::new(Series { key: key.clone(), times: SharedHistogram::default() });
        series.times.add(time);
        locked(worker).push(series.clone());
        self.series.insert(key, series);
    }
}

/// Collects the requests that [`observe_requests`](super::observe_requests) has counted in this process, for a registry of
/// `prometheus-client`.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RequestCollector;

impl Collector for RequestCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut counts: BTreeMap<(String, &str, u16), u64> = BTreeMap::new();
        let mut times: BTreeMap<(String, &str), Histogram> = BTreeMap::new();
        let workers = locked(&WORKERS).clone();
        for worker in workers {
            let series = locked(&worker).clone();
            for Series { key: Key { method, route, status }, times: of_one } in
                series.iter().map(|one| &**one)
            {
                let mut counted = Histogram::default();
                of_one.add_to(&mut counted);
                *counts.entry((route.clone(), method, *status)).or_default() += counted.count();
                of_one.add_to(times.entry((route.clone(), method)).or_default());
            }
        }
        let help = "Requests by method, route and status; 499 where the client had gone.";
        let mut family = Family::counter(&mut encoder, "poolhouse_http_requests", help)?;
        for ((route, method, status), count) in &counts {
            let status = status.to_string();
            family.count(&[("method", method), ("route", route), ("status", &status)], *count)?;
        }
        let (name, help) =
            ("poolhouse_http_request_duration", "How long requests took until their response began.");
        let mut family = Family::seconds(&mut encoder, name, help, MetricType::Histogram)?;
        times.iter().try_for_each(|((route, method), times)| {
            family.times(&[("method", method), ("route", route)], times)
        })
    }
}
