//! The advice: what to change, and the numbers that call for it. One function for each rule.
//!
//! The rules go from causes outside of the pool to its size: a larger pool is advised only where neither an outage, nor leaked
//! connections, nor long transactions, nor slow statements explain why callers wait, and never a larger one than the server has
//! room for.

use crate::health::text::{calls, connections, percent, rate, seconds, time};
use crate::health::window::Window;
use crate::pool::{Observation, PoolState, PoolStatus, ServerCapacity};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// A p99 of the wait below this is no reason to change anything.
const MIN_WAIT: Duration = Duration::from_millis(10);
/// The share of the maximum to plan for, the upper end of [`OPTIMAL_RANGE`](super::OPTIMAL_RANGE). The delay of a queue grows as
/// 1/(1 - share) (Kleinrock, "Queueing Systems", 1975): from 60 % to 80 % it doubles, and from 80 % to 90 % again.
const PLANNED_SHARE: f64 = 0.8;
/// Where callers wait although less than this share is in use on average, they come in bursts.
const BURSTY_BELOW: f64 = 0.6;
/// From this share on, callers come only as fast as connections become free: those that wait are load as well,
const SATURATED_FROM: f64 = 0.97;
/// unless the load is this many times what the maximum can serve, and they wait because of that.
const OVERLOADED_FROM: f64 = 1.05;
/// Holds longer than this are long where most are short; the bound of a bucket, in microseconds.
const LONG_US: u64 = 1 << 19;
/// The largest share of such holds. Of more, statements are slow in general.
const MAX_LONG: f64 = 0.2;
/// Connections are held by slow statements if it takes this many times as long as before,
const SLOWER: u32 = 3;
/// without so many times as many requests, which would slow any server down;
const BUSIER: f64 = 1.5;
/// or if it takes this long on average.
const SLOW: Duration = Duration::from_millis(250);
/// Statements are the cause if they take this share of the time in use.
const MOSTLY: f64 = 0.5;
/// Fewer new connections are no churn. Each costs the server a process and a login (PostgreSQL, "How Connections Are
/// Established").
const MIN_CHURN: u64 = 20;
/// New connections are churn if there is one for this many uses, or one a second.
const CHURN_PER_USE: u64 = 20;
/// The share of its connections from which the server is near its limit.
const FULL_FROM: f64 = 0.9;
/// A pool that keeps fewer connections open is not worth making smaller,
const MIN_KEPT: u32 = 10;
/// nor one that has had more than one in this many in use at once,
const UNUSED_FACTOR: u32 = 4;
/// nor before its load has been observed for this long.
const UNUSED_AFTER: Duration = Duration::from_secs(240);

/// The advice, and the load that it is based on.
pub(super) fn advise(observed: &Observation) -> (Vec<String>, String) {
    let status = &observed.status;
    let mut advice: Vec<String> = Vec::new();
    advice.extend(outage(status));
    advice.extend(leaks(status));
    advice.extend(observed.server.as_ref().and_then(|server| server_limit(status, server)));
    let Some(present) = Window::present(&observed.history) else { return (advice, Window::lack(None)) };
    let (recent, before) = present.split();
    if !recent.is_enough() {
        return (advice, Window::lack(Some(recent)));
    }
    let mut churn = churn(recent);
    if is_strained(recent) && status.long_held.is_empty() {
        let cause = long_transactions(recent).or_else(|| slow_statements(recent, before));
        advice.push(cause.unwrap_or_else(|| match recent.share_in_use() < BURSTY_BELOW {
            true => churn.take().unwrap_or_else(|| bursts(recent, observed)),
            false => too_small(recent, observed),
        }));
    }
    advice.extend(churn);
    advice.extend(too_large(present, observed.server.as_ref()));
    (advice, basis(recent))
}

/// The warnings that are not of the moment: what callers have met lately, and how full the server is.
pub(super) fn warnings(observed: &Observation) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((recent, _)) = Window::present(&observed.history).map(Window::split)
        && recent.is_enough()
        && is_strained(recent)
    {
        let elapsed = recent.elapsed().as_secs();
        warnings.push(format!("In the last {elapsed} s: {}.", evidence(recent)));
    }
    if let Some(server) = &observed.server
        && is_full(&observed.status, server)
    {
        let own = open(&observed.status);
        warnings.push(format!(
            "The server has {} of {} in use, {own} by this pool.",
            server.others + own,
            connections(server.max_connections)
        ));
    }
    warnings
}

