//! `poolhouse status`: what an operator sees of a running service, and what of one that cannot be asked.

use crate::support::app::{App, TOKEN, poolhouse};
use crate::support::{SOON, eventually, terminate};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use tempfile::TempDir;

fn status(arguments: &[&str], directory: &TempDir) -> Command {
    let mut command = poolhouse(directory.path());
    command.arg("status").args(arguments).env("TOKEN", TOKEN);
    command
}

fn ask(arguments: &[&str]) -> Output {
    status(arguments, &TempDir::new().unwrap()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn assert_says(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains(TOKEN) && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn the_exit_code_is_the_verdict_and_the_line_that_holds_connections_is_named() {
    let app = App::start_with(&[("DB_POOL_MIN_CONNECTIONS", "1"), ("DB_POOL_MAX_CONNECTIONS", "1")]);
    let url = &app.base_url;
    assert_says(&ask(&[url]), 0, &[url, "healthy", "in use   0 of 1 (0%)", "waiting  0", "Basis"]);

    let mut locker = app.database().client();
    let mut lock = locker.transaction().unwrap();
    lock.batch_execute("LOCK TABLE movies").unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| app.get("/api/movies"));
        eventually("the verdict is warning", SOON, || ask(&[url]).status.code() == Some(4));
        assert_says(
            &ask(&[url]),
            4,
            &["warning", "in use   1 of 1 (100%)", "Warnings", "Held", "1 at src/", ".rs:"],
        );
        let output = ask(&[url, "--json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(4));
        assert_eq!(answer["report"]["pool_stats"]["in_use"], 1);
        lock.rollback().unwrap();
        assert_eq!(reader.join().unwrap().0, 200);
    });

    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let nowhere = format!("postgres://me@127.0.0.1:{free}/movies?sslmode=disable");
    let app = App::launch(TempDir::new().unwrap(), &[("DATABASE_URL", &nowhere), ("DB_START", "wait")]);
    assert_says(&ask(&[&app.base_url]), 5, &["error", "Warnings"]);
}

#[test]
fn a_question_that_cannot_be_asked_says_what_is_missing() {
    let directory = TempDir::new().unwrap();
    for (arguments, words) in [
        (&["127.0.0.1:5000"][..], &["127.0.0.1:5000", "http://"][..]),
        (&["https://127.0.0.1"], &["TLS"]),
        (&["--timeout", "0"], &["--timeout"]),
        (&["--token-file", "absent", "http://127.0.0.1:1"], &["absent", "cannot read"]),
        // Port 0 of the settings is no address.
        (&[], &["HTTP_BIND=127.0.0.1:0", "http://127.0.0.1:PORT"]),
    ] {
        let output = status(arguments, &directory).env("HTTP_BIND", "127.0.0.1:0").output().unwrap();
        assert_says(&output, 2, words);
    }
    fs::write(directory.path().join("empty"), "\n").unwrap();
    let with_empty = ["--token-file", "empty", "http://127.0.0.1:1"];
    assert_says(&status(&with_empty, &directory).output().unwrap(), 2, &["empty has no token", "API_TOKENS"]);
    for token in ["", "two words", "sneaky\r\nHost: elsewhere"] {
        let output = status(&["http://127.0.0.1:1"], &directory).env("TOKEN", token).output().unwrap();
        assert_says(&output, 2, &["the variable TOKEN has", "export TOKEN", "--token-file"]);
    }
}

/// Answers every connection with these bytes; with none, not at all.
fn impostor(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
            match answer {
                b"" => kept.push(stream),
                _ => drop(stream),
            }
        }
    });
    url
}

#[test]
fn whatever_answers_in_place_of_the_service_is_recognised() {
    let app = App::start();
    let directory = TempDir::new().unwrap();
    let wrong = status(&[&app.base_url], &directory).env("TOKEN", "wrong").output().unwrap();
    assert_says(&wrong, 1, &[&app.base_url, "401", "API_TOKENS"]);
    let file = directory.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let with_file = ["--token-file", "token", &app.base_url];
    assert_says(&status(&with_file, &directory).env("TOKEN", "wrong").output().unwrap(), 0, &["healthy"]);

    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    assert_says(&ask(&[&format!("http://{free}")]), 1, &["nothing answers", &free.to_string(), "serve"]);
    for (answer, word) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n<p>\x1b[2J</"[..], "not a poolhouse service"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"report\": {}}", "not a poolhouse service"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "status 302"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "503"),
        (b"220 mail.example ESMTP\r\n", "not a poolhouse service"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", "nothing answers"),
    ] {
        assert_says(&ask(&[&impostor(answer)]), 1, &[word]);
    }
    assert_says(&ask(&[&impostor(b""), "--timeout", "1"]), 1, &["not answered within 1 s", "--timeout"]);
}

fn watching(arguments: &[&str], directory: &TempDir) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = status(arguments, directory).arg("--watch").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    (child, lines)
}

#[test]
fn watching_survives_the_service_and_ends_when_asked_to_or_unread() {
    let directory = TempDir::new().unwrap();
    assert_says(&ask(&["--watch", &impostor(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")]), 1, &["404"]);
    let app = App::start();

    let (mut unread, mut lines) = watching(&["--json", &app.base_url], &directory);
    for _ in 0..2 {
        let answer: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert_eq!(answer["report"]["status"], "healthy");
    }
    drop(lines);
    eventually("an unread one ends", SOON, || unread.try_wait().unwrap().is_some());
    assert!(unread.wait().unwrap().success());

    let (mut watcher, mut lines) = watching(&[&app.base_url], &directory);
    assert!(lines.any(|line| line.ends_with("healthy")));
    app.kill();
    assert!(lines.any(|line| line == "no answer"));
    terminate(watcher.id());
    assert!(watcher.wait().unwrap().success());
}
