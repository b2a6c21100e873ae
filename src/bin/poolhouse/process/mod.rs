//! The program as a process: signals, systemd, and the processes it inherits as the first process of a container. It knows
//! nothing of HTTP and databases.

pub(crate) mod reaper;
pub(crate) mod sd_notify;
pub(crate) mod signals;
