//! Under systemd, and as the first process of a container.

use super::*;
use crate::support::postgres;
use std::fs;
use std::process::Stdio;

const UNIT: &str = include_str!("../../config/poolhouse.service");

#[test]
fn systemd_is_notified_of_the_start_and_the_end() {
    let database = postgres::fresh_database().with_schema();
    for is_abstract in [false, cfg!(target_os = "linux")] {
        let directory = tempfile::tempdir().unwrap();
        let (socket, name) = supervisors_socket(directory.path(), is_abstract);
        let variables = [("DATABASE_URL", &*database.url()), ("NOTIFY_SOCKET", &name)];
        let mut app = App::spawn(&[], tempfile::tempdir().unwrap(), &variables);
        let ready = receive(&socket);
        assert!(ready.starts_with("READY=1\nSTATUS=Listening on http://127.0.0.1:"), "{ready}");
        // Not a moment too early.
        app.base_url = ready.trim().split_once("Listening on ").unwrap().1.to_owned();
        assert_eq!(app.get("/api/health").0, 200);
        assert_eq!(receive(&socket), "STATUS=Serving 0 movies as of the start\n");
        send(&app, Signal::SIGTERM);
        let stopping = receive(&socket);
        assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
        let (status, log, _) = app.ended(SOON);
        assert_eq!(status.code(), Some(0), "{log}");
    }
}

#[test]
fn without_a_database_systemd_is_notified_of_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, name) = supervisors_socket(directory.path(), false);
    let nobody = "postgres://me:pw@127.0.0.1:1/movies?sslmode=disable";
    let variables = [("DATABASE_URL", nobody), ("DB_START", "wait"), ("NOTIFY_SOCKET", &name)];
    let app = App::spawn(&[], tempfile::tempdir().unwrap(), &variables);
    assert!(receive(&socket).starts_with("READY=1\n"));
    let status = receive(&socket);
    assert!(status.starts_with("STATUS=Not ready yet: the database 127.0.0.1:1/movies"), "{status}");
    send(&app, Signal::SIGTERM);
    assert!(receive(&socket).starts_with("STOPPING=1\n"));
    let (status, log, _) = app.ended(PROMPTLY);
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_supervisor_that_does_not_listen_is_no_reason_to_fail() {
    let database = postgres::fresh_database().with_schema();
    let variables = [("DATABASE_URL", &*database.url()), ("NOTIFY_SOCKET", "/nowhere/notify")];
    let app = App::launch(tempfile::tempdir().unwrap(), &variables);
    assert!(app.log().contains("Cannot tell /nowhere/notify"), "{}", app.log());
    assert_eq!(app.stop().0.code(), Some(0));
}

fn unit(name: &str) -> &'static str {
    let values = UNIT.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let values: Vec<_> = values.collect();
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    values[0]
}

#[test]
fn the_unit_file_gives_the_service_the_time_it_takes_and_is_one_that_systemd_accepts() {
    assert_eq!((unit("Type"), unit("KillMode")), ("notify", "mixed"));
    let deadline = poolhouse::Settings::from_vars(&Default::default()).unwrap().http.shutdown_timeout;
    let given = Duration::from_secs(unit("TimeoutStopSec").parse().unwrap());
    assert!(given > deadline + Duration::from_secs(1), "{given:?}");
    // Settings at fault are not mended by another start.
    assert_eq!((unit("Restart"), unit("RestartPreventExitStatus")), ("on-failure", "2"));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("poolhouse.service");
    let installed = unit("ExecStart").split(' ').next().unwrap();
    // Where no part of the path has a space, which would end it.
    let program = directory.path().join("poolhouse");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_poolhouse"), &program).unwrap();
    fs::write(&file, UNIT.replace(installed, program.to_str().unwrap())).unwrap();
    let verify = Command::new("systemd-analyze").arg("verify").arg(&file).output();
    let Ok(output) = verify else {
        eprintln!("skipped: there is no systemd-analyze to read config/poolhouse.service with");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("poolhouse.service")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

/// Runs its command as the first process of a world of its own; `Err` says why that cannot be had.
const FIRST: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

fn can_be_first() -> Result<(), String> {
    let mut command = Command::new(FIRST[0]);
    let output = command.args(&FIRST[1..]).args(["sh", "-c", "echo $$"]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.stdout == b"1\n" => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// The service itself, the only child of what runs it.
fn first_of(app: &App) -> Pid {
    let children = children_of(Pid::from_raw(app.pid().cast_signed()));
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

#[test]
fn the_first_process_of_a_container_takes_signals_and_buries_orphans() {
    if let Err(why) = can_be_first() {
        eprintln!("skipped: no process namespace to be had here ({why})");
        return;
    }
    let database = postgres::fresh_database().with_schema();
    let launch = || {
        let variables = [("DATABASE_URL", &*database.url())];
        let app = App::spawn(&FIRST, tempfile::tempdir().unwrap(), &variables).until_it_answers();
        let first = first_of(&app);
        (app, first)
    };

    let (app, first) = launch();
    // A command run inside, as a health check is, whose child outlives it.
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut inside = Command::new("nsenter");
    inside.args(["-t", &first.to_string(), "-p", "-m", "sh", "-c", r#"cat "$0" >/dev/null 2>&1 &"#]);
    assert!(inside.arg(&fifo).status().unwrap().success());
    let orphans = children_of(first);
    assert_eq!(orphans.len(), 1, "{orphans:?}");
    // Opened and closed: the orphan has read all there is.
    fs::write(&fifo, "").unwrap();
    eventually("the orphan is buried", SOON, || children_of(first).is_empty());

    kill(first, Signal::SIGTERM).unwrap();
    let (status, log, _) = app.ended(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
    assert_in_order(&log, &["Application shutting down", "Closed database connection pool"]);

    let (app, first) = launch();
    kill(first, Signal::SIGQUIT).unwrap();
    assert_eq!(app.ended(SOON).0.code(), Some(131));
}

#[test]
fn the_first_process_of_a_container_can_be_stopped_while_it_starts() {
    if let Err(why) = can_be_first() {
        eprintln!("skipped: no process namespace to be had here ({why})");
        return;
    }
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("postgres://me:pw@{}/movies?sslmode=disable", nobody.local_addr().unwrap());
    let variables = [("DATABASE_URL", &*url), ("DB_CONNECT_TIMEOUT_S", "60"), ("DB_START", "fail")];
    let app = App::spawn(&FIRST, tempfile::tempdir().unwrap(), &variables);
    until_logged(&app, "Connecting to PostgreSQL");
    kill(first_of(&app), Signal::SIGTERM).unwrap();
    let (status, log, _) = app.ended(PROMPTLY);
    assert_eq!(status.code(), Some(0), "{log}");
}