/// Whether callers have met a shortage of connections.
fn is_strained(window: Window<'_>) -> bool {
    window.turned_away() > 0 || window.wait_p99() >= MIN_WAIT
}

fn evidence(window: Window<'_>) -> String {
    let wait =
        format!("wait p99 at most {} at {} in use", time(window.wait_p99()), percent(window.share_in_use()));
    match window.turned_away() {
        0 => wait,
        n => format!("{wait}, {} turned away", calls(n)),
    }
}

/// The load, as Little's law has it: requests per second, and the time that each takes of a connection.
fn load(window: Window<'_>) -> (f64, String) {
    let (requests, held) = (window.requests_per_second(), window.time_per_request().unwrap_or_default());
    (requests * held.as_secs_f64(), format!("{} requests/s x {}", rate(requests), time(held)))
}

fn basis(window: Window<'_>) -> String {
    let (needed, load) = load(window);
    format!(
        "{} s observed: {load} occupy {needed:.1} connections; wait p99 at most {}; {} in use.",
        window.elapsed().as_secs(),
        time(window.wait_p99()),
        percent(window.share_in_use())
    )
}

/// A larger pool would have helped no caller.
fn outage(status: &PoolStatus) -> Option<String> {
    let failure = status.last_failure.as_ref().filter(|_| status.state == PoolState::Open)?;
    // "Too many connections" (PostgreSQL, "Error Codes"), as the driver's text ends. The rest of it names hosts.
    Some(match failure.text.ends_with("(53300)") {
        true => "The server refuses further connections because its limit is reached (53300): lower \
                 DB_POOL_MAX_CONNECTIONS of the pools that share it, raise its max_connections, or put PgBouncer in \
                 front of it."
            .to_owned(),
        false => format!(
            "Restore the server or the way to it, for which the log has the reason: connecting has failed for {}. A \
             larger pool would not help.",
            seconds(failure.failing_for)
        ),
    })
}

/// The lines whose connections are held beyond the leak threshold: how many, and for how long. The one with most comes first.
pub(super) fn leaking_lines(status: &PoolStatus) -> Vec<(&str, u32, Duration)> {
    let mut lines: BTreeMap<&str, (u32, Duration)> = BTreeMap::new();
    for held in &status.long_held {
        let (count, longest) = lines.entry(&held.acquired_at).or_default();
        (*count, *longest) = (*count + 1, held.held_for.max(*longest));
    }
    let mut lines: Vec<_> =
        lines.into_iter().map(|(line, (count, longest))| (line, count, longest)).collect();
    lines.sort_by_key(|(_, count, longest)| Reverse((*count, *longest)));
    lines
}

fn leaks(status: &PoolStatus) -> Option<String> {
    let (line, count, longest) = leaking_lines(status).into_iter().next()?;
    Some(format!(
        "Look at {line}: {} acquired there {} not come back, the first for {}. A larger pool would run out as well; \
         DB_POOL_LEAK_THRESHOLD_S has the limit.",
        connections(count),
        if count == 1 { "has" } else { "have" },
        seconds(longest)
    ))
}

fn open(status: &PoolStatus) -> u32 {
    status.available + status.in_use
}

fn is_full(status: &PoolStatus, server: &ServerCapacity) -> bool {
    f64::from(server.others + open(status)) >= f64::from(server.max_connections) * FULL_FROM
}

/// What the server allows (PostgreSQL, "Connections and Authentication": `max_connections`, less the reserved ones).
fn server_limit(status: &PoolStatus, server: &ServerCapacity) -> Option<String> {
    let ServerCapacity { max_connections: allowed, others, .. } = *server;
    let (max, room) = (status.max_connections, allowed.saturating_sub(others));
    if max > room {
        return Some(format!(
            "DB_POOL_MAX_CONNECTIONS={}: the server allows {} and others use {others}, so the pool cannot have its \
             maximum of {max}. Or raise the server's max_connections.",
            room.max(1),
            connections(allowed)
        ));
    }
    is_full(status, server).then(|| {
        format!(
            "Raise the server's max_connections, or lower DB_POOL_MAX_CONNECTIONS of the pools that share it: of {} \
             others use {others}.",
            connections(allowed)
        )
    })
}

