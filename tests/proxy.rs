//! The proxy's faults, seen by a plain socket: other stories rely on each being what it says.

use crate::support::{Proxy, eventually, postgres};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// A server that answers every byte with ten, behind a proxy.
fn tenfold() -> Proxy {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[byte[0]; 10]).is_ok() {}
            });
        }
    });
    Proxy::to(&postgres::parse(&format!("postgres://nobody@127.0.0.1:{port}/nothing")))
}

fn connect(proxy: &Proxy) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Sends a byte and reads the answer.
fn ask(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(b"x")?;
    answer(stream, 10)
}

fn answer(mut stream: &TcpStream, bytes: usize) -> io::Result<()> {
    stream.read_exact(&mut vec![0; bytes])
}

/// Nothing comes for a while, not even an end.
#[track_caller]
fn assert_silent(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
}

#[track_caller]
fn assert_unanswered(mut stream: &TcpStream) {
    stream.write_all(b"x").unwrap();
    assert_silent(stream);
}

#[test]
fn bytes_and_round_trips_are_counted() {
    let proxy = tenfold();
    let stream = connect(&proxy).unwrap();
    for _ in 0..3 {
        ask(&stream).unwrap();
    }
    assert_eq!((proxy.connects(), proxy.open_connections()), (1, 1));
    assert_eq!((proxy.round_trips(), proxy.bytes_to_server(), proxy.bytes_to_client()), (3, 3, 30));
    drop(stream);
    eventually("the connection is gone", Duration::from_secs(1), || proxy.open_connections() == 0);
}

#[test]
fn refusing_concerns_new_connections_only_and_ends() {
    let proxy = tenfold();
    let existing = connect(&proxy).unwrap();
    ask(&existing).unwrap();
    for _ in 0..10 {
        proxy.refuse();
        assert_eq!(connect(&proxy).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        ask(&existing).unwrap();
        proxy.pass();
        ask(&connect(&proxy).unwrap()).unwrap();
    }
}

#[test]
fn reset_ends_old_and_new_connections_by_a_reset() {
    let proxy = tenfold();
    let existing = connect(&proxy).unwrap();
    ask(&existing).unwrap();
    proxy.reset();
    assert_eq!(answer(&existing, 1).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(connect(&proxy).and_then(|new| ask(&new)).is_err());
    proxy.pass();
    ask(&connect(&proxy).unwrap()).unwrap();
}

#[test]
fn what_was_stalled_goes_on() {
    let proxy = tenfold();
    let stream = connect(&proxy).unwrap();
    ask(&stream).unwrap();
    proxy.stall();
    assert_unanswered(&stream);
    let new = connect(&proxy).unwrap();
    assert_unanswered(&new);
    proxy.pass();
    answer(&stream, 10).unwrap();
    answer(&new, 10).unwrap();
}

#[test]
fn a_reply_stalls_half_way() {
    let proxy = tenfold();
    let mut stream = connect(&proxy).unwrap();
    proxy.stall_replies_after(14);
    ask(&stream).unwrap();
    stream.write_all(b"x").unwrap();
    answer(&stream, 4).unwrap();
    assert_silent(&stream);
    proxy.pass();
    answer(&stream, 6).unwrap();
}

#[test]
fn a_mute_proxy_accepts_and_says_nothing() {
    let proxy = tenfold();
    let existing = connect(&proxy).unwrap();
    ask(&existing).unwrap();
    proxy.mute();
    assert_unanswered(&connect(&proxy).unwrap());
    ask(&existing).unwrap();
    proxy.pass();
    ask(&connect(&proxy).unwrap()).unwrap();
}

#[test]
fn what_was_swallowed_never_comes() {
    let proxy = tenfold();
    let stream = connect(&proxy).unwrap();
    ask(&stream).unwrap();
    proxy.swallow();
    assert_unanswered(&stream);
    proxy.pass();
    assert_silent(&stream);
}

#[test]
fn a_cut_is_noticed_while_nobody_reads_and_connects_can_be_slow() {
    let proxy = tenfold();
    proxy.delay_connects(Duration::from_millis(50));
    let start = Instant::now();
    let mut stream = connect(&proxy).unwrap();
    ask(&stream).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));
    proxy.stall();
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    while stream.write(&[0; 65536]).is_ok() {}
    let start = Instant::now();
    proxy.cut();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(proxy.open_connections(), 0);
}
