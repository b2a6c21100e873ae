//! Compares the outcomes reported to the workers with what the database holds.

use super::ledger::{BALANCE, Claim, Claims, SUM};
use postgres::GenericClient;
use std::collections::{HashMap, HashSet};

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Entries that are there.
    pub(crate) entries: usize,
    /// Reported as done, and not there.
    pub(crate) lost: Vec<Claim>,
    /// Reported as not done, and there.
    pub(crate) denied: Vec<Claim>,
    /// There more than once.
    pub(crate) duplicated: Vec<i64>,
    /// There, and written by no worker.
    pub(crate) strange: Vec<i64>,
    /// How many of the writes with an unknown outcome are there.
    pub(crate) unknown_but_done: usize,
    /// What all accounts have together.
    pub(crate) sum: i64,
    /// Accounts whose balance is not what the entries make it.
    pub(crate) wrong_balances: i64,
}

const ENTRIES: &str = "SELECT id, count(*) FROM entries GROUP BY id";
const SUM_OF_ALL: &str = "SELECT sum(balance)::bigint FROM accounts";
const WRONG_BALANCES: &str = "
    WITH changes (id, amount) AS (
        SELECT target, amount FROM entries UNION ALL SELECT source, -amount FROM entries)
    SELECT count(*) FROM accounts a
    WHERE balance <> $1::bigint + coalesce((SELECT sum(amount) FROM changes c WHERE c.id = a.id), 0)";

/// Judges the ledger. No worker may still write.
pub(crate) fn judge(client: &mut impl GenericClient, claims: &Claims) -> Verdict {
    let rows = client.query(ENTRIES, &[]).expect("the entries");
    let there: HashMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let is_there = |claim: &&Claim| there.contains_key(&claim.id);
    let all = [&claims.done, &claims.not_done, &claims.unknown].into_iter().flatten();
    let known: HashSet<i64> = all.map(|claim| claim.id).collect();
    Verdict {
        entries: there.len(),
        lost: claims.done.iter().filter(|claim| !is_there(claim)).copied().collect(),
        denied: claims.not_done.iter().filter(is_there).copied().collect(),
        duplicated: there.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect(),
        strange: there.keys().filter(|id| !known.contains(id)).copied().collect(),
        unknown_but_done: claims.unknown.iter().filter(is_there).count(),
        sum: client.query_one(SUM_OF_ALL, &[]).expect("the sum").get(0),
        wrong_balances: client.query_one(WRONG_BALANCES, &[&BALANCE]).expect("the balances").get(0),
    }
}

impl Verdict {
    /// What is wrong, in words; empty where nothing is.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let claims = |claims: &[Claim]| claims.iter().map(Claim::to_string).collect();
        let ids = |ids: &[i64]| ids.iter().map(i64::to_string).collect();
        let findings_of: [(Vec<String>, _); 4] = [
            (claims(&self.lost), "lost: reported as done and not there"),
            (claims(&self.denied), "denied: reported as not done and there"),
            (ids(&self.duplicated), "duplicated"),
            (ids(&self.strange), "strange: there, and written by no worker"),
        ];
        for (entries, what) in findings_of {
            if !entries.is_empty() {
                let some = entries[..entries.len().min(5)].join(", ");
                findings.push(format!("{} entries {what}: {some}", entries.len()));
            }
        }
        if self.sum != SUM {
            findings.push(format!("the sum is {}, and was {SUM}", self.sum));
        }
        if self.wrong_balances != 0 {
            findings.push(format!("{} balances are not what the entries make them", self.wrong_balances));
        }
        findings
    }
}

/// Ways to falsify the ledger: what is done to the tables, what to the claims, and the word by which the judge has
/// to name it. `$` stands for an entry that was reported as done.
type Falsification = (&'static str, fn(&mut Claims, i64), &'static str);

const FALSIFICATIONS: [Falsification; 8] = [
    ("DELETE FROM entries WHERE id = $", |_, _| (), "lost"),
    ("SELECT", |claims, id| claims.done.push(Claim::new(-id)), "lost"),
    ("INSERT INTO entries SELECT * FROM entries WHERE id = $", |_, _| (), "duplicated"),
    ("SELECT", |claims, id| claims.not_done.push(Claim::new(id)), "denied"),
    ("INSERT INTO entries VALUES (-1, 0, 0, 0)", |_, _| (), "strange"),
    ("UPDATE accounts SET balance = balance + 1 WHERE id = 1", |_, _| (), "sum"),
    ("UPDATE accounts SET balance = balance + (2 * id - 3) WHERE id IN (1, 2)", |_, _| (), "balances"),
    ("UPDATE entries SET amount = amount + 1, source = 1, target = 2 WHERE id = $", |_, _| (), "balances"),
];

/// Shows the judge a ledger falsified in every way, and returns what it did not notice. Nothing of it stays.
pub(crate) fn unnoticed(client: &mut postgres::Client, claims: &Claims) -> Vec<String> {
    let Some(Claim { id, .. }) = claims.done.first().copied() else {
        return vec!["there is nothing to falsify".into()];
    };
    let mut unnoticed = Vec::new();
    for (sql, falsify, word) in FALSIFICATIONS {
        let mut tx = client.transaction().expect("a transaction");
        tx.batch_execute(&sql.replace('$', &id.to_string())).expect("a falsified ledger");
        let mut claims = claims.clone();
        falsify(&mut claims, id);
        let findings = judge(&mut tx, &claims).findings();
        if !findings.iter().any(|finding| finding.contains(word)) {
            unnoticed.push(format!("the judge does not notice '{word}' after {sql}: {findings:?}"));
        }
    }
    unnoticed
}
