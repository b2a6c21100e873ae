//! The byte stream under the driver: TLS where the settings ask for it, and a deadline on every read and write.
//!
//! The sync driver has no I/O timeout. It does hand its socket to the TLS connector, and with `sslmode=require`
//! and direct negotiation as the very first thing, before a byte is sent. A connector of ours lets that socket go
//! (see [`placeholder`]), connects to the server itself, does what encryption the settings ask for, and returns a stream
//! that fails once the [`ConnectionState`](connection_state::ConnectionState)'s deadline has passed. A driver call then returns within its deadline in every
//! fault, and so does dropping the client.
//!
//! All of this rests on the order in which the driver calls, which is why its version is pinned: it connects, asks
//! `MakeTlsConnect` for the connector, and hands it the socket before anything else is done with that.

pub(in crate::pool) mod cancel;
pub(in crate::pool) mod connection_state;
pub(in crate::pool) mod connector;
pub(in crate::pool) mod dns;
mod placeholder;
mod protocol;
mod socket;
mod stream;
pub(in crate::pool) mod tls;
