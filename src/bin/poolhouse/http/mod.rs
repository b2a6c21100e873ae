//! The service over HTTP: the server, what a client's connection carries, and the handlers.

mod connection;
mod handlers;
pub(crate) mod server;
