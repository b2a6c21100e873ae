//! The locks the gate uses, so that a model checker can stand in for them.

#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(poolhouse_shuttle)]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
