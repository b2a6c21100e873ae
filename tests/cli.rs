//! The program's command line: wrong arguments and settings, and the messages they lead to.

use crate::support::app::{App, poolhouse};
use crate::support::postgres::{self, GUEST, GUEST_PASSWORD};
use crate::support::{Database, Postgres, SOON, eventually};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// Runs the program in an empty directory and waits for its end.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    run_in(&TempDir::new().unwrap(), arguments, variables)
}

fn run_in(directory: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = poolhouse(directory.path());
    // The usual port may be in use, by another test too.
    command.env("HTTP_BIND", "127.0.0.1:0");
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn run_on(database: &Database, arguments: &[&str]) -> Output {
    run(arguments, &[("DATABASE_URL", &database.url())])
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The program ended with `code`, and its error names everything of `words`.
#[track_caller]
fn assert_fails(output: &Output, code: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[track_caller]
fn assert_succeeds(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

#[test]
fn a_command_line_that_makes_no_sense_is_explained() {
    for (arguments, words) in [
        (&["migrate"][..], &["migrate", "--help"][..]),
        (&["import"], &["<FILE>"]),
        (&["serve", "--port", "80"], &["--port"]),
        (&["check", "twice"], &["twice"]),
    ] {
        assert_fails(&run(arguments, &[]), 2, words);
    }
    let version = run(&["--version"], &[]);
    assert_succeeds(&version);
    assert_eq!(stdout(&version).trim(), concat!("poolhouse ", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"], &[]);
    assert_succeeds(&help);
    for word in ["APP_ENV", "Exit codes", "NO_COLOR"] {
        assert!(stdout(&help).contains(word), "{word} is missing in the help");
    }
    for command in COMMANDS {
        assert!(stdout(&help).contains(&format!("\n  {command} ")), "{command} is missing in the help");
        let help = stdout(&run(&[command, "--help"], &[]));
        assert!(help.contains(&format!("\n  poolhouse {command}")), "no example of {command}: {help}");
    }
}

const COMMANDS: [&str; 9] =
    ["serve", "check", "status", "schema", "import", "ingest", "bench", "token", "completions"];

#[test]
fn completions_know_every_command_and_need_no_settings() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell], &[("HTTP_BIND", "nonsense")]);
        assert_succeeds(&output);
        for command in COMMANDS {
            assert!(stdout(&output).contains(command), "{command} is missing for {shell}");
        }
    }
    assert_fails(&run(&["completions", "dos"], &[]), 2, &["dos", "bash", "zsh", "fish"]);
}

/// The output of `token hash` for what standard input has.
fn hash(input: &[u8], arguments: &[&str]) -> Output {
    let mut command = poolhouse(Path::new("/"));
    command.args(["token", "hash"]).args(arguments).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may refuse before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn a_new_token_opens_the_service_that_has_its_entry() {
    let output = run(&["token", "new", "ops", "--json"], &[]);
    assert_succeeds(&output);
    let made: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let (token, entry) = (made["token"].as_str().unwrap(), made["entry"].as_str().unwrap());
    assert!(stdout(&run(&["token", "new", "ops"], &[])).contains("ops=sha256:"));
    let hashed = hash(format!("{token}\r\n").as_bytes(), &["ops"]);
    assert_succeeds(&hashed);
    assert_eq!(stdout(&hashed).trim(), entry);

    let app = App::start_with(&[("API_TOKENS", entry)]);
    let status = run(&["status", &app.base_url], &[("TOKEN", token)]);
    assert_succeeds(&status);
    assert_fails(&run(&["status", &app.base_url], &[("TOKEN", entry)]), 1, &["401", "not its hash"]);
}

#[test]
fn a_weak_token_is_not_hashed_and_never_shown() {
    for (input, words) in [
        ("", &["is empty"][..]),
        ("\n", &["is empty"]),
        ("swordfish", &["has 9 characters", "at least 32"]),
        ("swordfish 0123456789 0123456789 0123456789", &["has a character"]),
        ("swordfish-my-password-0123456789-0123456789", &["is a placeholder", "openssl"]),
        ("sha256:swordfish", &["is a hash already"]),
        ("swordfish\nswordfish", &["more than one line"]),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &["too few different characters"]),
    ] {
        let output = hash(input.as_bytes(), &[]);
        assert_fails(&output, 2, words);
        assert!(!stderr(&output).contains("swordfish") && output.stdout.is_empty());
    }
    assert_fails(&hash(&vec![b'x'; 1 << 20], &[]), 2, &["more than 4096 bytes"]);
    assert_fails(&hash(b"\xff\xfe", &[]), 2, &["not text"]);
    assert_fails(&run(&["token", "new", "two words"], &[]), 2, &["name", "64 letters"]);
    assert_fails(&run(&["token"], &[]), 2, &["new", "hash"]);
}

#[test]
fn unusable_settings_are_all_reported_and_nothing_is_tried() {
    for command in ["serve", "schema", "check"] {
        let variables = [
            ("DATABASE_URL", "postgres://me:swordfish@127.0.0.1:1/movies"),
            ("DB_POOL_MIN_CONNECTIONS", "7"),
            ("DB_POOL_MAX_CONNECTIONS", "3"),
            ("HTTP_WORKERS", "many"),
            ("HTTP_BIND", "localhost"),
        ];
        let output = run(&[command], &variables);
        assert_fails(&output, 2, &["DB_POOL_MIN_CONNECTIONS", "HTTP_WORKERS: many", "HTTP_BIND: localhost"]);
        assert!(!stderr(&output).contains("swordfish"));
    }
    assert_fails(
        &run(&["check"], &[("APP_ENV", "staging")]),
        2,
        &["APP_ENV: staging", "dev, preprod, production"],
    );
    // Only the dev tier starts a server of its own.
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join(".env.preprod"), "HTTP_WORKERS=1\n").unwrap();
    assert_fails(&run_in(&directory, &["serve"], &[("APP_ENV", "preprod")]), 2, &["DATABASE_URL"]);
}

#[test]
fn an_env_file_that_cannot_be_read_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join(".env.dev");
    fs::write(&file, "HTTP_WORKERS=1\nthis is no assignment\n").unwrap();
    assert_fails(&run_in(&directory, &["check"], &[]), 2, &[".env.dev", "line 2"]);
    fs::write(&file, b"HTTP_WORKERS=\xff\xfe\n").unwrap();
    assert_fails(&run_in(&directory, &["check"], &[]), 2, &[".env.dev"]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_fails(&run_in(&directory, &["check"], &[]), 2, &[".env.dev"]);
}

#[test]
fn no_server_is_down_and_says_so_soon() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let url = format!("postgres://me:swordfish@127.0.0.1:{free}/movies?sslmode=disable");
    for command in ["serve", "check", "schema"] {
        let start = Instant::now();
        let output = run(&[command], &[("DATABASE_URL", &url), ("DB_CONNECT_TIMEOUT_S", "60")]);
        let place = format!("127.0.0.1:{free}/movies as user me");
        assert_fails(&output, 1, &[&place, "database down", "refused"]);
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        assert!(!stderr(&output).contains("swordfish") && !stdout(&output).contains("swordfish"));
    }
}

