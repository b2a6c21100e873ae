//! Resolves the hosts of the settings to addresses, within a time limit. It connects to none of them.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The host as in the settings: the name that the server's certificate must match.
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

/// The most threads that resolve names at the same time.
///
/// The system's resolver has no time limit and cannot be interrupted. It therefore runs in threads of its own, and a
/// thread that hangs is abandoned. The limit keeps abandoned threads from accumulating.
const MAX_RESOLVING: usize = 64;

static RESOLVING: AtomicUsize = AtomicUsize::new(0);

/// Resolves a host name and a port.
type Resolver = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Resolves every host to its addresses, in the order of `hosts`. A host that cannot be resolved is left out; it is an error
/// if none can be.
///
/// Blocks for at most `limit`, and for half of it if one host is resolved by then, so that an unanswered name leaves time
/// to connect to the others.
pub(crate) fn endpoints(hosts: &[(String, u16)], limit: Duration) -> io::Result<Vec<Endpoint>> {
    endpoints_with(hosts, limit, |host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

fn endpoints_with(hosts: &[(String, u16)], limit: Duration, resolver: Resolver) -> io::Result<Vec<Endpoint>> {
    let mut found = Vec::new();
    let mut failure = None;
    for ((host, _), answer) in hosts.iter().zip(resolve_all(hosts, limit, resolver)) {
        match answer {
            Ok(addresses) => {
                found.extend(addresses.into_iter().map(|address| Endpoint { host: host.clone(), address }));
            }
            Err(error) => {
                failure = Some(io::Error::new(error.kind(), format!("cannot resolve \"{host}\": {error}")));
            }
        }
    }
    match failure {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// The answer for each host. Lookups run concurrently.
fn resolve_all(
    hosts: &[(String, u16)],
    limit: Duration,
    resolver: Resolver,
) -> Vec<io::Result<Vec<Address>>> {
    let started = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let mut answers = Vec::new();
    let mut unanswered = 0;
    for (index, (host, port)) in hosts.iter().enumerate() {
        if let Some(address) = literal_address(host, *port) {
            answers.push(Ok(vec![address]));
            continue;
        }
        let (sender, name) = (sender.clone(), (host.clone(), *port));
        let spawned = spawn_lookup(move || {
            // The receiver is gone if the limit has passed.
            let _ = sender.send((index, resolver(&name.0, name.1)));
        });
        unanswered += usize::from(spawned.is_ok());
        let no_answer = || io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer in time");
        answers.push(Err(spawned.err().unwrap_or_else(no_answer)));
    }
    while unanswered > 0 {
        let is_one_known = answers.iter().any(Result::is_ok);
        let deadline = started + if is_one_known { limit / 2 } else { limit };
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((index, answer)) = receiver.recv_timeout(left) else { break };
        unanswered -= 1;
        answers[index] = match answer {
            Ok(addresses) if addresses.is_empty() => Err(io::Error::other("it has no address")),
            answer => answer.map(|addresses| addresses.into_iter().map(Address::Tcp).collect()),
        };
    }
    answers
}

/// The address of a host that is a socket directory or an IP address.
fn literal_address(host: &str, port: u16) -> Option<Address> {
    if host.starts_with('/') {
        return Some(Address::Unix(Path::new(host).join(format!(".s.PGSQL.{port}"))));
    }
    let ip = host.parse::<IpAddr>().ok()?;
    Some(Address::Tcp(SocketAddr::new(ip, port)))
}

/// Runs `lookup` in a thread of its own.
fn spawn_lookup(lookup: impl FnOnce() + Send + 'static) -> io::Result<()> {
    if RESOLVING.fetch_add(1, Ordering::Relaxed) >= MAX_RESOLVING {
        RESOLVING.fetch_sub(1, Ordering::Relaxed);
        return Err(io::Error::new(io::ErrorKind::TimedOut, "earlier attempts still wait for the resolver"));
    }
    let thread = std::thread::Builder::new().name("poolhouse-resolver".into()).spawn(move || {
        lookup();
        RESOLVING.fetch_sub(1, Ordering::Relaxed);
    });
    if thread.is_err() {
        RESOLVING.fetch_sub(1, Ordering::Relaxed);
    }
    thread.map(drop)
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
    fn socket_paths_and_addresses_need_no_resolver() {
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
    fn a_name_is_resolved_to_its_addresses() {
        assert!(found(&[("localhost", 7)]).unwrap().iter().any(|at| at == "localhost (127.0.0.1:7)"));
    }

    /// Resolves every name except `silent`, for which it hangs.
    fn resolver(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if host == "silent" {
            loop {
                std::thread::park();
            }
        }
        Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
    }

    #[test]
    fn an_unanswered_name_leaves_half_of_the_time_for_the_others() {
        let hosts = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 5432)).collect::<Vec<_>>();
        let limit = Duration::from_millis(300);
        let started = Instant::now();
        let list = endpoints_with(&hosts(&["silent", "db2", "silent"]), limit, resolver).unwrap();
        assert!(started.elapsed() >= limit / 2, "the first host is preferred, so it has half of the limit");
        assert_eq!(list.iter().map(Endpoint::to_string).collect::<Vec<_>>(), ["db2 (192.0.2.1:5432)"]);
        let error = endpoints_with(&hosts(&["silent"]), limit / 2, resolver).unwrap_err();
        assert_eq!(error.to_string(), "cannot resolve \"silent\": the resolver did not answer in time");
    }
}
