//! Dates, times, addresses and bytes as text, formatted without allocating. The forms are PostgreSQL's or ISO 8601's.

use postgres_protocol::types::Inet;
use std::fmt::{self, Write};

/// More than the longest of these texts, an interval of 60 bytes.
const CAPACITY: usize = 96;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// From 1970-01-01, the epoch of the calendar algorithm, to 2000-01-01, PostgreSQL's epoch.
const DAYS_TO_2000: i64 = 10_957;

/// A short text on the stack.
pub(super) struct Text {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Text {
    pub(super) const CAPACITY: usize = CAPACITY;

    pub(super) fn new() -> Text {
        Text { bytes: [0; CAPACITY], len: 0 }
    }

    fn of(text: &str) -> Text {
        let mut out = Text::new();
        out.push_str(text);
        out
    }

    pub(super) fn as_str(&self) -> &str {
        // Only whole `str`s and ASCII are ever pushed.
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    pub(super) fn push_str(&mut self, text: &str) {
        // bug: a text longer than CAPACITY, which exceeds the longest possible one.
        debug_assert!(self.len + text.len() <= CAPACITY);
        if let Some(room) = self.bytes.get_mut(self.len..self.len + text.len()) {
            room.copy_from_slice(text.as_bytes());
            self.len += text.len();
        }
    }

    /// Pushes `value` in decimal, with leading zeros up to `width`.
    pub(super) fn push_number(&mut self, mut value: u64, width: usize) {
        // u64::MAX has 20 digits.
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        while value > 0 {
            start -= 1;
            digits[start] = b'0' + (value % 10) as u8;
            value /= 10;
        }
        start = start.min(digits.len() - width);
        self.push_str(str::from_utf8(&digits[start..]).unwrap_or_default());
    }

    /// Pushes `.` and the digits of a fraction of a second, without trailing zeros; nothing if it is 0.
    fn push_fraction(&mut self, micros: u64) {
        if micros > 0 {
            self.push_str(".");
            self.push_number(micros, 6);
            while self.bytes[self.len - 1] == b'0' {
                self.len -= 1;
            }
        }
    }

    fn push_date(&mut self, days: i64) {
        let (year, month, day) = civil_from_days(days + DAYS_TO_2000);
        // ISO 8601: a year of other than four digits has a sign; year 0 is 1 BC.
        match year {
            0..=9999 => {}
            10_000.. => self.push_str("+"),
            _ => self.push_str("-"),
        }
        self.push_number(year.unsigned_abs(), 4);
        self.push_str("-");
        self.push_number(month, 2);
        self.push_str("-");
        self.push_number(day, 2);
    }

    /// Pushes a part of an interval; nothing if it is 0.
    fn push_part(&mut self, value: i64, unit: &str) {
        if value != 0 {
            self.push_str(if value < 0 { "-" } else { "" });
            self.push_number(value.unsigned_abs(), 1);
            self.push_str(unit);
        }
    }

    fn push_time(&mut self, micros: u64) {
        let seconds = micros / MICROS_PER_SECOND as u64;
        self.push_number(seconds / 3600, 2);
        self.push_str(":");
        self.push_number(seconds / 60 % 60, 2);
        self.push_str(":");
        self.push_number(seconds % 60, 2);
        self.push_fraction(micros % MICROS_PER_SECOND as u64);
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text);
        Ok(())
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Howard Hinnant's `civil_from_days` (chrono-Compatible Low-Level Date Algorithms). Not chrono's own types:
/// PostgreSQL's dates reach the year 5874897, chrono's end at 262142.
fn civil_from_days(days: i64) -> (i64, u64, u64) {
    // Counted from 0000-03-01, so that a leap day ends its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u64, day as u64)
}

/// A date, given in days from 2000-01-01.
pub(super) fn date(days: i32) -> Text {
    match days {
        i32::MAX => Text::of("infinity"),
        i32::MIN => Text::of("-infinity"),
        _ => {
            let mut out = Text::new();
            out.push_date(i64::from(days));
            out
        }
    }
}

/// A moment, given in microseconds from 2000-01-01; `suffix` is its zone, if it has one.
pub(super) fn timestamp(micros: i64, suffix: &str) -> Text {
    match micros {
        i64::MAX => Text::of("infinity"),
        i64::MIN => Text::of("-infinity"),
        _ => {
            let mut out = Text::new();
            out.push_date(micros.div_euclid(MICROS_PER_DAY));
            out.push_str("T");
            out.push_time(micros.rem_euclid(MICROS_PER_DAY) as u64);
            out.push_str(suffix);
            out
        }
    }
}

/// A time of day, given in microseconds from midnight, up to `24:00:00`; `None` if it is out of range.
pub(super) fn time(micros: i64) -> Option<Text> {
    if !(0..=MICROS_PER_DAY).contains(&micros) {
        return None;
    }
    let mut out = Text::new();
    out.push_time(micros as u64);
    Some(out)
}

/// A time of day with its zone, in seconds west of Greenwich; `None` if either is out of range.
pub(super) fn time_with_zone(micros: i64, seconds_west: i32) -> Option<Text> {
    let mut out = time(micros)?;
    let offset = u64::from(seconds_west.unsigned_abs());
    // PostgreSQL's MAX_TZDISP_HOUR.
    if offset >= 16 * 3600 {
        return None;
    }
    out.push_str(if seconds_west > 0 { "-" } else { "+" });
    out.push_number(offset / 3600, 2);
    out.push_str(":");
    out.push_number(offset / 60 % 60, 2);
    if offset % 60 > 0 {
        out.push_str(":");
        out.push_number(offset % 60, 2);
    }
    Some(out)
}

/// An interval, as PostgreSQL writes it with `intervalstyle = iso_8601`.
pub(super) fn interval(months: i32, days: i32, micros: i64) -> Text {
    match (months, days, micros) {
        (0, 0, 0) => return Text::of("PT0S"),
        // Since PostgreSQL 17.
        (i32::MAX, i32::MAX, i64::MAX) => return Text::of("infinity"),
        (i32::MIN, i32::MIN, i64::MIN) => return Text::of("-infinity"),
        _ => {}
    }
    let mut out = Text::of("P");
    // Division truncates towards zero, so every part has the sign of the whole.
    out.push_part(i64::from(months / 12), "Y");
    out.push_part(i64::from(months % 12), "M");
    out.push_part(i64::from(days), "D");
    if micros != 0 {
        let minutes = micros / (60 * MICROS_PER_SECOND);
        let rest = micros % (60 * MICROS_PER_SECOND);
        out.push_str("T");
        out.push_part(minutes / 60, "H");
        out.push_part(minutes % 60, "M");
        if rest != 0 {
            out.push_str(if rest < 0 { "-" } else { "" });
            out.push_number(rest.unsigned_abs() / MICROS_PER_SECOND as u64, 1);
            out.push_fraction(rest.unsigned_abs() % MICROS_PER_SECOND as u64);
            out.push_str("S");
        }
    }
    out
}

/// A UUID in its usual form.
pub(super) fn uuid(bytes: [u8; 16]) -> Text {
    let mut buffer = uuid::Uuid::encode_buffer();
    Text::of(uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut buffer))
}

/// An address. A network length that covers the whole address is left out, except for `cidr`.
pub(super) fn inet(inet: &Inet, is_cidr: bool) -> Text {
    let mut out = Text::new();
    let full = if inet.addr().is_ipv4() { 32 } else { 128 };
    // Writing to `Text` cannot fail.
    let _ = write!(out, "{}", inet.addr());
    if is_cidr || inet.netmask() != full {
        out.push_str("/");
        out.push_number(u64::from(inet.netmask()), 1);
    }
    out
}

/// Six or eight bytes as `08:00:2b:01:02:03`.
pub(super) fn mac_address(bytes: &[u8]) -> Option<Text> {
    if bytes.len() != 6 && bytes.len() != 8 {
        return None;
    }
    let mut out = Text::new();
    for (index, byte) in bytes.iter().enumerate() {
        let _ = write!(out, "{}{byte:02x}", if index > 0 { ":" } else { "" });
    }
    Some(out)
}

/// A `"char"`, as PostgreSQL writes it: the empty text for 0, `\ooo` for a byte that is not ASCII.
pub(super) fn char_byte(byte: u8) -> Text {
    let mut out = Text::new();
    match byte {
        0 => {}
        1..=127 => out.push_str(char::from(byte).encode_utf8(&mut [0; 4])),
        _ => {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
    out
}

/// Bytes, as PostgreSQL writes them with `bytea_output = hex`.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(2 + 2 * bytes.len());
    out.push_str("\\x");
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_outside_four_digit_years_have_the_sign_of_iso_8601() {
        for (days, text) in [
            (0, "2000-01-01"),
            (59, "2000-02-29"),
            (-1, "1999-12-31"),
            (9821, "2026-11-21"),
            (-730_120, "0000-12-31"),
            (-746_000, "-0043-07-10"),
            (2_921_940, "+10000-01-01"),
            (2_145_031_948, "+5874897-12-31"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            assert_eq!(date(days).as_str(), text, "{days}");
        }
    }

    #[test]
    fn times_lose_only_the_trailing_zeros_of_their_fraction() {
        for (micros, text) in [
            (0, "00:00:00"),
            (29_700_500_000, "08:15:00.5"),
            (29_700_000_001, "08:15:00.000001"),
            (29_710_000_000, "08:15:10"),
            (MICROS_PER_DAY, "24:00:00"),
        ] {
            assert_eq!(time(micros).unwrap().as_str(), text);
        }
        assert!(time(-1).is_none());
        assert!(time(MICROS_PER_DAY + 1).is_none());
    }

    #[test]
    fn a_timestamp_before_2000_counts_its_time_of_day_forwards() {
        assert_eq!(timestamp(-1, "").as_str(), "1999-12-31T23:59:59.999999");
        assert_eq!(timestamp(i64::MIN + 1, "Z").as_str().len(), "-290278-12-22T19:59:05.224193Z".len());
        assert_eq!(timestamp(i64::MAX, "Z").as_str(), "infinity");
    }

    #[test]
    fn the_longest_interval_fits() {
        assert_eq!(
            interval(i32::MIN, i32::MIN, -i64::MAX).as_str(),
            "P-178956970Y-8M-2147483648DT-2562047788H-54.775807S"
        );
        assert_eq!(interval(i32::MIN, i32::MIN, i64::MIN).as_str(), "-infinity");
    }

    #[test]
    fn zones_west_of_greenwich_are_negative() {
        assert_eq!(time_with_zone(0, -7200).unwrap().as_str(), "00:00:00+02:00");
        assert_eq!(time_with_zone(0, 12_645).unwrap().as_str(), "00:00:00-03:30:45");
        assert!(time_with_zone(0, i32::MIN).is_none());
    }

    #[test]
    fn bytes_are_hexadecimal() {
        assert_eq!(hex(b"hi\xff"), "\\x6869ff");
        assert_eq!(mac_address(&[8, 0, 0x2b, 1, 2, 3]).unwrap().as_str(), "08:00:2b:01:02:03");
        assert_eq!(char_byte(0).as_str(), "");
        assert_eq!(char_byte(b'a').as_str(), "a");
        assert_eq!(char_byte(200).as_str(), "\\310");
    }
}
