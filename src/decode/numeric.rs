//! NUMERIC: exact decimals of any length, stored in groups of four digits.

use crate::decode::failure::Failure;
use crate::decode::text::Text;
use std::fmt::Write;

/// PostgreSQL's `NUMERIC_MAX_DISPLAY_SCALE`, and more than any column can declare.
const MAX_SCALE: u16 = 16_383;

const NAN: &str = "NaN";
const INFINITY: &str = "Infinity";
const MINUS_INFINITY: &str = "-Infinity";

/// A value in its binary form, validated.
#[derive(Debug)]
pub(super) enum Numeric<'a> {
    /// A number.
    Finite(Finite<'a>),
    /// `NaN`, `Infinity` or `-Infinity`.
    Special(&'static str),
}

/// The digits of a number in groups of four; the first group has the weight 10000^weight.
#[derive(Debug)]
pub(super) struct Finite<'a> {
    is_negative: bool,
    weight: i32,
    scale: usize,
    groups: &'a [u8],
}

impl<'a> Numeric<'a> {
    /// Reads the binary form (`numeric_send` in PostgreSQL's numeric.c).
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Numeric<'a>, Failure> {
        let malformed = |reason| Failure::malformed(bytes, reason);
        let Some((&[n0, n1, w0, w1, s0, s1, d0, d1], groups)) = bytes.split_first_chunk::<8>() else {
            return Err(malformed("shorter than its header"));
        };
        if groups.len() != 2 * usize::from(u16::from_be_bytes([n0, n1])) {
            return Err(malformed("its length does not match its number of digits"));
        }
        if groups.chunks_exact(2).any(|group| u16::from_be_bytes([group[0], group[1]]) > 9999) {
            return Err(malformed("a group of digits above 9999"));
        }
        let scale = u16::from_be_bytes([d0, d1]);
        let is_negative = match u16::from_be_bytes([s0, s1]) {
            0x0000 => false,
            0x4000 => true,
            0xC000 => return Ok(Numeric::Special(NAN)),
            0xD000 => return Ok(Numeric::Special(INFINITY)),
            0xF000 => return Ok(Numeric::Special(MINUS_INFINITY)),
            _ => return Err(malformed("unknown sign")),
        };
        if scale > MAX_SCALE {
            return Err(malformed("more digits after the point than PostgreSQL allows"));
        }
        let weight = i32::from(i16::from_be_bytes([w0, w1]));
        Ok(Numeric::Finite(Finite { is_negative, weight, scale: usize::from(scale), groups }))
    }

    /// Passes the exact text to `use_text`. A short text, which is nearly every one, stays on the stack.
    pub(super) fn with_text<R>(&self, use_text: impl FnOnce(&str) -> R) -> R {
        match self {
            Numeric::Special(text) => use_text(text),
            Numeric::Finite(finite) if finite.max_len() <= Text::CAPACITY => {
                let mut text = Text::new();
                finite.write(&mut text);
                use_text(text.as_str())
            }
            Numeric::Finite(finite) => {
                let mut text = String::with_capacity(finite.max_len());
                finite.write(&mut text);
                use_text(&text)
            }
        }
    }

    /// The value as an integer; an error if it is not whole.
    pub(super) fn to_integer(&self) -> Result<i128, Failure> {
        self.integer().map_err(|reason| {
            self.with_text(|text| {
                Failure::stated(format!("expected an integer, found a numeric that is {reason}: {text}"))
            })
        })
    }

    fn integer(&self) -> Result<i128, &'static str> {
        let Numeric::Finite(finite) = self else { return Err("not a number") };
        let mut value = 0i128;
        for index in 0..=finite.weight {
            value = value
                .checked_mul(10_000)
                .and_then(|value| value.checked_add(i128::from(finite.group(index))))
                .ok_or("out of range")?;
        }
        let groups = finite.groups.len() as i32 / 2;
        if ((finite.weight + 1).max(0)..groups).any(|index| finite.group(index) != 0) {
            return Err("not whole");
        }
        Ok(if finite.is_negative { -value } else { value })
    }

    /// The nearest floating point number.
    pub(super) fn to_float<F: Float>(&self) -> Result<F, Failure> {
        let out_of_range = |text: &str| {
            Failure::stated(format!("expected {}, found a numeric that is out of its range: {text}", F::NAME))
        };
        self.with_text(|text| match (self, text.parse::<F>()) {
            (Numeric::Finite(_), Ok(value)) if !value.is_finite() => Err(out_of_range(text)),
            (_, Ok(value)) => Ok(value),
            (_, Err(_)) => Err(out_of_range(text)),
        })
    }
}

