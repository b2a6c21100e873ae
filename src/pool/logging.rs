//! Writing to the application's log.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `write` and catches a panic of the application's logger, which must not lose a connection's slot or end a thread.
pub(super) fn logged(write: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(write));
}
