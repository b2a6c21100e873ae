//! Cancel requests: asking the server to stop the statement that a session runs.
//!
//! A request uses a connection of its own, as the protocol requires, and keeps it open until the server closes it, as
//! libpq does. The driver's own cancel function closes the connection as soon as the request is written. PgBouncer drops
//! such a request, because it must first connect to the server. With PostgreSQL it would be unknown when the request
//! has been processed, and a late one could cancel the session's next statement.
//!
//! This file knows nothing of statements, and does not decide which to cancel.

use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::connector::{Connector, negotiate};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

/// The most cancel requests sent at the same time: the server starts a process for each.
const MAX_CONCURRENT: usize = 64;

/// Sends cancel requests for one session.
pub(crate) struct Cancel {
    /// How the session was connected; its state holds the cancel key.
    connector: Connector,
    /// Requests that are still to be sent, or are being sent.
    ordered: AtomicU32,
    /// Requests whose processing the server has not confirmed by closing their connection.
    unaccounted: AtomicU32,
}

impl Cancel {
    pub(crate) fn new(connector: Connector) -> Cancel {
        Cancel { connector, ordered: AtomicU32::new(0), unaccounted: AtomicU32::new(0) }
    }

    /// Whether a request was sent and may still be on its way: it could cancel any later statement of the session.
    pub(crate) fn has_unaccounted(&self) -> bool {
        self.unaccounted.load(Ordering::Relaxed) > 0
    }

    /// Notes that a request is to be sent.
    pub(crate) fn note_ordered(&self) {
        self.ordered.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a request was sent, or cannot be.
    pub(crate) fn note_sent(&self) {
        // Release: whoever sees this sees what is unaccounted for.
        self.ordered.fetch_sub(1, Ordering::Release);
    }

    /// Whether no request can cancel a later statement of the session any more.
    pub(crate) fn is_settled(&self) -> bool {
        self.ordered.load(Ordering::Acquire) == 0 && !self.has_unaccounted()
    }

    async fn send(&self) -> io::Result<()> {
        let key = self.connector.conn.cancel_key();
        if key.is_empty() {
            return Err(io::Error::other("the server sent no cancel key at the login"));
        }
        let Connector { tls, endpoint, .. } = &self.connector;
        let mut stream = negotiate(tls, endpoint, Arc::new(ConnectionState::new())).await?;
        self.unaccounted.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&cancel_request(&key)).await?;
        stream.flush().await?;
        match stream.read(&mut [0]).await {
            Ok(0) => {}
            // The server closes the connection without TLS's close_notify, which rustls reports as an error.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Ok(_) => return Err(io::Error::other("the server sent a reply to a cancel request")),
            Err(error) => return Err(error),
        }
        self.unaccounted.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Sends cancel requests concurrently and returns the errors of those that failed.
///
/// Each batch of [`MAX_CONCURRENT`] has `limit`. A server that is slow to accept one request does not delay the others of its
/// batch.
pub(crate) fn send_all(cancels: &[Arc<Cancel>], limit: Duration) -> io::Result<Vec<io::Error>> {
    let mut failures = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for batch in cancels.chunks(MAX_CONCURRENT) {
        let deadline = Instant::now() + limit;
        let mut sends = JoinSet::new();
        for cancel in batch {
            let cancel = cancel.clone();
            sends.spawn_on(
                async move {
                    let sent = timeout_at(deadline.into(), cancel.send()).await;
                    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                },
                runtime.handle(),
            );
        }
        while let Some(Ok(sent)) = runtime.block_on(sends.join_next()) {
            if let Err(error) = sent {
                failures.push(error);
            }
        }
    }
    Ok(failures)
}

/// PostgreSQL, "Message Formats", CancelRequest.
fn cancel_request(key: &[u8]) -> Vec<u8> {
    const CODE: u32 = 80_877_102;
    let length = 8 + key.len() as u32;
    [&length.to_be_bytes(), &CODE.to_be_bytes(), key].concat()
}