impl Finite<'_> {
    /// The group at `index`; 0 if it is not stored.
    fn group(&self, index: i32) -> u16 {
        let stored = usize::try_from(index).ok().and_then(|index| self.groups.get(2 * index..2 * index + 2));
        stored.map_or(0, |group| u16::from_be_bytes([group[0], group[1]]))
    }

    /// An upper bound of the text's length: sign, integer digits, point, fraction.
    fn max_len(&self) -> usize {
        let integer_groups = usize::try_from(self.weight + 1).unwrap_or(0).max(1);
        2 + 4 * integer_groups + self.scale
    }

    /// Writes the text PostgreSQL prints (`get_str_from_var`). Neither `Text` nor `String` can fail here.
    fn write(&self, out: &mut impl Write) {
        if self.is_negative {
            let _ = out.write_char('-');
        }
        let mut has_digits = false;
        for index in 0..=self.weight {
            let group = self.group(index);
            let digits = four_digits(group);
            // Leading zeros of the integer part are not written.
            let start = if has_digits { 0 } else { digits.iter().take_while(|&&d| d == '0').count() };
            for &digit in &digits[start..] {
                let _ = out.write_char(digit);
            }
            has_digits |= group != 0;
        }
        if !has_digits {
            let _ = out.write_char('0');
        }
        if self.scale == 0 {
            return;
        }
        let _ = out.write_char('.');
        // Groups before the first stored one are 0, as in 0.00001234, and so are those after the last.
        let mut index = self.weight + 1;
        let mut remaining = self.scale;
        while remaining > 0 {
            for digit in four_digits(self.group(index)).into_iter().take(remaining) {
                let _ = out.write_char(digit);
            }
            index += 1;
            remaining = remaining.saturating_sub(4);
        }
    }
}

fn four_digits(group: u16) -> [char; 4] {
    [group / 1000, group / 100 % 10, group / 10 % 10, group % 10].map(|digit| char::from(b'0' + digit as u8))
}

/// The two floating point types, reduced to what `to_float` needs.
pub(super) trait Float: std::str::FromStr {
    const NAME: &'static str;
    fn is_finite(&self) -> bool;
}

impl Float for f32 {
    const NAME: &'static str = "f32";
    fn is_finite(&self) -> bool {
        f32::is_finite(*self)
    }
}

impl Float for f64 {
    const NAME: &'static str = "f64";
    fn is_finite(&self) -> bool {
        f64::is_finite(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((groups.len() as u16).to_be_bytes());
        bytes.extend(weight.to_be_bytes());
        bytes.extend(sign.to_be_bytes());
        bytes.extend(scale.to_be_bytes());
        bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
        bytes
    }

    fn text(bytes: &[u8]) -> String {
        Numeric::parse(bytes).unwrap().with_text(str::to_owned)
    }

    #[test]
    fn the_text_is_exact() {
        for (weight, sign, scale, groups, expected) in [
            (0, 0, 0, &[][..], "0"),
            (0, 0, 2, &[], "0.00"),
            (0, 0x4000, 2, &[12, 3400], "-12.34"),
            (1, 0, 0, &[1, 5], "10005"),
            (2, 0, 0, &[1], "100000000"),
            (-1, 0, 3, &[10], "0.001"),
            (-2, 0, 8, &[1234], "0.00001234"),
            (-3, 0, 12, &[5], "0.000000000005"),
            (0, 0xC000, 0, &[], "NaN"),
            (0, 0xD000, 0, &[], "Infinity"),
            (0, 0xF000, 0, &[], "-Infinity"),
        ] {
            assert_eq!(text(&encoded(weight, sign, scale, groups)), expected);
        }
    }

    #[test]
    fn the_longest_number_there_can_be_is_written() {
        let bytes = encoded(i16::MAX, 0, MAX_SCALE, &[1]);
        assert_eq!(text(&bytes).len(), 1 + 4 * 32_767 + 1 + usize::from(MAX_SCALE));
        assert!(Numeric::parse(&bytes).unwrap().to_integer().is_err());
        assert!(Numeric::parse(&bytes).unwrap().to_float::<f64>().is_err());
    }

    #[test]
    fn only_whole_numbers_become_integers() {
        let integer = |bytes: Vec<u8>| Numeric::parse(&bytes).unwrap().to_integer();
        assert_eq!(integer(encoded(0, 0x4000, 2, &[12])).unwrap(), -12);
        assert_eq!(integer(encoded(-1, 0, 4, &[])).unwrap(), 0);
        let failure = integer(encoded(0, 0, 1, &[1, 5000])).unwrap_err();
        assert_eq!(failure.to_string(), "expected an integer, found a numeric that is not whole: 1.5");
        assert!(integer(encoded(-2, 0, 8, &[1])).is_err());
        assert!(integer(encoded(0, 0xC000, 0, &[])).is_err());
    }

    #[test]
    fn malformed_bytes_are_an_error() {
        for bytes in [
            vec![],
            vec![0; 7],
            encoded(0, 0x1234, 0, &[]),
            encoded(0, 0, MAX_SCALE + 1, &[]),
            encoded(0, 0, 0, &[10_000]),
            [encoded(0, 0, 0, &[1]), vec![0]].concat(),
        ] {
            assert!(Numeric::parse(&bytes).is_err(), "{bytes:?}");
        }
    }
}
