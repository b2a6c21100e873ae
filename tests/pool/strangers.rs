//! Other programs on this machine, which may connect to whatever listens on the loopback interface.

use crate::support::{App, SOON, eventually};
use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// The ports of 127.0.0.1 that a process listens on, as every program may find them.
fn ports_of(pid: u32) -> Vec<u16> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let sockets: HashSet<_> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    // Columns: number, local address, remote address, state (0A listens), …, the tenth is the socket's inode.
    let ports = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let is_its_own =
            sockets.contains(format!("socket:[{}]", columns.get(9)?).as_ref() as &std::path::Path);
        let port = columns[1].strip_prefix("0100007F:")?;
        (is_its_own && columns[3] == "0A").then(|| u16::from_str_radix(port, 16).ok()).flatten()
    });
    ports.collect()
}

/// Connect to everything that a process listens on but one port, and hang up at once, again and again.
struct Strangers {
    is_over: Arc<AtomicBool>,
    /// How often they have been everywhere.
    rounds: Arc<AtomicU32>,
}

impl Strangers {
    fn at(pid: u32, spared: u16) -> Strangers {
        let strangers = Strangers { is_over: Arc::default(), rounds: Arc::default() };
        let (is_over, rounds) = (strangers.is_over.clone(), strangers.rounds.clone());
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                for port in ports_of(pid).into_iter().filter(|port| *port != spared) {
                    let address = SocketAddr::from(([127, 0, 0, 1], port));
                    // Until its queue is full, or it is gone.
                    let reach = || TcpStream::connect_timeout(&address, Duration::from_millis(50));
                    let _ = (0..1000).take_while(|_| reach().is_ok()).count();
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        strangers
    }

    #[track_caller]
    fn go_round(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually("they have been everywhere", SOON, || self.rounds.load(Ordering::Relaxed) > before + 1);
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The service loses its connections, and gets them back.
#[test]
fn strangers_who_connect_to_everything_do_not_keep_the_pool_from_connecting() {
    let app = App::start_with(&[("DB_CONNECT_TIMEOUT_S", "2"), ("DB_POOL_MIN_CONNECTIONS", "4")]);
    let http: SocketAddr = app.base_url.strip_prefix("http://").unwrap().parse().unwrap();
    let strangers = Strangers::at(app.pid(), http.port());
    let mut admin = app.database().client();
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for _ in 0..3 {
        strangers.go_round();
        admin.execute(terminate, &[]).unwrap();
        eventually("it has connected again", SOON, || app.get("/api/movies/1").0 == 200);
    }
}
