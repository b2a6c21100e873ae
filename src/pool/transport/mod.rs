//! The transport: the byte stream to the server, with TLS where the settings ask for it and a deadline on every
//! operation.
//!
//! It knows the addresses of the servers and the framing of PostgreSQL's messages. It knows nothing of the gate, the
//! store, sessions, or the text of statements.
//!
//! Two parties use a connection's stream, one after the other. The pool's own requests block on it ([`wire`]). The driver,
//! which logs in and serves raw access and COPY, polls it ([`stream`]). They meet in [`server_stream`]: neither reads the
//! other's bytes.
//!
//! The synchronous driver has no I/O timeout. With `sslmode=require` and direct negotiation it passes its socket to the TLS
//! connector before it sends a byte. [`Connector`](connector::Connector) drops that socket (see [`placeholder`]), connects
//! to the server itself, negotiates TLS, and returns a stream that fails once the deadline in
//! [`ConnectionState`](connection_state::ConnectionState) has passed. Every call of the driver therefore returns within its
//! deadline in every fault, and so does dropping the client.
//!
//! This depends on the order of the driver's calls, so the driver's version is pinned: it connects, asks
//! `MakeTlsConnect` for the connector, and passes it the socket before using the socket otherwise.
//!
//! **Lock rule**: none of the locks here is held across I/O or a wait, except for the stream's own. Each file with a lock names
//! the fields it governs.

pub(in crate::pool) mod cancel;
pub(in crate::pool) mod connection_state;
pub(in crate::pool) mod connector;
pub(in crate::pool) mod dns;
mod placeholder;
pub(in crate::pool) mod protocol;
mod server_stream;
pub(in crate::pool) mod socket;
mod stream;
pub(in crate::pool) mod tls;
pub(in crate::pool) mod wire;
