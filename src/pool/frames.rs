//! The server's messages, as far as the pool has to understand them.

use super::wire::Wire;

/// Follows the server's messages (one type byte, four length bytes that count themselves) for the one kind
/// that matters here: ReadyForQuery (`Z`), which ends a reply and tells the transaction status.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    header: [u8; 5],
    have: usize,
    /// Bytes of the current message's body still to come.
    body: usize,
    /// Bytes since an ErrorResponse began whose reply is not complete; 0 where there is none.
    since_error: usize,
}

impl Frames {
    /// Looks at what was read. Returns how many of the last bytes are an error whose reply is not complete.
    ///
    /// The server sends an error at once and the end of that reply a moment later. A driver that is shown the
    /// error alone returns with a reply outstanding, and nobody knows whether the transaction has failed; so
    /// the error is held until its reply is complete. An error that follows a complete reply is the server
    /// ending the session, and must not reach the driver before it has taken that reply.
    pub(crate) fn observe(&mut self, mut bytes: &[u8], wire: &Wire) -> usize {
        while !bytes.is_empty() {
            if self.have < 5 {
                let take = bytes.len().min(5 - self.have);
                self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                self.have += take;
                bytes = &bytes[take..];
                self.since_error += if self.since_error > 0 { take } else { 0 };
                if self.have < 5 {
                    break;
                }
                let [_, a, b, c, d] = self.header;
                if self.header[0] == b'E' && self.since_error == 0 {
                    self.since_error = 5;
                }
                self.body = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
            }
            if self.header[0] == b'Z' && !bytes.is_empty() && self.body > 0 {
                wire.set_status(bytes[0]);
                self.since_error = 0;
            }
            let skip = bytes.len().min(self.body);
            self.since_error += if self.since_error > 0 { skip } else { 0 };
            self.body -= skip;
            bytes = &bytes[skip..];
            if self.body == 0 {
                self.have = 0;
            }
        }
        self.since_error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        message
    }

    #[test]
    fn the_status_is_read_however_the_bytes_are_cut() {
        let mut reply = message(b'2', b"");
        reply.extend(message(b'D', b"Z\0\0\0\x05I and other bytes that look like a message"));
        reply.extend(message(b'C', b"SELECT 1\0"));
        reply.extend(message(b'Z', b"T"));
        for chunk in 1..=reply.len() {
            let wire = Wire::new();
            let mut frames = Frames::default();
            for bytes in reply.chunks(chunk) {
                frames.observe(bytes, &wire);
            }
            assert_eq!(wire.status(), Some(b'T'), "chunks of {chunk}");
        }
    }

    #[test]
    fn an_error_is_held_until_its_reply_is_complete_and_what_came_before_is_not() {
        let (wire, mut frames) = (Wire::new(), Frames::default());
        let reply = [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
        let error = message(b'E', b"SFATAL\0C57P01\0\0");
        assert_eq!(frames.observe(&[reply.clone(), error.clone()].concat(), &wire), error.len());
        assert_eq!(frames.observe(&message(b'Z', b"I"), &wire), 0);
        for cut in 1..error.len() {
            // The first bytes of a header do not tell yet, and may be handed out.
            let first = frames.observe(&error[..cut], &wire);
            assert!(first == cut || (cut < 5 && first == 0), "{first} of {cut}");
            assert_eq!(frames.observe(&error[cut..], &wire), error.len());
            assert_eq!(frames.observe(&reply, &wire), 0);
        }
    }
}
