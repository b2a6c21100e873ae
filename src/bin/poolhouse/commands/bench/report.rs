//! The figures of a run, as JSON and as tables.

use super::acquire::Acquire;
use super::callers::{Level, Rates};
use super::documents::{DOCUMENTS, Documents, Missing};
use super::figures::{three_digits, time, times};
use super::row::{QUERIES, Row};
use serde::Serialize;
use std::fmt;

/// The longest bar of the chart, in characters.
const BAR: f64 = 44.0;

/// Everything that was measured; a part that was not is `None`, as the run was stopped before.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) database: String,
    pub(super) server_version: String,
    /// Who makes a connection for one query.
    pub(super) connections_made_by: &'static str,
    /// Added to every connect.
    pub(super) connect_delay_ms: f64,
    pub(super) pool_connections: u32,
    /// The setting, which the server may have no room for.
    pub(super) configured_connections: u32,
    pub(super) is_complete: bool,
    pub(super) seconds: f64,
    pub(super) acquire: Option<Acquire>,
    pub(super) row: Option<Row>,
    pub(super) documents: Option<Documents>,
    /// Why documents were not measured.
    pub(super) documents_missing: Option<Missing>,
    pub(super) callers: Vec<Level>,
}

impl Report {
    /// What pooling guides promise, in their figures and in ours.
    fn promises(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut promises = Vec::new();
        if let Some((without, with)) = self.one_caller() {
            // Medians, which another program on the machine disturbs least.
            let ratio = without.latency.p50_ms / with.latency.p50_ms;
            promises.push(("a query is faster", "10x", times(ratio)));
        }
        let most = self.callers.iter().rev().find_map(|level| Some((level.callers, level.gain()?)));
        if let Some((callers, gain)) = most {
            promises.push((
                "more queries in the same time",
                "50x",
                format!("{} ({callers} callers)", times(gain)),
            ));
        }
        if let Some(acquire) = &self.acquire {
            let text = format!("{}, 99 of 100 times", time(acquire.later.p99_ms));
            promises.push(("acquiring a connection takes at most", "1 ms", text));
        }
        if let Some(documents) = &self.documents {
            let (without, with) = (&documents.connection_per_document, &documents.pool);
            let text = format!("{} in place of {}", time(with.connecting_ms), time(without.connecting_ms));
            promises.push(("connecting, for 1,000 documents", "0.1 s in place of 100 s", text));
        }
        promises
    }

    fn one_caller(&self) -> Option<(Rates, Rates)> {
        let level = self.callers.first()?;
        Some((level.connection_per_query?, level.pool))
    }

