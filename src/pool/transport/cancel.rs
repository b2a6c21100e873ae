//! Cancelling a statement that runs on the server.
//!
//! The driver hangs up as soon as the request is written. PgBouncer takes that for a change of mind, because it has to
//! connect to the server first; and of PostgreSQL nobody would know when it has passed the request on, which must not
//! meet the session's next statement. So the request has a connection of our own, as every other, and it stays open
//! until the other side has hung up, as libpq's does.

use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::connector::{Connector, negotiate};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

/// What asks the server to cancel the statement that runs in a session.
pub(crate) struct Cancel {
    /// How the session was reached, and what it is cancelled by.
    connector: Connector,
    astray: AtomicU32,
}

impl Cancel {
    pub(crate) fn new(connector: Connector) -> Cancel {
        Cancel { connector, astray: AtomicU32::new(0) }
    }

    /// A request went out and nobody knows where it is: it may still meet whatever the session runs next.
    pub(crate) fn is_astray(&self) -> bool {
        self.astray.load(Ordering::Relaxed) > 0
    }

    async fn send(&self) -> io::Result<()> {
        let key = self.connector.conn.cancel_key();
        if key.is_empty() {
            return Err(io::Error::other("the server gave nothing to cancel by"));
        }
        let Connector { tls, endpoint, .. } = &self.connector;
        let mut stream = negotiate(tls, endpoint, Arc::new(ConnectionState::new())).await?;
        self.astray.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&request(&key)).await?;
        stream.flush().await?;
        match stream.read(&mut [0]).await {
            Ok(0) => {}
            // It hangs up without saying goodbye, which TLS calls an error.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Ok(_) => return Err(io::Error::other("the server answers a request to cancel")),
            Err(error) => return Err(error),
        }
        self.astray.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

/// So many requests are under way at once: the server starts a process for each.
const AT_ONCE: usize = 64;

/// Sends the requests, all within `limit` where there are not very many: a server that is slow to take one, or has
/// lost it, keeps none of the others waiting.
/// Returns what became of those that failed.
pub(crate) fn send_all(cancels: &[Arc<Cancel>], limit: Duration) -> io::Result<Vec<io::Error>> {
    let mut failures = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for cancels in cancels.chunks(AT_ONCE) {
        let deadline = Instant::now() + limit;
        let mut requests = JoinSet::new();
        for cancel in cancels {
            let cancel = cancel.clone();
            requests.spawn_on(
                async move {
                    let sent = timeout_at(deadline.into(), cancel.send()).await;
                    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                },
                runtime.handle(),
            );
        }
        while let Some(Ok(sent)) = runtime.block_on(requests.join_next()) {
            if let Err(error) = sent {
                failures.push(error);
            }
        }
    }
    Ok(failures)
}

/// PostgreSQL, "Message Formats", CancelRequest.
fn request(key: &[u8]) -> Vec<u8> {
    const CODE: u32 = 80_877_102;
    let length = 8 + key.len() as u32;
    [&length.to_be_bytes(), &CODE.to_be_bytes(), key].concat()
}
