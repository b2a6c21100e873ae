//! Malicious and faulty clients: whatever they send is answered as their own fault. The service does not panic, answers no
//! 5xx, keeps serving other clients, and reveals no secret.

use crate::http::{get, raw_status, send, write};
use crate::support::app::poolhouse;
use crate::support::postgres::GUEST;
use crate::support::{App, Postgres, SOON, eventually};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

const MOMENT: Duration = Duration::from_millis(50);

fn connect(app: &App) -> TcpStream {
    let stream = TcpStream::connect(app.base_url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// What comes back for a request that is whole and the last of its connection.
fn answer(app: &App, request: &[u8]) -> String {
    let mut stream = connect(app);
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Sends the request and returns the response. After a moment it closes the sending half: a service that waits for more of
/// the request then sees its end, and one that runs a whole request gives it up, because its client seems to have gone.
fn exchange(app: &App, request: &[u8]) -> String {
    let mut stream = connect(app);
    let mut answer = Vec::new();
    // It may have answered and hung up before it has read everything.
    let _ = stream.write_all(request);
    stream.set_read_timeout(Some(MOMENT)).unwrap();
    if stream.read_to_end(&mut answer).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let end = stream.read_to_end(&mut answer);
        assert!(
            !end.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "it does not hang up after {:?}",
            String::from_utf8_lossy(request)
        );
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Resident, in KiB.
fn memory(app: &App) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", app.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The statuses of all answers in `text`.
fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

/// It is as well as it was at the start.
#[track_caller]
fn assert_unharmed(app: &App) {
    assert_eq!(get(app, "/api/movies/1").status, 200);
    let log = app.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

/// How a good request is spoilt.
#[derive(Debug, Clone)]
enum Damage {
    Overwrite(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    Cut(Index),
    Repeat(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let strange = prop_oneof![
        vec(any::<u8>(), 1..8),
        select(vec![
            &b"\r\n"[..],
            b"\n",
            b"\r",
            b"\0",
            b" ",
            b":",
            b"%",
            b"%00",
            b"%ff",
            b"/../",
            b"//",
            b"?",
            b"&limit=",
            b"Content-Length: 5\r\n",
            b"Content-Length: -1\r\n",
            b"Content-Length: 99999999999999999999\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Expect: 100-continue\r\n",
            b"Connection: upgrade\r\nUpgrade: h2c\r\n",
            b"Host: a\r\nHost: b\r\n",
            b"HTTP/9.9",
            b"\xff\xfe",
            b"{\"",
            b"1e999",
        ])
        .prop_map(<[u8]>::to_vec),
    ];
    prop_oneof![
        (any::<Index>(), strange.clone()).prop_map(|(at, bytes)| Damage::Overwrite(at, bytes)),
        (any::<Index>(), strange).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), 2..2000_usize).prop_map(|(at, times)| Damage::Repeat(at, times)),
    ]
}

impl Damage {
    fn inflict(&self, request: &mut Vec<u8>) {
        let place = |at: &Index| at.index(request.len() + 1);
        match self {
            Damage::Overwrite(at, bytes) => {
                let at = place(at);
                let end = (at + bytes.len()).min(request.len());
                request.splice(at..end, bytes.iter().copied());
            }
            Damage::Insert(at, bytes) => {
                let at = place(at);
                request.splice(at..at, bytes.iter().copied());
            }
            Damage::Cut(at) => request.truncate(place(at)),
            Damage::Repeat(at, times) => {
                let at = place(at).saturating_sub(1);
                if let Some(byte) = request.get(at).copied() {
                    request.splice(at..at, std::iter::repeat_n(byte, *times));
                }
            }
        }
    }
}

#[test]
fn a_damaged_request_is_the_clients_fault_and_harms_no_other() {
    let app = App::start();
    let authorized = format!("Host: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n", app.token);
    let body = r#"{"movie_id":900001,"title":"A","year":1999,"genres":["Drama"]}"#;
    let requests = [
        format!("GET /api/movies?search=toy&genre=Comedy&year=1995&limit=5 HTTP/1.1\r\n{authorized}\r\n"),
        format!("GET /api/movies/1 HTTP/1.1\r\n{authorized}X-Request-Timeout-Ms: 5000\r\n\r\n"),
        format!("GET /api/health/db HTTP/1.1\r\n{authorized}\r\n"),
        format!("DELETE /api/movies/900001 HTTP/1.1\r\n{authorized}\r\n"),
        format!(
            "POST /api/movies HTTP/1.1\r\n{authorized}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!(
            "PUT /api/movies/900001 HTTP/1.1\r\n{authorized}Content-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
    ];
    for request in &requests {
        let statuses = statuses(&answer(&app, request.as_bytes()));
        assert!(matches!(statuses[..], [200 | 201 | 204 | 404]), "{statuses:?} for {request}");
    }
    // Most of the time is spent on waiting for what does not come.
    const THREADS: u32 = 8;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let cases = Config::default().cases.div_ceil(THREADS);
                let config = Config { cases, failure_persistence: None, ..Config::default() };
                let strategy = (select(requests.to_vec()), vec(damage(), 1..4));
                let outcome = TestRunner::new(config).run(&strategy, |(request, damages)| {
                    let mut request = request.into_bytes();
                    damages.iter().for_each(|damage| damage.inflict(&mut request));
                    let answer = exchange(&app, &request);
                    let statuses = statuses(&answer);
                    prop_assert!(statuses.iter().all(|status| *status < 500), "{}", answer);
                    Ok(())
                });
                outcome.unwrap_or_else(|error| panic!("{error}"));
            });
        }
    });
    assert_unharmed(&app);
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let app = App::start();
    let token = &app.token;
    let head = format!(
        "POST /api/movies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    );
    // Announced, and never sent.
    assert_eq!(raw_status(&app, format!("{head}Content-Length: 4000000000\r\n\r\n").as_bytes()), 413);
    // Not announced: answered as soon as it is too large. actix-web reads on, and keeps nothing of it.
    let mut stream = connect(&app);
    stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let before = memory(&app);
    for _ in 0..1000 {
        stream.write_all(&chunk).unwrap();
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    let grown = memory(&app).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for a body of 64 MiB");
    for long in [
        format!("GET /api/movies/1 HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(2_000_000)),
        format!("GET /api/movies?search={} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(2_000_000)),
        format!("GET /api/movies/1 HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Many: x\r\n".repeat(5_000)),
    ] {
        let statuses = statuses(&exchange(&app, long.as_bytes()));
        assert!(matches!(statuses[..], [] | [400..=499]), "{statuses:?} for {}…", &long[..60]);
    }
    assert_unharmed(&app);
}

#[test]
fn clients_that_send_nothing_or_byte_by_byte_delay_no_other_and_do_not_stay() {
    let app = App::start_with(&[("HTTP_REQUEST_TIMEOUT_MS", "1000")]);
    let silent: Vec<_> = (0..50).map(|_| connect(&app)).collect();
    let beginning: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = connect(&app);
            stream.write_all(b"GET /api/movies/1 HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    let mut without_body = connect(&app);
    let head = format!(
        "POST /api/movies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 60\r\n\r\n",
        app.token
    );
    without_body.write_all(head.as_bytes()).unwrap();

    let started = Instant::now();
    assert_eq!(get(&app, "/api/movies/1").status, 200);
    assert!(started.elapsed() < SOON, "others are kept waiting: {:?}", started.elapsed());

    let mut answer = String::new();
    without_body.write_all(b"{\"movie_id\":").unwrap();
    without_body.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"body_timeout\""), "{answer}");
    assert!((Duration::from_secs(1)..SOON).contains(&began.elapsed()), "{:?}", began.elapsed());
    for mut stream in silent.into_iter().chain(beginning) {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(matches!(statuses(&answer)[..], [] | [408]), "{answer}");
    }
    assert_unharmed(&app);
}

#[test]
fn thousands_of_wrong_tokens_are_refused_and_fill_no_log() {
    const THREADS: usize = 4;
    const MANY: usize = 2_000;
    let app = App::start();
    let before = app.log().lines().count();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let app = &app;
            scope.spawn(move || {
                let mut stream = connect(app);
                for batch in 0..20 {
                    let guess = |n| {
                        format!(
                            "GET /api/health/db HTTP/1.1\r\nHost: x\r\n\
                             Authorization: Bearer guess-{thread}-{batch}-{n}-0123456789-0123456789\r\n\r\n"
                        )
                    };
                    let guesses: String = (0..MANY / THREADS / 20).map(guess).collect();
                    stream.write_all(guesses.as_bytes()).unwrap();
                    let mut answers = String::new();
                    while statuses(&answers).len() < MANY / THREADS / 20 || !answers.ends_with("}}") {
                        let mut some = [0; 16 * 1024];
                        let count = stream.read(&mut some).unwrap();
                        assert_ne!(count, 0, "it hung up: {answers}");
                        answers.push_str(std::str::from_utf8(&some[..count]).unwrap());
                    }
                    assert!(statuses(&answers).iter().all(|status| *status == 401), "{answers}");
                }
            });
        }
    });
    let log = app.log();
    let lines = log.lines().count() - before;
    assert!((1..10).contains(&lines), "{lines} lines: {log}");
    assert!(log.contains("refused requests with a wrong token: ") && !log.contains("guess-"), "{log}");
    assert_unharmed(&app);
}

/// Searches everything the service printed and answered, at the most verbose log level and through every kind of failure,
/// for each secret it was given.
#[test]
fn no_secret_is_in_any_log_or_answer() {
    const TOKENS: [&str; 2] =
        ["Xq7-first-secret-token-0123456789-abcdefgh", "Zk9-second-secret-token-0123456789-ijklm"];
    const PASSWORD: &str = "pa55-w0rd-Xq7";
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    let mut admin = server.client();
    admin.batch_execute(&format!("ALTER ROLE {GUEST} SUPERUSER PASSWORD '{PASSWORD}'")).unwrap();
    let (port, name) = (server.port(), database.settings().name);
    let url = format!("postgres://{GUEST}:{PASSWORD}@127.0.0.1:{port}/{name}?sslmode=disable");
    let tokens = format!("first={},second={}", TOKENS[0], TOKENS[1]);
    let mut answers = String::new();
    let mut app = App::launch(
        tempfile::tempdir().unwrap(),
        &[
            ("DATABASE_URL", url.as_str()),
            ("API_TOKENS", tokens.as_str()),
            ("RUST_LOG", "trace"),
            ("DB_POOL_MIN_CONNECTIONS", "1"),
            ("DB_OUTAGE_GRACE_MS", "100"),
        ],
    );
    TOKENS[0].clone_into(&mut app.token);
    let mut ask = |app: &App, method: &str, path: &str, token: Option<&str>, body: Option<&str>| {
        let answer = send(app, method, path, token, body);
        answers.push_str(&format!("{:?} {}\n", answer.headers, answer.text));
        answer.status
    };
    let movie = r#"{"movie_id":900001,"title":"A","year":1999,"genres":["Drama"]}"#;
    assert_eq!(ask(&app, "POST", "/api/movies", Some(TOKENS[1]), Some(movie)), 201);
    assert_eq!(ask(&app, "POST", "/api/movies", Some(TOKENS[1]), Some("{")), 400);
    assert_eq!(ask(&app, "GET", "/api/health/db", Some(TOKENS[0]), None), 200);
    assert_eq!(ask(&app, "GET", "/api/health/db/test", Some(TOKENS[0]), None), 200);
    assert_eq!(ask(&app, "GET", "/api/health/db", Some(PASSWORD), None), 401);
    let almost = &TOKENS[0][1..];
    assert_eq!(ask(&app, "GET", "/api/health/db", Some(almost), None), 401);
    // The login is refused, then the server is gone.
    let terminate =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{GUEST}'");
    admin.batch_execute(&format!("ALTER ROLE {GUEST} PASSWORD 'another'; {terminate}")).unwrap();
    eventually("the login is refused", SOON, || ask(&app, "GET", "/api/movies", None, None) == 503);
    assert_eq!(ask(&app, "GET", "/api/health/db/test", Some(TOKENS[0]), None), 503);
    server.stop_immediate();
    ask(&app, "GET", "/api/health/db", Some(TOKENS[0]), None);
    ask(&app, "GET", "/api/health/db/test", Some(TOKENS[0]), None);
    let (_, log, directory) = app.stop();
    assert!(log.contains("TRACE") && log.contains("password"), "it says little: {log}");

    // Settings that are refused, by each command that reads them.
    let mut printed = log + &answers;
    let bad = [
        (
            "DATABASE_URL",
            format!("postgres://{GUEST}:{PASSWORD}@/movies?sslmode=sometimes&nonsense={PASSWORD}"),
        ),
        ("API_TOKENS", format!("first={},second={},first={}", TOKENS[0], TOKENS[0], TOKENS[1])),
        ("DB_POOL_MAX_CONNECTIONS", "many".to_owned()),
    ];
    for command in ["check", "serve", "schema"] {
        let mut run = poolhouse(directory.path());
        run.arg(command).env("DATABASE_URL", &url).env("API_TOKENS", &tokens).env("RUST_LOG", "trace");
        let outputs = [run.output().unwrap(), run.envs(bad.iter().cloned()).output().unwrap()];
        for output in outputs {
            assert!(!output.status.success(), "{command} with {output:?}");
            printed += &String::from_utf8_lossy(&output.stdout);
            printed += &String::from_utf8_lossy(&output.stderr);
        }
    }
    for secret in [PASSWORD, TOKENS[0], TOKENS[1], almost] {
        let line = printed.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

#[test]
fn what_is_written_is_what_was_sent_however_strange_it_looks() {
    let app = App::start();
    let title = "'; DROP TABLE movies; -- \u{202e}\u{0}";
    let body = serde_json::json!({"movie_id": 900_001, "title": title, "genres": ["Drama"]}).to_string();
    assert_eq!(write(&app, "POST", "/api/movies", &body).status, 422, "a control character");
    let title = title.trim_end_matches('\0');
    let body = serde_json::json!({"movie_id": 900_001, "title": title, "genres": ["Drama"]}).to_string();
    assert_eq!(write(&app, "POST", "/api/movies", &body).status, 201);
    assert_eq!(get(&app, "/api/movies/900001").json()["title"], title);
    assert_unharmed(&app);
}