#[test]
fn a_refused_login_is_reported_in_the_servers_words_at_once() {
    let server = Postgres::start();
    let port = server.port();
    for (url, words) in [
        (format!("postgres://{GUEST}:wrong@127.0.0.1:{port}/postgres"), "password authentication failed"),
        (
            format!("postgres://{GUEST}:{GUEST_PASSWORD}@127.0.0.1:{port}/nowhere"),
            "\"nowhere\" does not exist",
        ),
        (format!("postgres://nobody@127.0.0.1:{port}/postgres"), "\"nobody\" does not exist"),
    ] {
        let url = format!("{}?sslmode=disable", url.replace(' ', "%20"));
        for command in ["serve", "check"] {
            let start = Instant::now();
            let variables = [("DATABASE_URL", &*url), ("DB_CONNECT_TIMEOUT_S", "60")];
            assert_fails(&run(&[command], &variables), 1, &[words]);
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        }
    }
}

#[test]
fn a_database_without_tables_is_distinguished_from_a_broken_one() {
    let database = postgres::fresh_database();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/sample_movies.csv");
    for arguments in [&["serve"][..], &["import", file], &["check"]] {
        assert_fails(&run_on(&database, arguments), 1, &["poolhouse", " schema`"]);
    }
    assert_succeeds(&run_on(&database, &["schema"]));
    assert_succeeds(&run_on(&database, &["import", file]));
    assert_succeeds(&run_on(&database, &["check"]));
}

