//! Finds where a request ends in the bytes of a connection. It interprets nothing else of a request.
//!
//! Both searches agree with the parser of the HTTP server to the byte, or end before it. A missing byte only means
//! waiting until a deadline; a byte too many would pass on a part of the next request.

use std::mem;

/// Searches for the end of a request's head: the first empty line after a line that is not empty. As in httparse, a
/// line ends with CR LF or LF, and empty lines before a request are skipped.
#[derive(Debug, Default)]
pub(in crate::http) struct HeadEnd {
    /// The bytes before this index have been searched.
    looked: usize,
    line_start: usize,
    has_begun: bool,
}

impl HeadEnd {
    /// Returns the length of the head at the start of `bytes`. `bytes` begins with the bytes of the last call.
    pub(in crate::http) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(length) = bytes[self.looked..].iter().position(|byte| *byte == b'\n') {
            let end = self.looked + length;
            let line = &bytes[self.line_start..end];
            (self.looked, self.line_start) = (end + 1, end + 1);
            if !matches!(line, b"" | b"\r") {
                self.has_begun = true;
            } else if self.has_begun {
                return Some(end + 1);
            }
        }
        self.looked = bytes.len();
        None
    }
}

/// Whether `bytes` cannot begin an HTTP request: a TLS handshake, for example.
pub(in crate::http) fn is_no_request(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|byte| !matches!(byte, b'\r' | b'\n'));
    first.is_some_and(|byte| !byte.is_ascii_graphic())
}

/// The part of a request's body that is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum BodyEnd {
    /// This many bytes.
    After(u64),
    /// Chunks, up to the last chunk and the trailers.
    Chunks(Chunk),
}

/// The state of the parser of a chunked body (RFC 9112, section 7.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum Chunk {
    SizeFirst,
    Size(u64),
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
    /// Malformed: nothing after this is passed on.
    Broken,
}

impl BodyEnd {
    pub(in crate::http) const CHUNKED: BodyEnd = BodyEnd::Chunks(Chunk::SizeFirst);

    pub(in crate::http) fn is_reached(&self) -> bool {
        *self == BodyEnd::After(0)
    }

    /// Whether the end will never come, because the body is malformed.
    pub(in crate::http) fn is_lost(&self) -> bool {
        *self == BodyEnd::Chunks(Chunk::Broken)
    }

    /// Consumes the bytes at the start of `bytes` that belong to the body; returns their number.
    pub(in crate::http) fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            BodyEnd::After(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                taken
            }
            BodyEnd::Chunks(_) => {
                let mut taken = 0;
                while taken < bytes.len()
                    && let BodyEnd::Chunks(state) = self
                    && *state != Chunk::Broken
                {
                    if let Chunk::Data(left) = state {
                        let some = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                        taken += some;
                        *left -= some as u64;
                        if *left == 0 {
                            *state = Chunk::DataCr;
                        }
                        continue;
                    }
                    match mem::replace(state, Chunk::Broken).after(bytes[taken]) {
                        Some(Chunk::Broken) => break,
                        Some(next) => *state = next,
                        None => *self = BodyEnd::After(0),
                    }
                    taken += 1;
                }
                taken
            }
        }
    }
}

