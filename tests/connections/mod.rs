//! What a connection carries, byte by byte: each request has its own answer, and no client is waited for without end.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

mod untaken;

use crate::http::get;
use crate::support::{App, SOON, eventually};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// A connection, and what has arrived on it.
struct Raw {
    stream: TcpStream,
    arrived: Vec<u8>,
}

/// An answer: its head, and as many bytes behind it as it says.
#[derive(Debug)]
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(header))
    }

    #[track_caller]
    fn error_code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        assert!(body["error"]["message"].is_string(), "{self:?}");
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

impl Raw {
    fn connect(app: &App) -> Raw {
        let stream = TcpStream::connect(app.base_url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Raw { stream, arrived: Vec::new() }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The next answer, framed as the client of `method` frames it.
    #[track_caller]
    fn answer_to(&mut self, method: &str) -> Answer {
        let head = loop {
            if let Some(end) = self.arrived.windows(4).position(|four| four == b"\r\n\r\n") {
                break String::from_utf8(self.arrived.drain(..end + 4).collect()).unwrap();
            }
            self.more();
        };
        assert!(head.starts_with("HTTP/1."), "not the head of an answer: {head:?}");
        let length = head.to_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length: ").map(|length| length.parse::<usize>().unwrap())
        });
        let length = if method == "HEAD" { 0 } else { length.unwrap_or(0) };
        while self.arrived.len() < length {
            self.more();
        }
        let body = String::from_utf8(self.arrived.drain(..length).collect()).unwrap();
        Answer { head, body }
    }

    #[track_caller]
    fn more(&mut self) {
        let mut some = [0; 16 * 1024];
        let count = self.stream.read(&mut some).unwrap();
        assert_ne!(count, 0, "it hung up after {:?}", String::from_utf8_lossy(&self.arrived));
        self.arrived.extend_from_slice(&some[..count]);
    }

    /// Nothing more comes, and the service hangs up.
    #[track_caller]
    fn assert_ended(&mut self) {
        let end = self.stream.read_to_end(&mut self.arrived);
        let is_reset = end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        assert!(end.is_ok() || is_reset, "it is still open: {end:?}");
        assert!(self.arrived.is_empty(), "{:?}", String::from_utf8_lossy(&self.arrived));
    }
}

fn request(method: &str, path: &str, rest: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{rest}\r\n")
}

/// Behind a proxy that pipelines, the bytes of one client's answer would be another's.
#[test]
fn pipelined_requests_are_answered_one_by_one_each_as_its_method_wants() {
    let app = App::start();
    let movie = get(&app, "/api/movies/1").text;
    let health = get(&app, "/api/health").text;
    let all = [
        ("GET", "/api/movies/1"),
        ("HEAD", "/api/movies/1"),
        ("GET", "/api/health"),
        ("HEAD", "/api/health"),
    ];
    let mut raw = Raw::connect(&app);
    // Every order of three, and each of them in one segment.
    for round in 0..64 {
        let sequence = [all[round % 4], all[round / 4 % 4], all[round / 16]];
        let requests = sequence.map(|(method, path)| request(method, path, ""));
        raw.send(requests.concat());
        for (method, path) in sequence {
            let answer = raw.answer_to(method);
            let body = if path == "/api/health" { &health } else { &movie };
            assert_eq!(answer.status(), 200, "{sequence:?}: {answer:?}");
            assert!(answer.has(&format!("content-length: {}", body.len())), "{sequence:?}: {answer:?}");
            assert_eq!(answer.body, if method == "HEAD" { "" } else { body }, "{sequence:?}");
            assert!(!answer.has("connection: close"), "{sequence:?}: {answer:?}");
        }
    }
    // What is asked of one answer is not done to another.
    for first in [
        request("GET", "/api/movies/1", "Connection: close\r\n"),
        "GET /api/movies/1 HTTP/1.0\r\n\r\n".into(),
    ] {
        let mut raw = Raw::connect(&app);
        let kept = request("GET", "/api/movies/1", "");
        raw.send([kept.clone(), first, kept].concat());
        let answer = raw.answer_to("GET");
        assert!(answer.head.starts_with("HTTP/1.1 200") && !answer.has("connection: close"), "{answer:?}");
        let last = raw.answer_to("GET");
        assert!(last.has("connection: close") || last.head.starts_with("HTTP/1.0 200"), "{last:?}");
        assert_eq!((answer.body, last.body), (movie.clone(), movie.clone()));
        raw.assert_ended();
    }
    // A body ends where it ends, however it is sent; what follows is a request of its own, or nonsense.
    let token = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", app.token);
    let put = r#"{"title":"Pipelined"}"#;
    for body in [
        format!("Content-Length: {}\r\n\r\n{put}", put.len()),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n{:x};x\r\n{}\r\n0\r\nA: b\r\n\r\n",
            &put[..5],
            put.len() - 5,
            &put[5..]
        ),
    ] {
        for (next, status) in
            [(request("HEAD", "/api/movies/1", ""), 200), ("garbage\r\n\r\n".to_owned(), 400)]
        {
            let mut raw = Raw::connect(&app);
            raw.send(format!("PUT /api/movies/1 HTTP/1.1\r\nHost: x\r\n{token}{body}{next}"));
            let answer = raw.answer_to("PUT");
            assert!(answer.status() == 200 && answer.body.contains("Pipelined"), "{answer:?}");
            assert_eq!(raw.answer_to("HEAD").status(), status, "{next}");
        }
    }
}

