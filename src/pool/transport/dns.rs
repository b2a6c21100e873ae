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
/// hangs is left behind. Where there are so many, most of them left behind, they are not joined by another.
const MOST_RESOLVING: usize = 64;

static RESOLVING: AtomicUsize = AtomicUsize::new(0);

/// What finds a name's addresses.
type Resolver = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Every address of every host, in order. A host without an address is left out, unless all are.
///
/// Blocks for at most `limit`, and for half of it where some addresses are known by then: a name that gets no answer
/// must not take the time of the others.
pub(crate) fn endpoints(hosts: &[(String, u16)], limit: Duration) -> io::Result<Vec<Endpoint>> {
    endpoints_by(hosts, limit, |host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

fn endpoints_by(hosts: &[(String, u16)], limit: Duration, resolver: Resolver) -> io::Result<Vec<Endpoint>> {
    let started = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let mut answers: Vec<io::Result<Vec<Address>>> = Vec::new();
    let mut unanswered = 0;
    for (index, (host, port)) in hosts.iter().enumerate() {
        answers.push(if host.starts_with('/') {
            Ok(vec![Address::Unix(Path::new(host).join(format!(".s.PGSQL.{port}")))])
        } else if let Ok(ip) = host.parse::<IpAddr>() {
            Ok(vec![Address::Tcp(SocketAddr::new(ip, *port))])
        } else {
            let (sender, name) = (sender.clone(), (host.clone(), *port));
            let asked = resolve(move || {
                // Nobody may be waiting for it any more.
                let _ = sender.send((index, resolver(&name.0, name.1)));
            });
            unanswered += usize::from(asked.is_ok());
            let silence = || io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer in time");
            Err(asked.err().unwrap_or_else(silence))
        });
    }
    while unanswered > 0 {
        let is_one_known = answers.iter().any(Result::is_ok);
        let ends = started + if is_one_known { limit / 2 } else { limit };
        let left = ends.saturating_duration_since(Instant::now());
        let Ok((index, answer)) = receiver.recv_timeout(left) else { break };
        unanswered -= 1;
        answers[index] = match answer {
            Ok(addresses) if addresses.is_empty() => Err(io::Error::other("it has no address")),
            answer => answer.map(|addresses| addresses.into_iter().map(Address::Tcp).collect()),
        };
    }
    let mut found = Vec::new();
    let mut failure = None;
    for ((host, _), answer) in hosts.iter().zip(answers) {
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

/// Runs `question` in a thread of its own.
fn resolve(question: impl FnOnce() + Send + 'static) -> io::Result<()> {
    if RESOLVING.fetch_add(1, Ordering::Relaxed) >= MOST_RESOLVING {
        RESOLVING.fetch_sub(1, Ordering::Relaxed);
        return Err(io::Error::new(io::ErrorKind::TimedOut, "earlier attempts still wait for the resolver"));
    }
    let thread = std::thread::Builder::new().name("poolhouse-resolver".into()).spawn(move || {
        question();
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

    /// Answers for one name, and never for the other.
    fn resolver(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if host == "silent" {
            loop {
                std::thread::park();
            }
        }
        Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
    }

    #[test]
    fn a_name_that_gets_no_answer_does_not_take_the_time_of_the_others() {
        let hosts = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 5432)).collect::<Vec<_>>();
        let limit = Duration::from_millis(300);
        let started = Instant::now();
        let list = endpoints_by(&hosts(&["silent", "db2", "silent"]), limit, resolver).unwrap();
        assert!(started.elapsed() >= limit / 2, "the first is waited for, because it is preferred");
        assert_eq!(list.iter().map(Endpoint::to_string).collect::<Vec<_>>(), ["db2 (192.0.2.1:5432)"]);
        let error = endpoints_by(&hosts(&["silent"]), limit / 2, resolver).unwrap_err();
        assert_eq!(error.to_string(), "cannot resolve \"silent\": the resolver did not answer in time");
    }
}
