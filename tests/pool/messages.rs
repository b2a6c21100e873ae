//! Every message a server or pooler may end a reply with, wherever in the reply, and the outcome that callers get.

use super::*;
use crate::support::Proxy;
use crate::support::proxy::{Act, Message, Place};
use poolhouse::{Error, Execute};
use std::thread;

/// One of each class of SQLSTATEs (PostgreSQL 15, appendix A).
const CLASSES: [&str; 43] = [
    "00000", "01000", "02000", "03000", "08006", "09000", "0A000", "0B000", "0F001", "0L000", "0P000",
    "0Z000", "20000", "21000", "22012", "23505", "24000", "25001", "26000", "27000", "28000", "2B000",
    "2D000", "2F000", "34000", "38000", "39000", "3B001", "3D000", "3F000", "40001", "42P01", "44000",
    "53100", "54001", "55P03", "57014", "58030", "72000", "F0000", "HV000", "P0001", "XX000",
];
/// Those with which sessions end or something may be tried again, and their neighbours.
const SPECIAL: [&str; 20] = [
    "57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04", "25006", "26000", "0A000", "40001",
    "40003", "40P01", "58000", "58030", "XX000", "XX001", "08P01", "08006", "53300",
];
/// What PostgreSQL ends a session with in place of what it was asked: by an administrator, idle too long, idle in a
/// transaction too long, and a replication slot's.
const ENDED: &[&str] = &["57P01", "57P05", "25P03", "25P04"];
/// What is taken for a statement that has outlived what it was prepared for.
const STALE: &[&str] = &["26000", "0A000"];
/// The same where it was prepared some time ago.
const PERHAPS_STALE: &[&str] = &["42P01", "XX000"];
const ANY: &[&str] = &[];

const SEVERITIES: [&str; 4] = ["WARNING", "ERROR", "FATAL", "PANIC"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    Read,
    Commit,
    Verified,
}
use Call::*;

/// The outcome that a caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reported {
    /// It is done, once.
    Done,
    /// The server has refused it; nothing was done.
    Refused,
    /// The connection broke; nothing was done.
    Lost,
    /// It is unknown.
    Unknown,
}
use Reported::*;

#[derive(Debug, Clone)]
struct Case {
    call: Call,
    message: Message,
    place: Place,
    /// Whether the server has done it, which the caller cannot see.
    is_run: bool,
}

/// What a case means. The first line that fits counts: severities, last message or not, codes, places, calls; and then
/// what may be reported where it was done, and where it was not.
struct Line(
    &'static [&'static str],
    bool,
    &'static [&'static str],
    &'static [Place],
    &'static [Call],
    &'static [Reported],
    &'static [Reported],
);

const ALL: &[Call] = &[Write, Read, Commit, Verified];
const BY_STATEMENT: &[Call] = &[Write, Read];
const BY_COMMIT: &[Call] = &[Commit, Verified];
const EVERYWHERE: &[Place] = &[Place::Before, Place::Instead, Place::AtTheEnd, Place::Behind];
const IN_PLACE: &[Place] = &[Place::Before, Place::Instead];
const AT_THE_END: &[Place] = &[Place::AtTheEnd];
const BEHIND: &[Place] = &[Place::Behind];
const NEVER: &[Reported] = &[];

#[rustfmt::skip]
const TABLE: &[Line] = &[
    // The whole reply has come: what ends the session then is the next borrower's trouble, and costs it nothing.
    Line(&SEVERITIES,          true,  ANY,           BEHIND,     ALL,          &[Done],          NEVER),
    Line(&["WARNING"],         false, ANY,           EVERYWHERE, ALL,          &[Done],          NEVER),
    // Which no server says outside of a reply.
    Line(&["ERROR"],           false, ANY,           BEHIND,     ALL,          NEVER,            NEVER),
    // A refusal, after which the session goes on, has undone the statement, or the transaction.
    Line(&["ERROR"],           false, STALE,         EVERYWHERE, BY_STATEMENT, NEVER,            &[Done]),
    Line(&["ERROR"],           false, PERHAPS_STALE, EVERYWHERE, BY_STATEMENT, NEVER,            &[Done, Refused]),
    Line(&["ERROR"],           false, ANY,           EVERYWHERE, ALL,          NEVER,            &[Refused]),
    // A read is done again, whatever its session ended with.
    Line(&SEVERITIES,          true,  ANY,           EVERYWHERE, &[Read],      &[Done],          NEVER),
    // In place of doing it, and so it is done elsewhere; a closure cannot be.
    Line(&["FATAL"],           true,  ENDED,         IN_PLACE,   &[Write],     NEVER,            &[Done]),
    Line(&["FATAL"],           true,  ENDED,         IN_PLACE,   BY_COMMIT,    NEVER,            &[Lost]),
    // COMMIT had been answered.
    Line(&["FATAL", "PANIC"],  true,  ANY,           AT_THE_END, &[Commit],    &[Done, Unknown], NEVER),
    // Everything else leaves the outcome open, and a query finds it out.
    Line(&SEVERITIES,          true,  ANY,           EVERYWHERE, &[Verified],  &[Done],          &[Lost]),
    Line(&SEVERITIES,          true,  ANY,           EVERYWHERE, ALL,          &[Unknown],       &[Unknown]),
];