/// What is garbled is refused, or does not matter; it is never the reason that a change is made and not answered.
#[test]
fn a_garbled_body_is_refused_and_its_request_answered() {
    let app = App::start();
    let rest = format!(
        "Authorization: Bearer {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
        app.token
    );
    for (method, status, after) in [("PUT", 400, 200), ("DELETE", 204, 404)] {
        let mut raw = Raw::connect(&app);
        raw.send(request(method, "/api/movies/1", &rest) + "5\r\n{\"tit\r\nzz\r\n");
        let answer = raw.answer_to(method);
        assert_eq!(answer.status(), status, "{answer:?}");
        assert!(answer.has("connection: close"), "{answer:?}");
        assert_eq!(get(&app, "/api/movies/1").status, after);
    }
}

/// Each piece alone, with a moment between them.
#[test]
fn a_request_may_arrive_in_any_pieces() {
    let app = App::start();
    let mut raw = Raw::connect(&app);
    let requests =
        [request("GET", "/api/health", ""), "\r\n".into(), request("HEAD", "/api/movies/1", "")].concat();
    for byte in requests.bytes() {
        raw.send([byte]);
    }
    assert!(raw.answer_to("GET").body.contains("running"));
    assert_eq!(raw.answer_to("HEAD").status(), 200);
}

#[test]
fn what_the_server_cannot_read_is_answered_as_every_other_error() {
    // Longer than this client needs to begin a request on a busy machine.
    let app = App::start_with(&[("HTTP_REQUEST_TIMEOUT_MS", "2000")]);
    for (bytes, status, code) in [
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET /api/health HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_request"),
        ("\x16\x03\x01".to_owned(), 400, "bad_request"),
        (request("GET", "/", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, "bad_request"),
        ("GET /api/health HTTP/1.1\r\nHo".to_owned(), 408, "head_timeout"),
    ] {
        // As the first on its connection, and behind another.
        for before in ["", &request("GET", "/api/health", "")] {
            let mut raw = Raw::connect(&app);
            raw.send(before);
            if !before.is_empty() {
                assert_eq!(raw.answer_to("GET").status(), 200);
            }
            raw.send(&bytes);
            let answer = raw.answer_to("GET");
            assert_eq!((answer.status(), answer.error_code().as_str()), (status, code), "{bytes:?}");
            assert!(answer.has("connection: close"), "{answer:?}");
            raw.assert_ended();
        }
    }
    let mut raw = Raw::connect(&app);
    raw.send(format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(160 * 1024 - 40)));
    let answer = raw.answer_to("GET");
    assert_eq!((answer.status(), answer.error_code().as_str()), (431, "head_too_large"));
}

