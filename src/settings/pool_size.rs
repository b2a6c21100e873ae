//! Minimum, maximum and overflow, which two spellings cut differently: a minimum and a maximum in one, a
//! pool size and an overflow on top of it in the other.

use crate::settings::reader::{Reader, Said, Source};
use crate::settings::variables::{
    DATABASE_MAX_OVERFLOW, DATABASE_POOL_SIZE, DB_POOL_MAX_CONNECTIONS, DB_POOL_MIN_CONNECTIONS, Variable,
};

/// Reads minimum, maximum and overflow.
pub(super) fn read(reader: &mut Reader) -> (u32, u32, u32) {
    let mut count = |variable: &'static Variable| reader.said(variable, |text| variable.allowed.count(text));
    let (min, max) = (count(&DB_POOL_MIN_CONNECTIONS), count(&DB_POOL_MAX_CONNECTIONS));
    let (size, overflow) = (count(&DATABASE_POOL_SIZE), count(&DATABASE_MAX_OVERFLOW));
    let mut extra = overflow.as_ref().map_or(0, |overflow| overflow.value);

    if size.is_none() && max.is_none() && extra > 0 && !reader.is_faulty(&[&DATABASE_POOL_SIZE]) {
        let allowed = "along with DATABASE_POOL_SIZE, to which it is added";
        reader.fault(&DATABASE_MAX_OVERFLOW, extra.to_string(), allowed);
    }
    let pair = size.map(|size| add(size, overflow));
    if let Some(pair) = pair.as_ref().filter(|pair| !DB_POOL_MAX_CONNECTIONS.allowed.has_count(pair.value)) {
        let allowed = format!("{} in all", DB_POOL_MAX_CONNECTIONS.allowed());
        reader.fault_as(&DATABASE_POOL_SIZE, pair.by, pair.text.clone(), allowed);
    }

    let pair_rank = pair.as_ref().map(|pair| pair.source.rank());
    let most = match reader.weigh(&DB_POOL_MAX_CONNECTIONS, [max, pair], u32::to_string) {
        Some(most) => {
            if pair_rank.is_some_and(|rank| rank < most.source.rank()) {
                // The environment's maximum overrules the pair in the file as a whole.
                extra = 0;
                for (variable, value) in [(&DATABASE_POOL_SIZE, most.value), (&DATABASE_MAX_OVERFLOW, 0)] {
                    reader.row(variable, value.to_string(), Source::Variable(DB_POOL_MAX_CONNECTIONS.name));
                }
            }
            most.value
        }
        None => {
            reader.default_of(&DB_POOL_MAX_CONNECTIONS, |text| DB_POOL_MAX_CONNECTIONS.allowed.count(text))
        }
    };
    let least = match reader.weigh(&DB_POOL_MIN_CONNECTIONS, [min], u32::to_string) {
        Some(min) => min.value,
        None => {
            let preset = reader
                .default_of(&DB_POOL_MIN_CONNECTIONS, |text| DB_POOL_MIN_CONNECTIONS.allowed.count(text));
            let least = preset.min(most.saturating_sub(extra));
            reader.row(&DB_POOL_MIN_CONNECTIONS, least.to_string(), Source::Default);
            least
        }
    };
    check(reader, least, most, extra);
    (least, most, extra)
}

/// Notes sizes that do not fit each other, unless one of them is at fault by itself.
pub(super) fn check(reader: &mut Reader, min: u32, max: u32, overflow: u32) {
    if reader.is_faulty(&[
        &DB_POOL_MIN_CONNECTIONS,
        &DB_POOL_MAX_CONNECTIONS,
        &DATABASE_POOL_SIZE,
        &DATABASE_MAX_OVERFLOW,
    ]) {
        return;
    }
    if overflow >= max {
        let allowed = format!("less than the {max} connections there may be in all");
        reader.fault(&DATABASE_MAX_OVERFLOW, overflow.to_string(), allowed);
    } else if min > max - overflow {
        let allowed = match overflow {
            0 => format!("at most {max}, the value of DB_POOL_MAX_CONNECTIONS"),
            _ => format!("at most {}, the pool size without its overflow", max - overflow),
        };
        reader.fault(&DB_POOL_MIN_CONNECTIONS, min.to_string(), allowed);
    }
}

fn add(size: Said<u32>, overflow: Option<Said<u32>>) -> Said<u32> {
    match overflow {
        // Both are below a thousand: the sum cannot overflow.
        Some(overflow) => Said {
            by: "DATABASE_POOL_SIZE + DATABASE_MAX_OVERFLOW",
            source: std::cmp::max_by_key(size.source, overflow.source, Source::rank),
            text: format!("{} + {}", size.text, overflow.text),
            value: size.value + overflow.value,
        },
        None => size,
    }
}
