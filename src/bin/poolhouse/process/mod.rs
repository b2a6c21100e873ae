//! The program as a process: signals, its supervisor, and the processes it inherits.

pub(crate) mod reaper;
pub(crate) mod sd_notify;
pub(crate) mod signals;