#[test]
fn a_client_gets_100_continue_only_where_its_body_is_wanted() {
    let app = App::start();
    let body = r#"{"movie_id":900001,"title":"A"}"#;
    let begin = |token: &str, length: usize| {
        let mut raw = Raw::connect(&app);
        let rest = format!(
            "Authorization: Bearer {token}\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
             Content-Length: {length}\r\n"
        );
        raw.send(request("POST", "/api/movies", &rest));
        raw
    };
    assert_eq!(begin("wrong", body.len()).answer_to("POST").status(), 401);
    assert_eq!(begin(&app.token, 2_000_000).answer_to("POST").status(), 413);
    let mut raw = begin(&app.token, body.len());
    assert_eq!(raw.answer_to("POST").head, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send(body);
    assert_eq!(raw.answer_to("POST").status(), 201);
    // And without waiting for `100 Continue`.
    let mut raw = begin(&app.token, body.len());
    raw.send(body);
    let first = raw.answer_to("POST");
    let answer = if first.status() == 100 { raw.answer_to("POST") } else { first };
    assert_eq!(answer.status(), 409);
}

/// Four ways to keep a connection without a token, each of them more often than there are descriptors.
#[test]
fn clients_that_keep_a_connection_keep_no_other_client_out() {
    const MANY: usize = 300;
    let shell = ["sh", "-c", r#"ulimit -n 200; exec "$0" "$@""#];
    let database = crate::support::postgres::fresh_database().with_schema();
    let app = App::spawn(
        &shell,
        tempfile::tempdir().unwrap(),
        &[("DATABASE_URL", &database.url()), ("HTTP_REQUEST_TIMEOUT_MS", "3000"), ("HTTP_WORKERS", "2")],
    )
    .until_it_answers();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let kinds = [
        (request("GET", "/api/health", ""), 200, ""),
        (request("GET", "/api/health", ""), 200, "G"),
        (request("POST", "/api/movies", chunked), 401, ""),
        (request("POST", "/nowhere", chunked), 404, "1\r\n"),
    ];
    let keep = |(first, status, then): &(String, u16, &str)| {
        let mut raw = Raw::connect(&app);
        raw.send(first);
        assert_eq!(raw.answer_to("GET").status(), *status);
        let _ = raw.stream.write_all(then.as_bytes());
        raw
    };
    // There is room for the first ones. The others get it at once, not when the time of those before is over.
    let mut clients = kinds.iter().cycle().map(keep);
    let started = Instant::now();
    let mut kept: Vec<Raw> = clients.by_ref().take(80).collect();
    let with_room = started.elapsed();
    kept.extend(clients.take(MANY - 80));
    let all = started.elapsed();
    assert!(all < with_room * 20 + Duration::from_secs(2), "{with_room:?} for 80, {all:?} for all");
    assert_eq!(get(&app, "/api/health").status, 200);
    assert_eq!(get(&app, "/api/movies").status, 200);
    // Those that need not make room have their time, and no more.
    for mut raw in kept {
        let end = raw.stream.read_to_end(&mut raw.arrived);
        assert!(!end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "it is still open");
    }
    let log = app.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

/// Room for 30 connections, of which 26 are at work.
#[test]
fn where_every_connection_is_at_work_health_is_still_answered() {
    let database = crate::support::postgres::fresh_database().with_schema();
    let variables = [
        ("DATABASE_URL", &*database.url()),
        ("HTTP_WORKERS", "1"),
        ("DB_POOL_MIN_CONNECTIONS", "1"),
        ("DB_POOL_MAX_CONNECTIONS", "2"),
        ("DB_POOL_ACQUIRE_TIMEOUT_S", "60"),
    ];
    let shell = ["sh", "-c", r#"ulimit -n 100; exec "$0" "$@""#];
    let app = App::spawn(&shell, tempfile::tempdir().unwrap(), &variables).until_it_answers();
    let mut holder = database.client();
    holder.batch_execute("BEGIN; LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
    // One whose request has not been read yet, or whose end has not been seen yet, looks idle, and may have to make room for the
    // one that asks: a probe that finds room waits for the table, and not for long.
    let is_refused = || {
        let mut probe = Raw::connect(&app);
        probe.send(request("GET", "/api/movies/1", "X-Request-Timeout-Ms: 300\r\n"));
        let answer = probe.answer_to("GET");
        assert!(matches!(answer.status(), 503 | 504), "{answer:?}");
        let is_refused = answer.status() == 503;
        assert!(
            !is_refused || answer.body.contains("\"saturated\"") && answer.has("retry-after: 1"),
            "{answer:?}"
        );
        is_refused
    };
    let mut clients = Vec::new();
    eventually("26 are at work", SOON, || {
        let mut raw = Raw::connect(&app);
        raw.send(request("GET", "/api/movies/1", ""));
        clients.push(raw);
        let load = &crate::http::get_as_known(&app, "/api/health/db").json()["request_threads"];
        load["busy"].as_u64().unwrap() + load["waiting"].as_u64().unwrap() >= 26
    });
    for _ in 0..10 {
        eventually("a request is refused", SOON, is_refused);
        assert_eq!(get(&app, "/api/health").status, 200);
    }
    holder.batch_execute("ROLLBACK").unwrap();
    let answered =
        clients.iter_mut().filter(|raw| raw.stream.peek(&mut [0; 12]).is_ok_and(|count| count > 0));
    let found = answered.filter(|raw| {
        let mut line = [0; 12];
        (&raw.stream).read_exact(&mut line).is_ok() && line.ends_with(b"404")
    });
    assert!(found.count() >= 26);
    assert_eq!(get(&app, "/api/movies/1").status, 404);
}

#[test]
fn a_client_that_sends_no_more_is_gone() {
    let app = App::start();
    let mut raw = Raw::connect(&app);
    raw.send(request("GET", "/api/movies/1", ""));
    assert_eq!(raw.answer_to("GET").status(), 200);
    raw.stream.shutdown(Shutdown::Write).unwrap();
    raw.assert_ended();
}

/// What clients send that would rather speak HTTP/2, as `curl --http2` and Java's do: to a server that does not, it is a
/// request like any other.
#[test]
fn an_upgrade_that_is_not_taken_up_is_a_request_like_any_other() {
    let app = App::start();
    let title = "{\"title\":\"Upgraded\"}";
    let rest = format!(
        "Authorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n",
        app.token,
        title.len()
    );
    let mut raw = Raw::connect(&app);
    raw.send(request("PUT", "/api/movies/1", &rest) + title);
    let answer = raw.answer_to("PUT");
    assert_eq!(answer.status(), 200);
    assert!(answer.has("connection: close"), "{answer:?}");
    raw.assert_ended();
    // A tunnel is not offered; what comes with its request is not the next one.
    let mut raw = Raw::connect(&app);
    raw.send(request("CONNECT", "x:1", "Content-Length: 18\r\n") + "GET / HTTP/1.1\r\n\r\n");
    let refusal = raw.answer_to("CONNECT");
    assert!(refusal.status() >= 400, "{refusal:?}");
    raw.assert_ended();
}
