//! Runs of `poolhouse ingest` that are killed, stopped or cut off in the middle, and then go on.

use super::folder::{Folder, said};
use crate::support::{Proxy, SOON, eventually, postgres};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;

/// What the program logs once a signal was handled.
const STOPPING: &str = "Stopping when the work in hand is complete";

fn documents(folder: &Folder) -> i64 {
    folder.count("SELECT count(*) FROM documents")
}

#[test]
fn a_run_that_is_killed_leaves_whole_documents_and_the_next_one_completes_them() {
    let folder = Folder::new();
    folder.fill(30);
    // What an uninterrupted run leaves.
    folder.summary(0, &[]);
    let expected = folder.rows();
    assert!(expected.len() > 60);
    folder.database.client().batch_execute("TRUNCATE documents CASCADE").unwrap();

    let holder = folder.hold("17.txt");
    let run = folder.start(&["--workers", "3"]);
    folder.until_held();
    eventually("the other workers have gone on", SOON, || documents(&folder) > 17);
    run.signal(Signal::SIGKILL);
    run.output();
    drop(holder);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    eventually("the server has ended its sessions", SOON, || folder.count(sessions) == 0);
    let loaded = folder.rows();
    assert!(loaded.iter().all(|row| expected.contains(row)), "something half loaded: {loaded:?}");

    let left = 30 - documents(&folder);
    let summary = folder.summary(0, &[]);
    assert_eq!((&summary["added"], &summary["unchanged"]), (&left.into(), &(30 - left).into()));
    assert_eq!(folder.rows(), expected);
}

#[test]
fn a_signal_completes_the_documents_in_work_and_a_second_one_stops_at_once() {
    let folder = Folder::new();
    folder.fill(20);
    let holder = folder.hold("03.txt");
    let run = folder.start(&["--workers", "1", "--json"]);
    folder.until_held();
    run.signal(Signal::SIGINT);
    eventually("the signal is handled", SOON, || run.log().contains(STOPPING));
    assert_eq!(documents(&folder), 3);
    drop(holder);
    let output = run.output();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("poolhouse: stopped before the end"), "{}", said(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["added"], &summary["is_complete"]), (&4.into(), &false.into()));
    assert_eq!(documents(&folder), 4);

    let _holder = folder.hold("10.txt");
    let run = folder.start(&["--workers", "1"]);
    folder.until_held();
    run.signal(Signal::SIGINT);
    eventually("the signal is handled", SOON, || run.log().contains(STOPPING));
    run.signal(Signal::SIGTERM);
    let output = run.output();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert_eq!(documents(&folder), 10);
}

#[test]
fn an_outage_in_the_middle_is_waited_out() {
    let folder = Folder::new();
    folder.fill(20);
    folder.summary(0, &[]);
    let expected = folder.rows();
    folder.database.client().batch_execute("TRUNCATE documents CASCADE").unwrap();
    let proxy = Proxy::to(&folder.database.settings());
    let url = postgres::url(&proxy.settings());
    let holder = folder.hold("05.txt");
    let run = folder.start_on(&url, &["--workers", "2", "--json"]);
    folder.until_held();
    eventually("the other worker has gone on", SOON, || documents(&folder) > 5);
    proxy.refuse();
    proxy.cut();
    drop(holder);
    eventually("the outage is noticed", SOON, || run.log().contains("Waiting up to"));
    proxy.pass();
    let output = run.output();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("Waiting up to 60 s for the database"), "{}", said(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["added"], 20, "{}", said(&output));
    assert_eq!(folder.rows(), expected);

    // With no patience it is an error, and another run goes on.
    folder
        .database
        .client()
        .batch_execute("DELETE FROM documents WHERE source LIKE '%9.txt' OR source LIKE '%5.txt'")
        .unwrap();
    let holder = folder.hold("05.txt");
    let run = folder.start_on(&url, &["--workers", "2", "--wait-s", "0"]);
    folder.until_held();
    proxy.refuse();
    proxy.cut();
    let output = run.output();
    drop(holder);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("poolhouse: cannot load more into the database"), "{}", said(&output));
    folder.summary(0, &[]);
    assert_eq!(folder.rows(), expected);
}

#[test]
fn runs_at_the_same_time_load_each_document_once() {
    let folder = Folder::new();
    folder.fill(30);
    for round in 0..2 {
        for run in [0, 1, 2].map(|_| folder.start(&[])) {
            let output = run.output();
            assert!(output.status.success(), "{}", said(&output));
        }
        assert_eq!(documents(&folder), 30);
        let chunks = "SELECT count(*) FROM chunks";
        let before = folder.count(chunks);
        assert_eq!(folder.summary(0, &[])["unchanged"], 30, "round {round}");
        assert_eq!(folder.count(chunks), before);
        // Then each run replaces every document.
        for number in 0..30 {
            folder.write(&format!("{number:02}.txt"), format!("Other words about {number}. ").repeat(30));
        }
    }
}

/// A document that is written again while the other run looks for vanished ones is not vanished.
#[test]
fn pruning_keeps_what_another_run_has_replaced_in_the_meantime() {
    let folder = Folder::new();
    folder.fill(3);
    folder.summary(0, &[]);
    fs::remove_file(folder.path("01.txt")).unwrap();
    fs::remove_file(folder.path("02.txt")).unwrap();
    let mut other = folder.database.client();
    let mut replacing = other.transaction().unwrap();
    replacing.execute("UPDATE documents SET loaded_at = now() WHERE source LIKE '%01.txt'", &[]).unwrap();
    let run = folder.start(&["--prune", "--json"]);
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'DELETE%'";
    eventually("it waits for the other", SOON, || folder.count(waits) == 1);
    replacing.commit().unwrap();
    let output = run.output();
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["vanished"], &summary["pruned"]), (&2.into(), &1.into()), "{}", said(&output));
    assert_eq!(folder.count("SELECT count(*) FROM documents WHERE source LIKE '%01.txt'"), 1);
    assert_eq!(folder.summary(0, &["--prune"])["pruned"], 1);
}

/// The database is there all the time: it is the document that takes too long.
#[test]
fn a_document_that_takes_too_long_twice_is_left_out_and_the_others_are_loaded() {
    let folder = Folder::new();
    folder.fill(5);
    let _holder = folder.hold("02.txt");
    let mut run = folder.command(&["--workers", "1"]);
    let output = run.env("DB_STATEMENT_TIMEOUT_MS", "500").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("02.txt takes the database too long, twice: "), "{}", said(&output));
    assert_eq!(documents(&folder), 4);
}