    pub(super) fn as_json(&self) -> String {
        #[derive(Serialize)]
        struct Promise {
            promise: &'static str,
            guides: &'static str,
            measured: String,
        }
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            promises: Vec<Promise>,
        }
        let promises = self.promises().into_iter();
        let promises =
            promises.map(|(promise, guides, measured)| Promise { promise, guides, measured }).collect();
        serde_json::to_string(&Whole { report: self, promises }).unwrap_or_default()
    }

    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { database, server_version, connections_made_by, pool_connections, seconds, .. } = self;
        writeln!(f, "A connection per query against the pool: {database}, PostgreSQL {server_version}")?;
        writeln!(f, "  a connection per query  {connections_made_by} connects, runs SELECT $1, disconnects")?;
        write!(f, "  the pool                {pool_connections} connections, opened before")?;
        match self.configured_connections {
            configured if configured > *pool_connections => {
                writeln!(f, " (DB_POOL_MAX_CONNECTIONS is {configured}; more are not needed, or not free)")?;
            }
            _ => writeln!(f)?,
        }
        if self.connect_delay_ms > 0.0 {
            let delay = time(self.connect_delay_ms);
            writeln!(
                f,
                "  --connect-delay         {delay} are added to every connect of both: this program sleeps"
            )?;
        }
        writeln!(f, "  measured in             {seconds:.1} s")?;
        match cfg!(debug_assertions) {
            true => writeln!(
                f,
                "  this program            is not optimised: `make build` makes one that logs in faster"
            ),
            false => Ok(()),
        }
    }

    fn write_one_caller(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((without, with)) = self.one_caller() else { return Ok(()) };
        writeln!(f, "\nOne caller                       mean        p50        p99   queries/s")?;
        for (name, rates) in [("a connection per query", &without), ("the pool", &with)] {
            let [mean, p50, p99] =
                [rates.latency.mean_ms, rates.latency.p50_ms, rates.latency.p99_ms].map(time);
            let rate = three_digits(rates.queries_per_s);
            writeln!(f, "  {name:24} {mean:>10} {p50:>10} {p99:>10} {rate:>11}")?;
        }
        Ok(())
    }

    fn write_parts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(acquire) = &self.acquire {
            let (first, query) = (time(acquire.first_query_ms), time(acquire.later_query_ms));
            let (p50, p99) = (time(acquire.later.p50_ms), time(acquire.later.p99_ms));
            writeln!(f, "\nAcquiring a connection of the pool")?;
            writeln!(f, "  first request            {first:>10}, with opening the pool and a query")?;
            writeln!(f, "  later requests           {p50:>10} (p99 {p99}), and {query} for a query")?;
        }
        if let Some(row) = &self.row {
            writeln!(f, "\n{QUERIES} queries in a row")?;
            let (without, with) = (row.connection_per_query_ms, row.pool_ms);
            let measured = extrapolated(row.queries_with_connection, QUERIES);
            writeln!(f, "  a connection per query   {:>10}{measured}", time(without))?;
            writeln!(f, "  the pool, opened first   {:>10}  {}", time(with), times(without / with))?;
        }
        if let Some(documents) = &self.documents {
            writeln!(f, "\n1,000 documents, one by one      total  connecting")?;
            let ways = [
                ("a connection for each", &documents.connection_per_document),
                ("the pool, opened first", &documents.pool),
            ];
            for (name, etl) in ways {
                let (total, connecting) = (time(etl.total_ms), time(etl.connecting_ms));
                let measured = extrapolated(etl.documents, DOCUMENTS);
                writeln!(f, "  {name:24} {total:>10}  {connecting:>10}{measured}")?;
            }
        }
        if let Some(reason) = &self.documents_missing {
            writeln!(f, "\n1,000 documents: not measured: {reason}")?;
        }
        Ok(())
    }

    fn write_chart(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.callers.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nQueries per second, by callers at the same time")?;
        let rates =
            self.callers.iter().flat_map(|level| level.connection_per_query.into_iter().chain([level.pool]));
        let highest = rates.map(|rates| rates.queries_per_s).fold(f64::MIN_POSITIVE, f64::max);
        let bar = |rate: f64| match (rate / highest * BAR).round() as usize {
            0 => "▏".to_owned(),
            length => "█".repeat(length),
        };
        for level in &self.callers {
            let callers = level.callers;
            match level.connection_per_query {
                Some(Rates { queries_per_s: rate, .. }) => {
                    writeln!(f, "  {callers:>2}  per query {:>9}  {}", three_digits(rate), bar(rate))?;
                }
                None => {
                    writeln!(
                        f,
                        "  {callers:>2}  per query         –  {}",
                        level.missing.unwrap_or_default()
                    )?;
                }
            }
            let rate = level.pool.queries_per_s;
            let gain = level.gain().map_or(String::new(), |gain| format!("  {}", times(gain)));
            writeln!(f, "      the pool  {:>9}  {}{gain}", three_digits(rate), bar(rate))?;
        }
        Ok(())
    }

    fn write_promises(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let promises = self.promises();
        if promises.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{:37} {:24} measured here", "What pooling guides promise", "guides")?;
        for (promise, guides, measured) in promises {
            writeln!(f, "  {promise:36} {guides:24} {measured}")?;
        }
        match &self.row {
            Some(row) if self.connect_delay_ms == 0.0 => {
                let connect = time(row.connect_ms);
                writeln!(
                    f,
                    "The guides' connect takes 100 ms, with network, TLS and login; this one takes {connect}. \
                     --connect-delay 100ms adds theirs."
                )
            }
            _ => Ok(()),
        }
    }
}

/// A note for a time of which only a part was measured.
fn extrapolated(measured: usize, all: usize) -> String {
    if measured == all { String::new() } else { format!("  ({measured} measured, the rest extrapolated)") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        self.write_one_caller(f)?;
        self.write_parts(f)?;
        self.write_chart(f)?;
        self.write_promises(f)
    }
}
