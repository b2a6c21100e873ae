//! The private PostgreSQL, when the service ends.

use super::*;
use crate::support::Postgres;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// An empty project that the server's user can enter.
fn project() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn postmaster_of(app: &App) -> Pid {
    let file = app.directory().join(".poolhouse/data/postmaster.pid");
    Pid::from_raw(fs::read_to_string(file).unwrap().lines().next().unwrap().trim().parse().unwrap())
}

/// The postmaster and its processes.
fn family_of(postmaster: Pid) -> Vec<Pid> {
    [vec![postmaster], children_of(postmaster)].concat()
}

fn client(directory: &Path) -> postgres::Client {
    let home = directory.join(".poolhouse");
    let password = fs::read_to_string(home.join("password")).unwrap();
    let lock = fs::read_to_string(home.join("data/postmaster.pid")).unwrap();
    let port = lock.lines().nth(3).unwrap().trim();
    let url = format!("postgres://poolhouse:{}@127.0.0.1:{port}/postgres?sslmode=disable", password.trim());
    postgres::Client::connect(&url, postgres::NoTls).unwrap()
}

#[test]
fn a_frozen_one_is_killed_with_all_its_processes_and_a_signal_ends_the_next_loading_of_the_sample() {
    let directory = project();
    let (socket, name) = supervisors_socket(directory.path(), cfg!(target_os = "linux"));
    let app = App::launch(directory, &[("NOTIFY_SOCKET", &name)]);
    // PostgreSQL speaks that protocol too, and is ready earlier: it is not to speak for us.
    assert!(receive(&socket).starts_with("READY=1\nSTATUS=Listening"));
    let stumbling_block = "
        SET synchronous_commit = on;
        DELETE FROM movies;
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
        CREATE TRIGGER dawdle BEFORE INSERT ON movies FOR EACH ROW EXECUTE FUNCTION dawdle()";
    client(app.directory()).batch_execute(stumbling_block).unwrap();
    let family = family_of(postmaster_of(&app));
    assert!(family.len() > 5, "{family:?}");
    freeze(&family);
    let start = Instant::now();
    let (status, log, project) = app.stop();
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("Killed the private PostgreSQL"), "{log}");
    eventually("all its processes are gone", SOON, || running(&family).is_empty());

    let app = App::spawn(&[], project, &[]);
    until_logged(&app, "Initialized database connection pool");
    let mut watcher = client(app.directory());
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually("the sample is being loaded", SOON, || {
        watcher.query_one(sql, &[]).unwrap().get::<_, i64>(0) > 0
    });
    let family = family_of(postmaster_of(&app));
    send(&app, Signal::SIGTERM);
    let (status, log, _project) = app.ended(PROMPTLY);
    assert_eq!(status.code(), Some(0), "{log}");
    assert_in_order(&log, &["Application shutting down", "Stopped the private PostgreSQL"]);
    assert!(!log.contains("Loaded"), "{log}");
    eventually("all its processes are gone", SOON, || running(&family).is_empty());
}

#[test]
fn one_whose_processes_do_not_end_is_killed_with_them() {
    let server = Postgres::start();
    let _client = server.client();
    server.freeze();
    let postmaster = server.pid();
    kill(postmaster, Signal::SIGCONT).unwrap();
    let family = family_of(postmaster);
    let start = Instant::now();
    server.stop_fast_within(Duration::from_millis(200));
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    eventually("all its processes are gone", SOON, || running(&family).is_empty());
}

#[test]
fn a_signal_ends_its_making_and_leaves_nothing_half_made() {
    let app = App::spawn(&[], project(), &[]);
    let home = app.directory().join(".poolhouse");
    let half_made = home.join(format!("data.new-{}", app.pid()));
    eventually("initdb is at work", SOON, || half_made.join("base").exists());
    send(&app, Signal::SIGTERM);
    let (status, log, project) = app.ended(PROMPTLY);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("Application shutting down"), "{log}");
    let name = half_made.to_str().unwrap();
    let left: Vec<_> = processes().into_iter().filter(|process| process.command.contains(name)).collect();
    assert!(left.is_empty(), "{left:?}");
    let names: Vec<_> = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["lock"]);
    drop(project);
}
