//! Looking for a reply before it is received.

use crate::pool::transport::protocol::reply::has_end;
use crate::pool::transport::wire::Wire;
use std::time::Instant;

/// What there is of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// All of it; or receiving it would fail at once.
    Complete,
    /// There may be more of it to receive.
    Part,
    /// There is nothing to receive until the socket becomes readable again.
    Nothing,
}

/// How often one look receives: each time some ten kilobytes.
const MAX_LOOKS: u32 = 4;

impl Wire {
    /// Waits until the next reply is complete, at most until `due`, and reads nothing of it. Also returns true where receiving it
    /// would fail at once.
    pub(crate) fn is_reply_there(&mut self, due: Instant) -> bool {
        let mut stream = self.stream.lock();
        let mut seen = 0;
        loop {
            if has_end(&self.input, &mut seen) || self.input.len() > self.max_reply {
                return true;
            }
            if !stream.is_readable(due) {
                return false;
            }
            // Receiving reports the failure, or the end of the stream, again.
            if !matches!(stream.receive_if_there(&mut self.input), Ok(Some(1..)) | Ok(None)) {
                return true;
            }
        }
    }

    /// Looks for the next reply without waiting. `seen` is 0 at the first look for a reply, and its own afterwards.
    pub(crate) fn look(&mut self, seen: &mut usize) -> Look {
        let mut stream = self.stream.lock();
        for _ in 0..MAX_LOOKS {
            if has_end(&self.input, seen) || self.input.len() > self.max_reply {
                return Look::Complete;
            }
            match stream.receive_if_there(&mut self.input) {
                Ok(Some(1..)) => {}
                Ok(None) => return Look::Nothing,
                // Receiving reports the failure, or the end of the stream, again.
                Ok(Some(0)) | Err(_) => return Look::Complete,
            }
        }
        Look::Part
    }
}
