//! The private PostgreSQL of a developer who has configured no database.

mod inside;

use crate::support::app::{App, poolhouse};
use crate::support::server::cluster::{Account, Cluster, Programs, Shutdown};
use crate::support::{SOON, eventually, is_running, processes, server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An empty project, with a space in its path, that the server's user can enter.
fn project() -> TempDir {
    let directory = tempfile::Builder::new().prefix("a poolhouse project ").tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// A project whose server is made and has loaded the sample, and does not run: copying takes a tenth of the time.
fn made() -> TempDir {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        let (status, log, made) = serve(project()).stop();
        assert_eq!(status.code(), Some(0), "{log}");
        let kept = server::directory().join("project");
        server::copy_directory(&made.path().join(".poolhouse"), &kept);
        kept
    });
    let project = project();
    server::copy_directory(&MADE, &project.path().join(".poolhouse"));
    project
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

/// Those whose command line has these `words`.
fn processes_with(words: &str) -> Vec<Pid> {
    let all = processes().into_iter().filter(|process| process.command.contains(words));
    all.map(|process| process.pid).collect()
}

/// Kills the shell that would end the server after its service.
fn kill_guard_of(server: Pid) {
    for guard in processes_with(&format!("poolhouse-watchdog {server} ")) {
        kill(guard, Signal::SIGKILL).unwrap();
    }
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
    assert_eq!(mode(&home.join("postgres.log")), 0o600);
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
    let app = serve(made());
    let server = postmaster(&data(&app));
    let project = app.kill();
    eventually("the server ends", SOON, || !is_running(server));
    let app = serve(project);
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn a_server_that_was_left_behind_is_ended_first() {
    let app = serve(made());
    let server = postmaster(&data(&app));
    kill_guard_of(server);
    let project = app.kill();
    assert!(is_running(server));
    let app = serve(project);
    assert!(app.log().contains(&format!("left behind (process {server})")), "{}", app.log());
    assert!(!is_running(server));
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn a_lock_file_with_the_number_of_another_process_is_no_obstacle() {
    let project = made();
    let lock = project.path().join(".poolhouse/data/postmaster.pid");
    let ours = std::process::id();
    fs::write(&lock, format!("{ours}\n{}\n1\n5432\n\n127.0.0.1\n\nready\n", project.path().display()))
        .unwrap();
    let app = serve(project);
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn an_unreadable_lock_file_is_no_obstacle() {
    let mut project = made();
    for content in [&b""[..], b"bogus\n", b"\xff\xfe"] {
        fs::write(project.path().join(".poolhouse/data/postmaster.pid"), content).unwrap();
        let app = serve(project);
        assert!(movies(&app, "casablanca").contains("1942"));
        project = app.stop().2;
    }
}

/// As in a container whose first process does not know that it is one: here the test is the parent. A wait until the
/// process is reaped would end only at its deadline.
#[test]
fn a_server_left_behind_that_is_never_reaped_is_not_waited_for() {
    let project = made();
    let data = project.path().join(".poolhouse/data");
    let account = Account::for_server(&data).unwrap();
    let cluster = Cluster::new(Programs::find(None).unwrap(), data, account);
    let server = cluster.start_anywhere(&[], &project.path().join("log")).unwrap();
    let app = serve(project);
    assert!(app.log().contains(&format!("left behind (process {})", server.pid())), "{}", app.log());
    assert!(movies(&app, "casablanca").contains("1942"));
    assert!(server.stop(Shutdown::Fast, Duration::ZERO).unwrap().success());
}

/// Kills a service and leaves its server running, with a lock file that cannot be read.
fn leave_behind_without_lock_file() -> (Pid, TempDir) {
    let app = serve(made());
    let server = postmaster(&data(&app));
    kill_guard_of(server);
    let lock = data(&app).join("postmaster.pid");
    let project = app.kill();
    assert!(is_running(server));
    fs::write(lock, "").unwrap();
    (server, project)
}

#[test]
fn a_server_left_behind_without_its_lock_file_is_ended_first() {
    let (server, project) = leave_behind_without_lock_file();
    // PostgreSQL's programs are to be found, and where they have a directory of their own, `ps` is not.
    let path = Programs::find(None).unwrap().bin;
    let path = if cfg!(target_os = "linux") { path.into_os_string() } else { env::var_os("PATH").unwrap() };
    let app = App::launch(project, &[("PATH", path.to_str().unwrap())]);
    assert!(!is_running(server));
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn a_lock_file_stays_where_nothing_shows_whether_its_server_runs() {
    // `ps` reads /proc as well.
    let without_processes =
        ["unshare", "--mount", "sh", "-c", r#"mount -t tmpfs none /proc && exec "$0" "$@""#];
    let mut attempt = Command::new(without_processes[0]);
    let attempt = attempt.args(&without_processes[1..]).arg("true").stderr(Stdio::null()).status();
    if !attempt.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: /proc cannot be hidden from a process here");
    }
    let (server, project) = leave_behind_without_lock_file();
    let (status, log, project) = App::spawn(&without_processes, project, &[]).ended(SOON);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("neither /proc nor ps shows"), "{log}");
    assert!(project.path().join(".poolhouse/data/postmaster.pid").exists());
    assert!(is_running(server));
    let app = serve(project);
    assert!(movies(&app, "casablanca").contains("1942"));
}

/// `poolhouse serve` on damaged files: refuses, and says all of `words`.
#[track_caller]
fn assert_refuses(project: &TempDir, words: &[&str]) {
    let output = poolhouse(project.path()).arg("serve").env("HTTP_BIND", "127.0.0.1:0").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in words.iter().chain(&["start anew"]) {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
}

#[test]
fn damaged_files_are_refused_and_can_be_repaired() {
    let project = made();
    let home = project.path().join(".poolhouse");
    let (version, password) = (home.join("data/PG_VERSION"), home.join("password"));
    let (right_version, right_password) = (fs::read(&version).unwrap(), fs::read(&password).unwrap());
    let listing = |home: &Path| {
        let mut names: Vec<_> = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = listing(&home);

    fs::write(&version, "").unwrap();
    assert_refuses(&project, &["PG_VERSION", "holds no version"]);
    fs::remove_file(&version).unwrap();
    assert_refuses(&project, &["PG_VERSION", "os error"]);
    assert_eq!(fs::read(&password).unwrap(), right_password, "the password of the data is gone");
    assert_eq!(listing(&home), before);
    fs::write(&version, right_version).unwrap();

    fs::write(&password, "\n").unwrap();
    assert_refuses(&project, &[".poolhouse/password", "holds no password"]);
    fs::write(&password, "wrong\n").unwrap();
    assert_refuses(&project, &[".poolhouse/password", "password authentication failed"]);
    fs::remove_file(&password).unwrap();
    assert_refuses(&project, &[".poolhouse/password", "os error"]);
    // As if the first run had been killed just before it gave the file its name.
    fs::write(home.join("password.new"), right_password).unwrap();
    let app = serve(project);
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn a_service_whose_server_has_died_says_so_and_ends() {
    let app = serve(made());
    kill(postmaster(&data(&app)), Signal::SIGKILL).unwrap();
    let pid = Pid::from_raw(app.pid().cast_signed());
    eventually("the service ends", SOON, || !is_running(pid));
    let (status, log, project) = app.stop();
    assert_eq!(status.code(), Some(1), "{log}");
    let errors: Vec<_> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    assert_eq!(errors.len(), 1, "{log}");
    for word in
        ["The private PostgreSQL has ended", "signal: 9", "ready to accept connections", "postgres.log"]
    {
        assert!(errors[0].contains(word), "{word:?} is missing in: {}", errors[0]);
    }
    assert!(!log.contains("Stopped the private PostgreSQL"), "{log}");
    let app = serve(project);
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn a_first_run_that_is_killed_leaves_nothing_running() {
    let project = project();
    let mut command = poolhouse(project.path());
    command.arg("serve").env("HTTP_BIND", "127.0.0.1:0").stderr(Stdio::null());
    let mut first = command.spawn().unwrap();
    let half_made = format!("{}/data.new-{}", project.path().join(".poolhouse").display(), first.id());
    let made = Path::new(&half_made).join("base");
    eventually("initdb is at work", SOON, || made.exists());
    first.kill().unwrap();
    first.wait().unwrap();
    eventually("initdb ends", SOON, || processes_with(&half_made).is_empty());
    // Three databases are in a directory that has been completed.
    assert!(fs::read_dir(made).unwrap().count() < 3, "initdb went on to its end");
    let app = serve(project);
    assert!(movies(&app, "casablanca").contains("1942"));
}

#[test]
fn an_initdb_with_much_to_say_is_heard_out() {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let directory = TempDir::new().unwrap();
    let bin = directory.path().to_owned();
    // More than a pipe holds. Written by a shell: a program that we had open could not be run for a moment.
    let script = "#!/bin/sh\nyes 'nothing but words' | head -c 300000 >&2\necho the end >&2\nexit 1\n";
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"printf %s "$1" >"$0" && chmod +x "$0""#]).arg(bin.join("initdb")).arg(script);
    assert!(shell.status().unwrap().success());
    let cluster = Cluster::new(Programs { bin, major: 15 }, directory.path().join("data"), None);
    let cluster = cluster.unless(|| START.elapsed() > SOON);
    let said = cluster.create("me", "secret").unwrap_err().to_string();
    assert!(said.starts_with("initdb failed: nothing but words") && said.ends_with("the end"), "{said:.200}");
}

#[test]
fn check_is_content_with_a_private_server_that_has_no_tables_yet() {
    let project = project();
    let output = poolhouse(project.path()).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("not made yet") && said.contains(" serve`"), "{said}");
    assert!(!said.contains(" schema`"), "{said}");
}

#[test]
fn projects_have_servers_of_their_own_and_a_project_has_one() {
    let (one, two) = (serve(made()), serve(made()));
    assert!(import(&one, "900002,Qwrtz (2002),Drama").status.success());
    assert!(movies(&one, "qwrtz").contains("900002"));
    assert!(!movies(&two, "qwrtz").contains("900002"));
    let again = poolhouse(one.directory()).arg("serve").env("HTTP_BIND", "127.0.0.1:0").output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(said.contains("another poolhouse is using the private PostgreSQL"), "{said}");
    assert!(movies(&one, "casablanca").contains("1942"), "the second start did harm");
}
