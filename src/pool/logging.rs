//! Writing to the log, which is the application's.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Writes to the log. A logger that panics must cost the pool nothing: neither a connection's place nor a thread.
pub(super) fn logged(write: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(write));
}
