//! The warnings on the state of the moment, from which the verdict follows.

use crate::health::WARNING_ABOVE_PERCENT;
use crate::health::text::{connections, seconds};
use crate::pool::{PoolState, PoolStatus};

/// Adds the conditions that stop the pool from serving. Returns whether there is one.
pub(super) fn failures(pool: &PoolStatus, warnings: &mut Vec<String>) -> bool {
    if pool.state == PoolState::Closed {
        warnings.push("The pool is closed and lends no connection.".to_owned());
        return true;
    }
    let usable = pool.available + pool.in_use;
    let Some(failure) = &pool.last_failure else {
        // The pool was opened without waiting for the database, and no attempt to connect has ended yet.
        let is_unproven = pool.connects == 0 && usable == 0 && pool.connecting > 0;
        if is_unproven {
            warnings.push("No connection to the database has been made yet.".to_owned());
        }
        return is_unproven;
    };
    // Without the failure's text: it names hosts, and the report may be the body of a 503.
    warnings.push(format!(
        "Connecting to the database has failed for {}, the last attempt {} ago; {}.",
        seconds(failure.failing_for),
        seconds(failure.age),
        match usable {
            0 => "no connection is left".to_owned(),
            n => format!("{} left from before", connections(n)),
        }
    ));
    usable == 0
}

/// Adds the conditions that make callers wait, or soon will.
pub(super) fn strain(pool: &PoolStatus, warnings: &mut Vec<String>) {
    let PoolStatus { in_use, available, waiting, max_connections: max, .. } = *pool;
    if pool.state == PoolState::Suspended {
        warnings.push(format!("Lending is suspended; callers waiting: {waiting}."));
    }
    if in_use > max {
        warnings.push(format!(
            "{} in use, {} more than the maximum of {max}: the pool was made smaller and shrinks as they come \
             back.",
            connections(in_use),
            in_use - max
        ));
    } else if u64::from(in_use) * 100 > u64::from(max) * u64::from(WARNING_ABOVE_PERCENT) {
        warnings.push(format!(
            "{in_use} of {} in use ({:.0}%), more than {WARNING_ABOVE_PERCENT}%.",
            connections(max),
            pool.usage_percent()
        ));
    }
    if available == 0 && max > 0 && in_use.saturating_add(pool.connecting) >= max {
        warnings.push(format!("No connection is available and the maximum of {max} is reached."));
    }
    if waiting > 0 && pool.state == PoolState::Open {
        warnings.push(match waiting {
            1 => format!("1 caller waits for a connection (at most {} may).", pool.max_waiting),
            n => format!("{n} callers wait for a connection (at most {} may).", pool.max_waiting),
        });
    }
    if let Some(longest) = pool.long_held.iter().max_by_key(|held| held.held_for) {
        warnings.push(format!(
            "{} held beyond the leak threshold, one for {}, acquired at {}.",
            connections(u32::try_from(pool.long_held.len()).unwrap_or(u32::MAX)),
            seconds(longest.held_for),
            longest.acquired_at
        ));
    }
}
