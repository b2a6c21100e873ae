//! The proxy's faults, seen by a plain socket: other tests rely on each.

use crate::support::proxy::{Act, Message, Place};
use crate::support::{Proxy, SOON, eventually, postgres};
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
    stream.set_read_timeout(Some(SOON))?;
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
    stream.set_read_timeout(Some(SOON)).unwrap();
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
    eventually("the connection is gone", SOON, || proxy.open_connections() == 0);
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
fn a_cut_is_noticed_without_a_read_and_connects_can_be_slow() {
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
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(proxy.open_connections(), 0);
}

#[test]
fn a_reply_is_lost_when_its_statement_is_done() {
    let database = postgres::fresh_database();
    let mut direct = database.client();
    direct.batch_execute("CREATE TABLE t (a int)").unwrap();
    let proxy = Proxy::forging(&database.settings());
    let insert = "INSERT INTO t VALUES (1)";
    for is_simple in [true, false] {
        let mut client = postgres::connect(&proxy.settings());
        proxy.forge(insert, Act::Lose);
        client.query("SELECT 1", &[]).unwrap();
        let lost =
            if is_simple { client.batch_execute(insert) } else { client.execute(insert, &[]).map(drop) };
        assert!(lost.unwrap_err().as_db_error().is_none());
        assert!(client.is_closed() && proxy.has_forged());
    }
    assert_eq!(direct.query_one("SELECT count(*) FROM t", &[]).unwrap().get::<_, i64>(0), 2);
}

#[test]
fn a_message_is_forged_wherever_it_is_to_stand() {
    let database = postgres::fresh_database();
    let mut direct = database.client();
    direct.batch_execute("CREATE TABLE t (a int)").unwrap();
    let proxy = Proxy::forging(&database.settings());
    let insert = "INSERT INTO t VALUES (1)";
    let mut client = postgres::connect(&proxy.settings());
    let mut rows = 0;
    for place in [Place::Before, Place::Instead, Place::AtTheEnd, Place::Behind] {
        for (severity, is_run) in [("WARNING", true), ("ERROR", false), ("FATAL", false), ("PANIC", true)] {
            if (severity, place) == ("ERROR", Place::Behind) {
                continue;
            }
            let message = Message { severity, code: "12345", is_last: false };
            proxy.forge(insert, Act::Say { message, place, is_run });
            let outcome = client.execute(insert, &[]);
            match outcome {
                Ok(count) => assert!(count == 1 && (severity == "WARNING" || place == Place::Behind)),
                // The driver lets the end of a session overtake the server's last message.
                Err(error) if severity != "ERROR" => {
                    assert!(error.code().is_none_or(|code| code.code() == "12345"))
                }
                Err(error) => assert_eq!(error.code().unwrap().code(), "12345"),
            }
            assert!(proxy.has_forged());
            if matches!(severity, "FATAL" | "PANIC") {
                assert!(client.batch_execute("").is_err(), "{severity} ends the session");
                client = postgres::connect(&proxy.settings());
            }
            rows += i64::from(is_run);
            let there: i64 = direct.query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
            assert_eq!(there, rows, "{severity} {place:?}");
        }
    }
}
