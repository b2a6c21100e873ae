//! Minimum, maximum and overflow, which the two spellings divide differently: into a minimum and a maximum, or into a pool
//! size and an overflow on top of it.

use crate::settings::reader::{Parsed, Reader, Source};
use crate::settings::variables::{
    DATABASE_MAX_OVERFLOW, DATABASE_POOL_SIZE, DB_POOL_MAX_CONNECTIONS, DB_POOL_MIN_CONNECTIONS, Variable,
};

/// Reads minimum, maximum and overflow.
pub(super) fn read(reader: &mut Reader) -> (u32, u32, u32) {
    let mut count = |variable: &'static Variable| reader.parse(variable, |text| variable.allowed.count(text));
    let (min, max) = (count(&DB_POOL_MIN_CONNECTIONS), count(&DB_POOL_MAX_CONNECTIONS));
    let (size, overflow) = (count(&DATABASE_POOL_SIZE), count(&DATABASE_MAX_OVERFLOW));
    let set_overflow = overflow.as_ref().map_or(0, |overflow| overflow.value);

    if size.is_none() && max.is_none() && set_overflow > 0 && !reader.has_problem(&[&DATABASE_POOL_SIZE]) {
        let allowed = "along with DATABASE_POOL_SIZE, to which it is added";
        reader.report(&DATABASE_MAX_OVERFLOW, set_overflow.to_string(), allowed);
    }
    let sum = size.map(|size| add(size, overflow));
    if let Some(sum) = sum.as_ref().filter(|sum| !DB_POOL_MAX_CONNECTIONS.allowed.has_count(sum.value)) {
        let allowed = format!("{} in all", DB_POOL_MAX_CONNECTIONS.allowed());
        reader.report_as(&DATABASE_POOL_SIZE, sum.variable, sum.text.clone(), allowed);
    }

    let (max, overflow) = resolve_max(reader, max, sum, set_overflow);
    let min = resolve_min(reader, min, max.saturating_sub(overflow));
    check(reader, min, max, overflow);
    (min, max, overflow)
}

/// Resolves the maximum between its own variable and the sum of the second spelling. Returns it with the overflow that
/// applies.
fn resolve_max(
    reader: &mut Reader,
    max: Option<Parsed<u32>>,
    sum: Option<Parsed<u32>>,
    overflow: u32,
) -> (u32, u32) {
    let sum_rank = sum.as_ref().map(|sum| sum.source.rank());
    let Some(winner) = reader.choose(&DB_POOL_MAX_CONNECTIONS, [max, sum], u32::to_string) else {
        let parse = |text: &str| DB_POOL_MAX_CONNECTIONS.allowed.count(text);
        return (reader.default_of(&DB_POOL_MAX_CONNECTIONS, parse), overflow);
    };
    if sum_rank.is_none_or(|rank| rank >= winner.source.rank()) {
        return (winner.value, overflow);
    }
    // The environment's maximum overrides both variables of the second spelling in the file.
    for (variable, value) in [(&DATABASE_POOL_SIZE, winner.value), (&DATABASE_MAX_OVERFLOW, 0)] {
        let source = Source::Variable(DB_POOL_MAX_CONNECTIONS.name);
        reader.set_effective(variable, value.to_string(), source);
    }
    (winner.value, 0)
}

/// Resolves the minimum. A default above `limit` is lowered to it; a set value above it is a problem that `check` reports.
fn resolve_min(reader: &mut Reader, min: Option<Parsed<u32>>, limit: u32) -> u32 {
    if let Some(winner) = reader.choose(&DB_POOL_MIN_CONNECTIONS, [min], u32::to_string) {
        return winner.value;
    }
    let parse = |text: &str| DB_POOL_MIN_CONNECTIONS.allowed.count(text);
    let min = reader.default_of(&DB_POOL_MIN_CONNECTIONS, parse).min(limit);
    reader.set_effective(&DB_POOL_MIN_CONNECTIONS, min.to_string(), Source::Default);
    min
}

/// Reports sizes that contradict each other, unless one of them has a problem of its own.
pub(super) fn check(reader: &mut Reader, min: u32, max: u32, overflow: u32) {
    if reader.has_problem(&[
        &DB_POOL_MIN_CONNECTIONS,
        &DB_POOL_MAX_CONNECTIONS,
        &DATABASE_POOL_SIZE,
        &DATABASE_MAX_OVERFLOW,
    ]) {
        return;
    }
    if overflow >= max {
        let allowed = format!("less than the {max} connections there may be in all");
        reader.report(&DATABASE_MAX_OVERFLOW, overflow.to_string(), allowed);
    } else if min > max - overflow {
        let allowed = match overflow {
            0 => format!("at most {max}, the value of DB_POOL_MAX_CONNECTIONS"),
            _ => format!("at most {}, the pool size without its overflow", max - overflow),
        };
        reader.report(&DB_POOL_MIN_CONNECTIONS, min.to_string(), allowed);
    }
}

fn add(size: Parsed<u32>, overflow: Option<Parsed<u32>>) -> Parsed<u32> {
    match overflow {
        // Both are at most 1000, so the sum cannot overflow.
        Some(overflow) => Parsed {
            variable: "DATABASE_POOL_SIZE + DATABASE_MAX_OVERFLOW",
            source: std::cmp::max_by_key(size.source, overflow.source, Source::rank),
            text: format!("{} + {}", size.text, overflow.text),
            value: size.value + overflow.value,
        },
        None => size,
    }
}
