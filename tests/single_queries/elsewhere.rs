//! What others do to a query, and where it cannot be sent from the worker.

use super::*;
use poolhouse::settings::PrePing;

#[test]
fn requests_that_give_up_cost_no_connection() {
    let database = database();
    let _open = open(&settings(database.settings(), 2));
    run(async {
        make_quick().await;
        let mut locker = Locker::of(&database);
        let before = status();
        for _ in 0..3 {
            let late = spawn(execute_query_one::<(i32, i32), _>(OTHER, (7,)));
            soon("it waits", || locker.stuck() == 1).await;
            late.abort();
            soon("it is cancelled", || locker.stuck() == 0).await;
            soon("its connection is back", || status().in_use == 0).await;
        }
        // On a busy machine the answer to a cancel request may come too late for a connection.
        assert!(status().closed.total() - before.closed.total() < 3, "{:?}", status());
    });
}

#[test]
fn what_others_do_to_a_query_is_reported_as_on_a_thread() {
    let database = database();
    let _open = open(&settings(database.settings(), 1));
    run(async {
        make_quick().await;
        let mut locker = Locker::of(&database);
        let query = spawn(execute_query_one::<(i32, i32), _>(OTHER, (5,)));
        soon("it waits", || locker.stuck() == 1).await;
        locker.signal_the_stuck("pg_cancel_backend");
        let error = query.await.unwrap().unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("57014"), "{cause}");
        drop(locker);

        // Terminated twice: each time it is run again, on the one connection there is.
        make_quick().await;
        let mut locker = Locker::of(&database);
        let query = spawn(execute_query_one::<(i32, i32), _>(OTHER, (5,)));
        for terminated in 1..=2 {
            soon("it waits", || locker.stuck() == 1).await;
            locker.signal_the_stuck("pg_terminate_backend");
            soon("it is run again", || status().closed.total() >= terminated).await;
        }
        soon("it waits again", || locker.stuck() == 1).await;
        drop(locker);
        assert_eq!(query.await.unwrap().unwrap(), Some((5, 20)));
    });
}

/// Panics where it is made of a row.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "(i32, i32)")]
struct Bomb;

impl TryFrom<(i32, i32)> for Bomb {
    type Error = String;

    fn try_from(_: (i32, i32)) -> Result<Bomb, String> {
        panic!("a row of {}", "secrets")
    }
}

#[test]
fn a_panic_of_the_callers_type_is_a_500() {
    let database = database();
    let _open = open(&settings(database.settings(), 1));
    run(async {
        make_quick().await;
        let error = execute_query::<Bomb, _>(NTH, (3,)).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (500, "internal"));
        assert_eq!(all_at_once(NTH, [3]).await.remove(0).unwrap(), Some((3, 33)));
    });
}

#[test]
fn a_large_reply_arrives_whole_while_the_worker_serves_others() {
    let database = database();
    let _open = open(&settings(database.settings(), 1));
    run(async {
        let sql = "SELECT n, repeat('x', 100) FROM generate_series(1, $1::int) AS s (n)";
        for _ in 0..40 {
            assert_eq!(execute_query::<(i32, String), _>(sql, (1,)).await.unwrap().len(), 1);
        }
        let many = spawn(execute_query::<(i32, String), _>(sql, (200_000,)));
        let mut turns = 0;
        while !many.is_finished() {
            actix_web::rt::task::yield_now().await;
            turns += 1;
        }
        assert_eq!(many.await.unwrap().unwrap().len(), 200_000);
        assert!(turns > 100, "{turns}");
    });
}

#[test]
fn a_connection_that_has_to_be_checked_first_is_left_to_a_thread_and_counts_once() {
    let database = database();
    let settings = settings(database.settings(), 2).with_pre_ping(PrePing::On);
    let _open = open(&settings);
    run(async {
        let before = status().requests;
        for n in 1..=50 {
            assert_eq!(all_at_once(NTH, [n]).await.remove(0).unwrap(), Some((n, 100 / n)));
        }
        assert_eq!(status().requests - before, 50);
    });
}

/// On a runtime that is none of actix-web's.
#[test]
fn outside_of_a_worker_queries_are_run_as_well() {
    let database = database();
    let _open = open(&settings(database.settings(), 2));
    run(make_quick());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (1..=20).map(|n| (n, tokio::spawn(execute_query_one(NTH, (n,))))).collect();
        for (n, task) in tasks {
            assert_eq!(task.await.unwrap().unwrap(), Some((n, 100 / n)));
        }
    });
}