impl Case {
    /// What may be reported; nothing where no server would send this.
    fn expected(&self) -> &'static [Reported] {
        let line = TABLE.iter().find(|Line(severities, is_last, codes, places, calls, ..)| {
            severities.contains(&self.message.severity)
                && *is_last == self.message.is_last
                && (codes.is_empty() || codes.contains(&self.message.code))
                && places.contains(&self.place)
                && calls.contains(&self.call)
        });
        let Line(.., done, not_done) = line.unwrap_or_else(|| panic!("no line for {self:?}"));
        if self.is_run { done } else { not_done }
    }
}

/// Every case there is.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let codes = CLASSES.iter().chain(SPECIAL.iter().filter(|code| !CLASSES.contains(code)));
    let ends = [("WARNING", false), ("WARNING", true), ("ERROR", false), ("FATAL", true), ("PANIC", true)];
    for (&code, (severity, is_last)) in codes.flat_map(|code| ends.map(|end| (code, end))) {
        for (&place, &call) in EVERYWHERE.iter().flat_map(|place| ALL.iter().map(move |call| (place, call))) {
            for is_run in [true, false] {
                let message = Message { severity, code, is_last };
                let case = Case { call, message, place, is_run };
                if !case.expected().is_empty() {
                    cases.push(case);
                }
            }
        }
    }
    cases
}

/// Those that this run has time for: with `PROPTEST_CASES` all, else a share, which is larger where it matters how a
/// session ends.
fn chosen() -> Vec<Case> {
    let share = |case: &Case| match case.message.code {
        _ if std::env::var_os("PROPTEST_CASES").is_some() => 1,
        "57P01" | "57P02" | "58000" | "26000" | "XX000" => 3,
        code if SPECIAL.contains(&code) => 11,
        _ => 23,
    };
    cases()
        .into_iter()
        .enumerate()
        .filter(|(number, case)| number % share(case) == 0)
        .map(|(_, case)| case)
        .collect()
}

const INSERT: &str = "INSERT INTO t VALUES ($1)";
const READ: &str = "SELECT $1::int4 + 0 AS a";

/// Runs one case, and compares the reported outcome with the table and with what is there.
fn judge(
    pool: &Pool,
    proxy: &Proxy,
    direct: &mut ::postgres::Client,
    id: i32,
    case: &Case,
) -> Result<(), String> {
    let statement = match case.call {
        Write => INSERT,
        Read => READ,
        Commit | Verified => "COMMIT",
    };
    let insert = |tx: &mut poolhouse::Transaction<'_>| {
        let count = tx.execute_write(INSERT, &[&id]);
        let act = Act::Say { message: case.message.clone(), place: case.place, is_run: case.is_run };
        proxy.forge(statement, act);
        count
    };
    let outcome = match case.call {
        Commit => pool.transaction(insert),
        Verified => pool.transaction_verified(insert),
        Write | Read => {
            let act = Act::Say { message: case.message.clone(), place: case.place, is_run: case.is_run };
            proxy.forge(statement, act);
            if case.call == Write {
                pool.execute_write(INSERT, &[&id])
            } else {
                let read = pool.execute_query_one::<i32>(READ, &[&id]);
                read.map(|read| u64::from(read == Some(id)))
            }
        }
    };
    if !proxy.has_forged() {
        return Err(format!("{outcome:?}, and it was not met"));
    }
    let reported = match &outcome {
        Ok(1) => Done,
        Err(Error::Query(_)) => Refused,
        Err(Error::ConnectionLost(_)) => Lost,
        Err(Error::OutcomeUnknown(_)) => Unknown,
        other => return Err(format!("{other:?}")),
    };
    let next: Option<i32> =
        pool.execute_query_one("SELECT -$1::int4", &[&id]).map_err(|error| error.to_string())?;
    if next != Some(-id) {
        return Err(format!("the next caller got {next:?}"));
    }
    let there: i64 = direct.query_one("SELECT count(*) FROM t WHERE a = $1", &[&id]).unwrap().get(0);
    let is_true = case.call == Read
        || match reported {
            Done => there == 1,
            Refused | Lost => there == 0,
            Unknown => there <= 1,
        };
    if !is_true || !case.expected().contains(&reported) {
        return Err(format!("reported {outcome:?} with {there} rows there, expected {:?}", case.expected()));
    }
    Ok(())
}

#[test]
fn whatever_ends_a_reply_is_reported_as_it_is() {
    let database = postgres::fresh_database();
    database.client().batch_execute("CREATE TABLE t (a int)").unwrap();
    let cases = chosen();
    let threads = 4;
    let wrong: Vec<String> = thread::scope(|scope| {
        let judging: Vec<_> = (0..threads)
            .map(|thread| {
                let (cases, database) = (&cases, &database);
                scope.spawn(move || {
                    let proxy = Proxy::forging(&database.settings());
                    let mut settings = PoolSettings::new(proxy.settings());
                    (settings.min_connections, settings.max_connections) = (1, 1);
                    settings.validate_after = Duration::from_secs(3600);
                    let pool = Pool::open(&settings).unwrap();
                    let mut direct = database.client();
                    let mine = cases.iter().enumerate().skip(thread).step_by(threads);
                    mine.filter_map(|(id, case)| {
                        let wrong = judge(&pool, &proxy, &mut direct, id as i32, case).err()?;
                        Some(format!("{case:?}: {wrong}"))
                    })
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        judging.into_iter().flat_map(|judging| judging.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
