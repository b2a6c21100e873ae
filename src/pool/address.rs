//! Where the servers are: names become addresses, within a time limit.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// One place where a server may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The host as the settings name it: what a certificate is checked against.
    pub(crate) host: String,
    pub(crate) address: Address,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.address {
            Address::Tcp(address) if address.ip().to_string() == self.host => address.fmt(f),
            Address::Tcp(address) => write!(f, "{} ({address})", self.host),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The system's resolver has no time limit and cannot be interrupted, so it runs in threads of its own; one that
/// hangs is left behind. More than so many left behind are not joined by another.
const MOST_LEFT_BEHIND: usize = 16;

static RESOLVING: AtomicUsize = AtomicUsize::new(0);

/// Every address of every host, in order. A host without an address is left out, unless all are.
///
/// Blocks for at most `limit`.
pub(crate) fn endpoints(hosts: &[(String, u16)], limit: Duration) -> io::Result<Vec<Endpoint>> {
    let deadline = Instant::now() + limit;
    let mut found = Vec::new();
    let mut failure = None;
    for (host, port) in hosts {
        let endpoint = |address| Endpoint { host: host.clone(), address };
        if host.starts_with('/') {
            let socket = Path::new(host).join(format!(".s.PGSQL.{port}"));
            found.push(endpoint(Address::Unix(socket)));
        } else if let Ok(ip) = host.parse::<IpAddr>() {
            found.push(endpoint(Address::Tcp(SocketAddr::new(ip, *port))));
        } else {
            match resolve(host, *port, deadline) {
                Ok(addresses) => found.extend(addresses.into_iter().map(|at| endpoint(Address::Tcp(at)))),
                Err(error) => {
                    failure =
                        Some(io::Error::new(error.kind(), format!("cannot resolve \"{host}\": {error}")));
                }
            }
        }
    }
    match failure {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

fn resolve(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    if RESOLVING.load(Ordering::Relaxed) >= MOST_LEFT_BEHIND {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "earlier attempts still wait for the resolver"));
    }
    let (sender, receiver) = mpsc::channel();
    let name = (host.to_owned(), port);
    RESOLVING.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::Builder::new().name("poolhouse-resolver".into()).spawn(move || {
        let addresses = name.to_socket_addrs().map(|addresses| addresses.collect::<Vec<_>>());
        RESOLVING.fetch_sub(1, Ordering::Relaxed);
        // Nobody may be waiting for it any more.
        let _ = sender.send(addresses);
    });
    if let Err(error) = thread {
        RESOLVING.fetch_sub(1, Ordering::Relaxed);
        return Err(error);
    }
    let silence = || io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer in time");
    let left = deadline.saturating_duration_since(Instant::now());
    match receiver.recv_timeout(left).map_err(|_| silence())?? {
        addresses if addresses.is_empty() => Err(io::Error::other("it has no address")),
        addresses => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(hosts: &[(&str, u16)]) -> io::Result<Vec<String>> {
        let hosts: Vec<_> = hosts.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
        let endpoints = endpoints(&hosts, Duration::from_secs(10))?;
        Ok(endpoints.iter().map(Endpoint::to_string).collect())
    }

    #[test]
    fn sockets_and_addresses_need_no_resolver() {
        let list = found(&[("/run/postgresql", 5433), ("127.0.0.1", 5432), ("::1", 5432)]).unwrap();
        assert_eq!(list, ["/run/postgresql/.s.PGSQL.5433", "127.0.0.1:5432", "[::1]:5432"]);
    }

    #[test]
    fn a_host_without_an_address_is_left_out_unless_all_are() {
        let list = found(&[("no-such-host.invalid", 1), ("127.0.0.1", 2)]).unwrap();
        assert_eq!(list, ["127.0.0.1:2"]);
        let error = found(&[("no-such-host.invalid", 1)]).unwrap_err();
        assert!(error.to_string().starts_with("cannot resolve \"no-such-host.invalid\": "), "{error}");
    }

    #[test]
    fn a_name_has_addresses() {
        assert!(found(&[("localhost", 7)]).unwrap().iter().any(|at| at == "localhost (127.0.0.1:7)"));
    }
}
