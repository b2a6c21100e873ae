//! How the service begins and ends: signals at every moment, a database that is away at the start, supervisors.

mod beginnings;
mod ends;
mod private_server;
mod supervisors;

use crate::support::{App, SOON, children_of, eventually, freeze, processes, running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What "at once" and "promptly" mean for a debug build on a busy machine; what is not prompt has half a minute and more.
const PROMPTLY: Duration = Duration::from_secs(10);

fn send(app: &App, signal: Signal) {
    kill(Pid::from_raw(app.pid().cast_signed()), signal).unwrap();
}

/// Waits until `words` are in the log.
#[track_caller]
fn until_logged(app: &App, words: &str) {
    let start = Instant::now();
    while !app.log().contains(words) {
        assert!(start.elapsed() < SOON, "{words:?} is missing in: {}", app.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `words` are in the log, in this order.
#[track_caller]
fn assert_in_order(log: &str, words: &[&str]) {
    let mut rest = log;
    for word in words {
        rest =
            rest.split_once(word).unwrap_or_else(|| panic!("{word:?} is missing, or too early, in: {log}")).1;
    }
}

/// A connection to the service, with nothing sent yet.
fn connect(app: &App) -> TcpStream {
    let stream = TcpStream::connect(app.base_url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// A connection on which a movie has been asked for.
fn ask(app: &App) -> TcpStream {
    let mut stream = connect(app);
    write!(stream, "GET /api/movies/1 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream
}

/// Everything that still comes, until the other side closes the connection.
#[track_caller]
fn read_to_the_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection is not closed: {error}"),
    }
    String::from_utf8(bytes).unwrap()
}

/// Lets no query on movies end, until it is dropped or rolled back.
struct Hold(postgres::Client);

impl Hold {
    fn on(app: &App) -> Hold {
        let mut client = app.database().client();
        client.batch_execute("BEGIN; LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
        Hold(client)
    }

    /// Waits until a query of the service is held.
    fn until_met(&mut self) {
        eventually("a query is held", SOON, || self.held() > 0);
    }

    /// Waits until those who held out have given up.
    fn until_alone(&mut self) {
        self.0.batch_execute("ROLLBACK; BEGIN; LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
        eventually("no process is held any more", SOON, || self.held() == 0);
    }

    fn held(&mut self) -> i64 {
        let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'movies'::regclass
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        self.0.query_one(sql, &[]).unwrap().get(0)
    }

    fn end(mut self) {
        self.0.batch_execute("ROLLBACK").unwrap();
    }
}

/// The pool's health as `(HTTP status, verdict)`.
fn health(app: &App) -> (u16, String) {
    let answer = crate::http::get_as_known(app, "/api/health/db");
    (answer.status, answer.json()["status"].as_str().unwrap().to_owned())
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// A supervisor's socket, and what `NOTIFY_SOCKET` is to say.
fn supervisors_socket(directory: &Path, is_abstract: bool) -> (UnixDatagram, String) {
    let path = directory.join("notify").to_str().unwrap().to_owned();
    let (address, name) = match is_abstract {
        #[cfg(target_os = "linux")]
        true => (
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&path),
            format!("@{path}"),
        ),
        _ => (SocketAddr::from_pathname(&path), path),
    };
    let socket = UnixDatagram::bind_addr(&address.unwrap()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    (socket, name)
}