/// A few transactions take most of the time in use.
fn long_transactions(window: Window<'_>) -> Option<String> {
    let holds = window.histogram(|status| &status.use_times);
    let bound = |bucket: usize| Duration::from_micros(1 << bucket);
    let is_short = |bucket: usize| bound(bucket) <= Duration::from_micros(LONG_US);
    let (short, long): (Vec<_>, Vec<_>) =
        holds.buckets.iter().enumerate().partition(|(bucket, _)| is_short(*bucket));
    let count: u64 = long.iter().map(|(_, count)| **count).sum();
    let at_most: f64 =
        short.iter().map(|(bucket, count)| bound(*bucket).as_secs_f64() * **count as f64).sum();
    let share = 1.0 - at_most / holds.sum.as_secs_f64();
    let is_cause = count > 0 && (count as f64) < holds.count() as f64 * MAX_LONG && share > 0.5;
    is_cause.then(|| {
        format!(
            "Shorten the long transactions: {count} of {} uses of a connection took more than {} and with that {} of \
             the time in use, while half took less than {}. A DB_POOL_LEAK_THRESHOLD_S below their length has the \
             log name their lines.",
            holds.count(),
            time(Duration::from_micros(LONG_US)),
            percent(share),
            time(holds.quantile(0.5).unwrap_or_default())
        )
    })
}

/// More connections would have the server run more slow statements at once ("About Pool Sizing", HikariCP).
fn slow_statements(recent: Window<'_>, before: Option<Window<'_>>) -> Option<String> {
    let held = recent.time_per_request()?;
    let before = before.filter(|before| before.is_enough()).and_then(|before| {
        let usual = before.time_per_request()?;
        let is_busier = recent.requests_per_second() > before.requests_per_second() * BUSIER;
        (held >= usual * SLOWER && !is_busier)
            .then(|| format!(" (before: {} requests/s, {})", rate(before.requests_per_second()), time(usual)))
    });
    if before.is_none() && held < SLOW {
        return None;
    }
    let requests = rate(recent.requests_per_second());
    let load = format!(
        "{requests} requests/s hold a connection for {} each{}",
        time(held),
        before.unwrap_or_default()
    );
    let share = recent.share_in_statements();
    let in_statements =
        share.map(|share| format!(", {} of it in statements", percent(share))).unwrap_or_default();
    Some(match share {
        Some(share) if share < MOSTLY => format!(
            "Have callers return connections earlier: {load}{in_statements} of the helpers. Raw access and COPY are not \
             counted."
        ),
        _ => format!(
            "Look for slow statements and for locks: {load}{in_statements}. More connections would run more of them at \
             once; DB_STATEMENT_TIMEOUT_MS bounds each."
        ),
    })
}

/// Callers wait although most connections are idle on average.
fn bursts(window: Window<'_>, observed: &Observation) -> String {
    // A burst of n calls on c connections, each held for h, is served in n * h / c; the last call waits for h less.
    let held = window.time_per_request().unwrap_or_default().as_secs_f64();
    let max = f64::from(observed.status.max_connections);
    let burst = max * (1.0 + window.wait_p99().as_secs_f64() / held.max(1e-6));
    let needed = burst * held / (held + MIN_WAIT.as_secs_f64());
    format!(
        "{}: {}; that is a burst of about {burst:.0} calls of {} each. Or spread the calls.",
        raise(needed, observed),
        evidence(window),
        time(Duration::from_secs_f64(held))
    )
}

/// Little's law ("A Proof for the Queuing Formula L = λW", Operations Research 9, 1961): the arrival rate times the time in the
/// system is the number in the system.
fn too_small(window: Window<'_>, observed: &Observation) -> String {
    let (offered, load) = load(window);
    let max = f64::from(observed.status.max_connections);
    let evidence = evidence(window);
    let (needed, reason) = if offered >= max * OVERLOADED_FROM || window.share_in_use() < SATURATED_FROM {
        (offered, format!("{load} need {}", connections(offered.ceil() as u32)))
    } else {
        let (in_use, waiting) = (window.mean_in_use(), window.mean_waiting());
        (in_use + waiting, format!("{load} occupy {in_use:.1} connections while {waiting:.1} callers wait"))
    };
    format!("{}: {evidence}; {reason}.", raise(needed / PLANNED_SHARE, observed))
}

