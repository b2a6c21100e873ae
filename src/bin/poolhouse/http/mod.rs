//! The service over HTTP: the server, the transport of a client's connection, and the handlers. It knows no SQL;
//! handlers reach the database through `services` only.

mod connection;
mod handlers;
pub(crate) mod server;
