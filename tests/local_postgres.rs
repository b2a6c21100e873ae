//! The private PostgreSQL of a developer who has configured no database.

use crate::support::app::{App, poolhouse};
use crate::support::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// How long a server may take to end after its poolhouse was killed.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// An empty project, with a space in its path, that the server's user can enter.
fn project() -> TempDir {
    let directory = tempfile::Builder::new().prefix("a poolhouse project ").tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn serve(project: TempDir) -> App {
    App::launch(project, &[])
}

fn data(app: &App) -> PathBuf {
    app.directory().join(".poolhouse/data")
}

/// The server's process.
fn postmaster(data: &Path) -> Pid {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap())
}

fn is_running(pid: Pid) -> bool {
    // A process that has ended and that nobody has waited for still has a number.
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

fn movies(app: &App, search: &str) -> String {
    let (status, body) = app.get(&format!("/api/movies?search={search}"));
    assert_eq!(status, 200, "{body}");
    body
}

fn import(app: &App, line: &str) -> Output {
    let file = app.directory().join("more.csv");
    fs::write(&file, format!("movieId,title,genres\n{line}\n")).unwrap();
    poolhouse(app.directory()).args(["import", "more.csv"]).output().unwrap()
}

#[test]
fn it_serves_a_sample_ends_with_the_service_and_keeps_its_data() {
    let app = serve(project());
    assert!(movies(&app, "casablanca").contains("1942"));
    let server = postmaster(&data(&app));
    let (status, log, project) = app.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!is_running(server), "the server outlives the service");
    let lines = [
        "Initialized database connection pool (2-10 connections)",
        "Application started with",
        "Application shutting down",
        "Closed database connection pool",
        "Stopped the private PostgreSQL",
    ];
    let mut rest = log.as_str();
    for line in lines {
        rest =
            rest.split_once(line).unwrap_or_else(|| panic!("{line:?} is missing, or too early, in: {log}")).1;
    }

    // A second run; and another poolhouse loads something into the server of the one that runs.
    let app = serve(project);
    assert!(!app.log().contains("Creating a private PostgreSQL"), "{}", app.log());
    let output = import(&app, "900001,Zyxwv (2001),Drama");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(movies(&app, "zyxwv").contains("900001"));
    let (_, _, project) = app.stop();

    let app = serve(project);
    assert!(movies(&app, "zyxwv").contains("900001"));
    assert!(!app.log().contains("Loaded a sample"), "{}", app.log());
}

#[test]
fn only_this_user_with_the_password_gets_in() {
    let app = serve(project());
    let home = app.directory().join(".poolhouse");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.join("password")), 0o600);
    assert_eq!(mode(&home.join("data")), 0o700);
    let lines = fs::read_to_string(home.join("data/postmaster.pid")).unwrap();
    let lines: Vec<_> = lines.lines().map(str::trim).collect();
    assert_eq!((lines[4], lines[5]), ("", "127.0.0.1"), "a socket directory, or another address");
    let url = format!("postgres://poolhouse@127.0.0.1:{}/postgres?sslmode=disable", lines[3]);
    assert!(url.parse::<postgres::Config>().unwrap().connect(postgres::NoTls).is_err());
    let password = fs::read_to_string(home.join("password")).unwrap();
    assert!(!app.log().contains(password.trim()));
}

#[test]
fn a_killed_service_takes_its_server_along_and_starts_again() {
    let app = serve(project());
    let server = postmaster(&data(&app));
    let project = app.kill();
    eventually("the server ends", GONE_WITHIN, || !is_running(server));
    let app = serve(project);
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn a_server_that_was_left_behind_is_ended_first() {
    let app = serve(project());
    let server = postmaster(&data(&app));
    // Its guard is killed as well.
    let guards =
        Command::new("pgrep").args(["-f", &format!("poolhouse-watchdog {server} ")]).output().unwrap();
    for guard in String::from_utf8_lossy(&guards.stdout).lines() {
        kill(Pid::from_raw(guard.parse().unwrap()), Signal::SIGKILL).unwrap();
    }
    let project = app.kill();
    assert!(is_running(server));
    let app = serve(project);
    assert!(app.log().contains(&format!("left behind (process {server})")), "{}", app.log());
    assert!(!is_running(server));
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn a_lock_file_with_the_number_of_somebody_else_is_no_obstacle() {
    let (_, _, project) = serve(project()).stop();
    let lock = project.path().join(".poolhouse/data/postmaster.pid");
    let ours = std::process::id();
    fs::write(&lock, format!("{ours}\n{}\n1\n5432\n\n127.0.0.1\n\nready\n", project.path().display()))
        .unwrap();
    let app = serve(project);
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn projects_have_servers_of_their_own_and_a_project_has_one() {
    let (one, two) = (serve(project()), serve(project()));
    assert!(import(&one, "900002,Qwrtz (2002),Drama").status.success());
    assert!(movies(&one, "qwrtz").contains("900002"));
    assert!(!movies(&two, "qwrtz").contains("900002"));
    let again = poolhouse(one.directory()).arg("serve").env("HTTP_BIND", "127.0.0.1:0").output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(said.contains("another poolhouse is using the private PostgreSQL"), "{said}");
    assert!(movies(&one, "casablanca").contains("1942"), "the second start did harm");
}
