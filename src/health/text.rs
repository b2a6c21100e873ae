//! Numbers with their units, as warnings and advice show them.

use std::time::Duration;

pub(super) fn connections(n: u32) -> String {
    if n == 1 { "1 connection".to_owned() } else { format!("{n} connections") }
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// At most three digits: `0.004 ms`, `1.5 ms`, `18 ms`, `4.2 s`.
pub(super) fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ms if ms >= 999.5 => seconds(duration),
        ms if ms >= 9.95 => format!("{ms:.0} ms"),
        ms if ms >= 0.095 => format!("{ms:.1} ms"),
        ms => format!("{ms:.3} ms"),
    }
}

/// Events per second: `0.4`, `610`.
pub(super) fn rate(per_second: f64) -> String {
    if per_second >= 9.95 { format!("{per_second:.0}") } else { format!("{per_second:.1}") }
}

/// `1 call`, `31 calls`.
pub(super) fn calls(n: u64) -> String {
    if n == 1 { "1 call".to_owned() } else { format!("{n} calls") }
}

/// A share from 0 to 1: `94%`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}