/// The maximum for `needed` connections: at most twice the present one, because the load changes with it, and what the server has
/// room for.
fn raise(needed: f64, observed: &Observation) -> String {
    let status = &observed.status;
    let max = status.max_connections;
    let doubled = max.saturating_mul(2);
    let wanted = (needed.ceil() as u32).clamp(max.saturating_add(1), doubled.max(max.saturating_add(1)));
    // Some of what is left is for others.
    let room = observed.server.as_ref().map(|server| {
        let most = (f64::from(server.max_connections) * FULL_FROM) as u32;
        most.saturating_sub(server.others)
    });
    match room {
        Some(room) if room <= max => {
            "Hold connections for less time, raise the server's max_connections, which leaves this pool no more, or put \
             PgBouncer in front of it"
                .to_owned()
        }
        Some(room) if room < wanted => {
            format!("DB_POOL_MAX_CONNECTIONS={room}, the most that the server has room for")
        }
        None => format!("DB_POOL_MAX_CONNECTIONS={wanted}, if the server's max_connections allows it"),
        Some(_) if needed > f64::from(doubled) => {
            format!("DB_POOL_MAX_CONNECTIONS={wanted} as a first step, the load asks for more")
        }
        Some(_) => format!("DB_POOL_MAX_CONNECTIONS={wanted}"),
    }
}

/// Connections are closed and opened all the time.
fn churn(window: Window<'_>) -> Option<String> {
    let connects = window.count(|status| status.connects);
    let uses = window.histogram(|status| &status.use_times).count();
    let is_often = connects.saturating_mul(CHURN_PER_USE) >= uses || connects >= window.elapsed().as_secs();
    if connects < MIN_CHURN || !is_often {
        return None;
    }
    let most = window.most(|status| status.in_use);
    let reasons = [
        (
            window.count(|status| status.closed.overflow),
            "as overflow",
            format!("DATABASE_POOL_SIZE={most} with as much less DATABASE_MAX_OVERFLOW"),
        ),
        (
            window.count(|status| status.closed.idle),
            "as idle",
            format!("DB_POOL_MIN_CONNECTIONS={most}, or a longer DB_POOL_IDLE_TIMEOUT_S"),
        ),
        (
            window.count(|status| status.closed.expired),
            "for their age",
            "A longer DB_POOL_MAX_LIFETIME_S".to_owned(),
        ),
        (
            window.count(|status| status.closed.dirty),
            "because they could not be cleaned",
            "Have borrowers complete what they begin within their deadlines".to_owned(),
        ),
        (
            window.count(|status| status.closed.broken + status.closed.invalid),
            "because the server or the network had ended them",
            "Look in the server's log for the cause, and set DB_POOL_KEEPALIVE_S below the idle limit of the network"
                .to_owned(),
        ),
    ];
    let (closed, why, change) = reasons.into_iter().max_by_key(|(count, ..)| *count)?;
    let elapsed = window.elapsed().as_secs();
    (closed * 2 >= connects).then(|| {
        format!(
            "{change}: {connects} connections were opened in {elapsed} s and {closed} closed {why}, with at most {most} \
             in use; {}.",
            evidence(window)
        )
    })
}

/// Each open connection is a process of the server, with its memory.
fn too_large(present: Window<'_>, server: Option<&ServerCapacity>) -> Option<String> {
    if present.elapsed() < UNUSED_AFTER || is_strained(present) {
        return None;
    }
    let status = present.last();
    let PoolStatus { min_connections: min, max_connections: max, peak_in_use: peak, .. } = *status;
    let (is_unused, enough) =
        (|n: u32| n >= MIN_KEPT && peak.saturating_mul(UNUSED_FACTOR) <= n, peak.max(1) * 2);
    if is_unused(min) {
        return Some(format!(
            "DB_POOL_MIN_CONNECTIONS={enough}: of {} kept open at most {peak} {} in use at once since the start.",
            connections(min),
            if peak == 1 { "was" } else { "were" }
        ));
    }
    // A maximum that is not used costs nothing, unless the server could have given it to others.
    let is_claimed = server.is_some_and(|server| max > server.max_connections / 2);
    (is_claimed && is_unused(max)).then(|| {
        format!(
            "DB_POOL_MAX_CONNECTIONS={}: at most {peak} of {max} were in use at once since the start, and the maximum is \
             more than half of what the server allows.",
            enough.max(min)
        )
    })
}