#[test]
fn the_schema_is_applied_again_and_by_several_at_once_without_harm() {
    let database = postgres::fresh_database();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_succeeds(&run_on(&database, &["schema"])));
        }
    });
    let mut client = database.client();
    client.batch_execute("INSERT INTO movies (movie_id, title) VALUES (1, 'Kept')").unwrap();
    let output = run_on(&database, &["schema"]);
    assert_succeeds(&output);
    assert!(!stderr(&output).contains("NOTICE"), "{}", stderr(&output));
    let title: String = client.query_one("SELECT title FROM movies", &[]).unwrap().get(0);
    assert_eq!(title, "Kept");
}

#[test]
fn a_user_that_may_not_create_tables_gets_the_grant_to_run() {
    let server = Postgres::start();
    server.client().batch_execute("REVOKE CREATE ON SCHEMA public FROM public").unwrap();
    let password = GUEST_PASSWORD.replace(' ', "%20");
    let url = format!("postgres://{GUEST}:{password}@127.0.0.1:{}/postgres?sslmode=disable", server.port());
    assert_fails(&run(&["schema"], &[("DATABASE_URL", &url)]), 1, &["permission denied", "grant CREATE"]);
}

#[test]
fn a_port_in_use_is_named_with_its_variable_before_a_database_is_made() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let bind = taken.local_addr().unwrap().to_string();
    let directory = TempDir::new().unwrap();
    let output = run_in(&directory, &["serve"], &[("HTTP_BIND", &bind)]);
    assert_fails(&output, 1, &[&format!("HTTP_BIND={bind}"), "in use"]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn check_shows_what_is_in_force_and_keeps_secrets() {
    let database = postgres::fresh_database().with_schema();
    let directory = TempDir::new().unwrap();
    let file = "DB_POOL_MAX_CONNECTIONS=4\nAPI_TOKENS=ci=a-token-that-nobody-may-see-0123456789\n";
    fs::write(directory.path().join(".env.dev"), file).unwrap();
    let output = run_in(
        &directory,
        &["check"],
        &[("DATABASE_URL", &database.url()), ("DB_POOL_ACQUIRE_TIMEOUT_S", "3")],
    );
    assert_succeeds(&output);
    let said = stdout(&output);
    for (variable, value, source) in [
        ("DB_POOL_MAX_CONNECTIONS", "4", ".env.dev"),
        ("DB_POOL_ACQUIRE_TIMEOUT_S", "3", "environment"),
        ("DB_POOL_MIN_CONNECTIONS", "2", "default"),
    ] {
        let line = said.lines().find(|line| line.trim_start().starts_with(variable));
        let words: Vec<_> =
            line.unwrap_or_else(|| panic!("no {variable}: {said}")).split_whitespace().collect();
        assert_eq!(words, [variable, value, source]);
    }
    for word in
        ["server version", "max_connections", "free", "schema           present, 0 movies", "All is well"]
    {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains("nobody-may-see"), "{said}");

    let output = run_in(&directory, &["check", "--json"], &[("DATABASE_URL", &database.url())]);
    assert_succeeds(&output);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&found["tier"], &found["movies"], &found["problems"]),
        (&"dev".into(), &0.into(), &serde_json::json!([]))
    );
    assert!(!stdout(&output).contains("nobody-may-see"), "{}", stdout(&output));
}

#[test]
fn check_fails_where_the_pool_does_not_fit_the_server() {
    let server = Postgres::start_with(&[("max_connections", "8"), ("superuser_reserved_connections", "3")]);
    let database = server.fresh_database().with_schema();
    let mut held = database.client();
    // The server lets go of a session a moment after its client has ended.
    let mut sessions = |expected: i64| {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        eventually("other sessions are gone", SOON, || {
            held.query_one(sql, &[]).unwrap().get::<_, i64>(0) == expected
        });
    };
    let check = |max| run(&["check"], &[("DATABASE_URL", &database.url()), ("DB_POOL_MAX_CONNECTIONS", max)]);
    sessions(1);
    assert_succeeds(&check("4"));
    sessions(1);
    assert_fails(&check("6"), 1, &["may open 6 connections and only 4 are free", "DB_POOL_MAX_CONNECTIONS"]);
    let _more = database.client();
    sessions(2);
    assert_fails(&check("4"), 1, &["may open 4 connections and only 3 are free"]);
}

#[test]
fn a_closed_standard_output_causes_no_panic() {
    let database = postgres::fresh_database().with_schema();
    let mut child = poolhouse(Path::new("/"))
        .arg("check")
        .env("DATABASE_URL", database.url())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_succeeds(&output);
}