impl Chunk {
    /// The state after `byte`; `None` at the end of the body.
    fn after(self, byte: u8) -> Option<Chunk> {
        let digit = |size: u64| {
            let digit = char::from(byte).to_digit(16)?;
            size.checked_mul(16).map(|size| size + u64::from(digit))
        };
        Some(match (self, byte) {
            (Chunk::SizeFirst, _) => digit(0).map_or(Chunk::Broken, Chunk::Size),
            (Chunk::Size(size) | Chunk::SizeSpace(size), b'\t' | b' ') => Chunk::SizeSpace(size),
            (Chunk::Size(size) | Chunk::SizeSpace(size), b';') => Chunk::Extension(size),
            (Chunk::Size(size) | Chunk::SizeSpace(size) | Chunk::Extension(size), b'\r') => {
                Chunk::SizeLf(size)
            }
            (Chunk::Size(size), _) => digit(size).map_or(Chunk::Broken, Chunk::Size),
            (Chunk::Extension(size), byte) if byte == b'\t' || !byte.is_ascii_control() => {
                Chunk::Extension(size)
            }
            (Chunk::SizeLf(0), b'\n') | (Chunk::TrailerLf, b'\n') => Chunk::LineStart,
            (Chunk::SizeLf(size), b'\n') => Chunk::Data(size),
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::SizeFirst,
            (Chunk::LineStart, b'\r') => Chunk::EndLf,
            (Chunk::Trailer, b'\r') => Chunk::TrailerLf,
            (Chunk::LineStart | Chunk::Trailer, _) => Chunk::Trailer,
            (Chunk::EndLf, b'\n') => return None,
            _ => Chunk::Broken,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_codec::Decoder;
    use actix_http::ServiceConfig;
    use actix_http::error::ParseError;
    use actix_http::h1::{Codec, Message};
    use actix_web::rt::{System, SystemRunner};
    use actix_web::web::BytesMut;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn head_end(bytes: &[u8]) -> Option<usize> {
        HeadEnd::default().find(bytes)
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        assert_eq!(head_end(b"GET / HTTP/1.1\r\n\r\nG"), Some(18));
        assert_eq!(head_end(b"GET / HTTP/1.1\n\nG"), Some(16));
        assert_eq!(head_end(b"\r\n\n\r\nGET / HTTP/1.1\r\nA: b\n\r\n\r\n"), Some(28));
        for part in [&b""[..], b"\r\n\r\n\n", b"GET / HTTP/1.1\r\nA: b\r\n", b"GET / HTTP/1.1\r\n\r"] {
            assert_eq!(head_end(part), None, "{part:?}");
        }
        assert!(is_no_request(b"\x16\x03\x01") && is_no_request(b"\r\n\0") && is_no_request("é".as_bytes()));
        assert!(!is_no_request(b"G") && !is_no_request(b"\r\n") && !is_no_request(b"!"));
    }

    #[test]
    fn a_chunked_body_ends_where_it_says_and_a_broken_one_nowhere() {
        let end = |bytes: &[u8]| {
            let mut body = BodyEnd::CHUNKED;
            let taken = body.take(bytes);
            body.is_reached().then_some(taken)
        };
        assert_eq!(end(b"0\r\n\r\nGET"), Some(5));
        assert_eq!(end(b"5;a=\"b\"\r\n12345\r\nA \t\r\n1234567890\r\n00\r\nX: y\r\n\r\nG"), Some(45));
        for broken in [
            &b"\r\n\r\n"[..],
            b"g\r\n",
            b"1\nx\r\n0\r\n\r\n",
            b"1\r\nxy\r\n0\r\n\r\n",
            b"1;\x01\r\nx\r\n0\r\n\r\n",
            b"11111111111111111\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\n\rX",
        ] {
            assert_eq!(end(broken), None, "{broken:?}");
        }
    }

    /// Where the server's own parser finds the end of the head and of the body, as far as it gets.
    fn seen_by_the_server(bytes: &[u8]) -> Result<(Option<usize>, Option<usize>), ParseError> {
        thread_local! {
            static SYSTEM: SystemRunner = System::new();
        }
        // The codec needs a running clock.
        let mut codec = SYSTEM.with(|system| system.block_on(async { Codec::new(ServiceConfig::default()) }));
        let mut left = BytesMut::from(bytes);
        let mut ends = (None, None);
        while let Some(message) = codec.decode(&mut left)? {
            let end = Some(bytes.len() - left.len());
            match message {
                Message::Item(_) => ends.0 = end,
                Message::Chunk(Some(_)) => {}
                Message::Chunk(None) => {
                    ends.1 = end;
                    break;
                }
            }
        }
        Ok(ends)
    }

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";

    proptest! {
        #[test]
        fn a_head_ends_where_the_server_sees_its_end(
            pieces in prop::collection::vec(
                select(&["GET / HTTP/1.0", "\r\n", "\n", "\r", "\r\n\r\n", "A: b", "C:", " ", "\t", "x", "\0"][..]), 0..12,
            ),
        ) {
            let bytes = pieces.concat().into_bytes();
            if let Ok((end, _)) = seen_by_the_server(&bytes) {
                prop_assert_eq!(HeadEnd::default().find(&bytes), end);
            }
        }

        #[test]
        fn a_body_ends_where_the_server_sees_its_end(
            pieces in prop::collection::vec(
                select(&["0", "1", "a", "1\r\nx\r\n", "0\r\n", "\r\n", "\r", "\n", ";", " ", "X: y", "\x01"][..]), 0..16,
            ),
        ) {
            let body = pieces.concat().into_bytes();
            let mut own_response = BodyEnd::CHUNKED;
            let taken = own_response.take(&body);
            let own_response = own_response.is_reached().then_some(HEAD.len() + taken);
            match seen_by_the_server(&[HEAD, &body].concat()) {
                Ok((_, end)) => prop_assert_eq!(own_response, end),
                // Where the server stops, ours must stop too.
                Err(_) => prop_assert_eq!(own_response, None),
            }
        }

        #[test]
        fn however_the_bytes_arrive_the_ends_are_the_same(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..4),
            cuts in prop::collection::vec(1..30_usize, 0..40),
            next in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend(format!("{:x}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            let bytes = [HEAD, &body, &next].concat();

            let (mut head_end, mut body_end) = (HeadEnd::default(), BodyEnd::CHUNKED);
            let mut at = 0_usize;
            let (mut found, mut taken) = (None, 0);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let end = at.saturating_add(cut).min(bytes.len());
                found = found.or_else(|| head_end.find(&bytes[..end]));
                if found.is_some() {
                    taken += body_end.take(&bytes[HEAD.len() + taken..end]);
                }
                at = end;
            }
            prop_assert_eq!(found, Some(HEAD.len()));
            prop_assert_eq!((taken, body_end.is_reached()), (body.len(), true));
        }
    }
}
