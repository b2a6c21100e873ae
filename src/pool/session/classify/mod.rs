//! Classifies a statement by its text: its form, and the names that the server's catalogue must be queried for.
//!
//! Deny by default: a statement counts as read-only, atomic or clean only where that is known. Text that is not
//! recognised may write, may commit in several steps, and may leave state in the session. This file knows nothing of
//! the server; `question.rs` asks it about the names, and `catalogue.rs` keeps the answers. `shape.rs` removes the values.

pub(in crate::pool) mod catalogue;
pub(in crate::pool) mod question;
pub(in crate::pool) mod shape;
mod tokens;

use crate::pool::session::classify::tokens::{Token, Tokens};

/// What the text of a statement shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Syntax {
    pub(crate) form: Form,
    /// It begins or ends a transaction, so it must not run inside a transaction of the pool.
    pub(crate) controls_transaction: bool,
    /// Every name in the text, each once. They include every function and relation that the text names; operators and
    /// types may imply others.
    pub(crate) names: Vec<String>,
    /// Every `set_config` call in the text sets its parameter for the transaction only.
    pub(crate) sets_locally: bool,
    /// It sets something, if only for the transaction.
    pub(crate) sets: bool,
}

/// The form of a statement, as its keywords show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A query: it only reads, unless an object behind its names does more.
    Query,
    /// Writes or locks rows, all or nothing. It leaves the session clean, unless an object behind its names does not.
    Write,
    /// Shows a setting.
    Show,
    /// Sets or locks something for the transaction only.
    Local,
    /// Changes the catalogue, all or nothing.
    Definition,
    /// Anything else.
    Other,
}

/// The words after CREATE, ALTER or DROP that make the statement all or nothing, unless it runs CONCURRENTLY.
/// Statements that cannot run in a transaction block are excluded (PostgreSQL's source: callers of
/// `PreventInTransactionBlock`).
const TRANSACTIONAL: &[&str] = &[
    "or",
    "temp",
    "temporary",
    "local",
    "global",
    "unlogged",
    "table",
    "recursive",
    "view",
    "materialized",
    "unique",
    "index",
    "sequence",
    "schema",
    "function",
    "procedure",
    "aggregate",
    "operator",
    "cast",
    "type",
    "domain",
    "trigger",
    "constraint",
    "rule",
    "policy",
    "role",
    "user",
    "default",
];

impl Syntax {
    /// Classifies `sql`.
    pub(crate) fn of(sql: &str) -> Syntax {
        let Tokens { list, is_opaque } = Tokens::of(sql);
        let mut keywords = list.iter().filter_map(Token::keyword);
        let first = keywords.next().unwrap_or_default();
        let controls_transaction = match first {
            "begin" | "start" | "commit" | "end" | "abort" => true,
            "rollback" => !rolls_back_to_savepoint(&list),
            "prepare" => list.get(1).and_then(Token::keyword) == Some("transaction"),
            _ => false,
        };
        let form = match first {
            "select" | "values" | "table" | "with" | "insert" | "update" | "delete" | "merge" => {
                match is_opaque || creates_table(&list) {
                    // It is all or nothing in either case.
                    true => Form::Definition,
                    false if may_write(&list) => Form::Write,
                    false => Form::Query,
                }
            }
            "show" => Form::Show,
            "savepoint" | "release" | "lock" | "notify" => Form::Local,
            "rollback" if !controls_transaction => Form::Local,
            "set" if sets_locally(&list) => Form::Local,
            "create" | "alter" | "drop" if is_transactional(&list) => Form::Definition,
            "truncate" | "comment" | "grant" | "revoke" => Form::Definition,
            _ => Form::Other,
        };
        let mut names = match form {
            Form::Query | Form::Write => names(&list),
            _ => Vec::new(),
        };
        names.sort_unstable();
        names.dedup();
        let sets = first == "set" || list.iter().any(is_set_config);
        Syntax { form, controls_transaction, names, sets_locally: are_local_settings(&list), sets }
    }
}

/// Whether `sql` is a `COPY … FROM STDIN`.
pub(crate) fn is_copy_in(sql: &str) -> bool {
    let Tokens { list, .. } = Tokens::of(sql);
    let is_source = |pair: &[Token]| pair[0].keyword() == Some("from") && pair[1].keyword() == Some("stdin");
    list.first().and_then(Token::keyword) == Some("copy") && list.windows(2).any(is_source)
}

fn names(list: &[Token]) -> Vec<String> {
    let names = list.iter().filter_map(|token| match token {
        Token::Word { text, .. } => Some(text.clone()),
        _ => None,
    });
    names.collect()
}

/// Whether the statement has a part that writes or locks rows.
fn may_write(list: &[Token]) -> bool {
    list.iter().filter_map(Token::keyword).any(|word| {
        // UPDATE and SHARE also end the clauses that lock rows: FOR [NO KEY] UPDATE, FOR [KEY] SHARE.
        matches!(word, "insert" | "update" | "delete" | "merge" | "share")
    })
}

/// Whether it is a `SELECT … INTO table`: an INTO behind a SELECT, with the same parentheses around both. What stands
/// before the INTO does not tell it from INSERT INTO: a column may be called `insert`.
fn creates_table(list: &[Token]) -> bool {
    // For each parenthesis that is open, and outside of them.
    let mut has_select = vec![false];
    for token in list {
        match (token.keyword(), has_select.last_mut()) {
            (Some("select"), Some(innermost)) => *innermost = true,
            (Some("into"), None | Some(true)) => return true,
            _ if token.is_open() => has_select.push(false),
            _ if token.is_close() => drop(has_select.pop()),
            _ => {}
        }
    }
    false
}

/// Whether a CREATE, ALTER or DROP is all or nothing.
fn is_transactional(list: &[Token]) -> bool {
    let second = list.get(1).and_then(Token::keyword);
    let is_concurrent = list.iter().any(|token| token.keyword() == Some("concurrently"));
    !is_concurrent && second.is_some_and(|word| TRANSACTIONAL.contains(&word))
}

/// Whether a ROLLBACK has the form `ROLLBACK [WORK | TRANSACTION] TO …`.
fn rolls_back_to_savepoint(list: &[Token]) -> bool {
    let words: Vec<_> = list.iter().skip(1).take(2).filter_map(Token::keyword).collect();
    matches!(words.as_slice(), ["to", ..] | ["work" | "transaction", "to"])
}

/// Whether a SET has the form `SET LOCAL …`, `SET TRANSACTION …` or `SET CONSTRAINTS …`. A parameter whose name
/// begins with such a word does not match, for example `SET local.tenant = 'A'`.
fn sets_locally(list: &[Token]) -> bool {
    let second = list.get(1).and_then(Token::keyword);
    let is_name = matches!(list.get(2), Some(Token::Word { .. }));
    let is_value = list.get(2).and_then(Token::keyword) == Some("to");
    matches!(second, Some("local" | "transaction" | "constraints")) && is_name && !is_value
}

fn is_set_config(token: &Token) -> bool {
    matches!(token, Token::Word { text, .. } if text == "set_config")
}

/// Whether every `set_config` has the form `set_config(name, value, true)`, with literals or parameters for name and
/// value.
fn are_local_settings(list: &[Token]) -> bool {
    let places = list.iter().enumerate().filter(|(_, token)| is_set_config(token)).map(|(place, _)| place);
    places.into_iter().all(|place| {
        let mut rest = &list[place + 1..];
        take(&mut rest, Token::is_open)
            && take(&mut rest, Token::is_value)
            && take(&mut rest, Token::is_comma)
            && take(&mut rest, Token::is_value)
            && is_cast_to_text(&mut rest)
            && take(&mut rest, Token::is_comma)
            && take(&mut rest, |token| token.keyword() == Some("true"))
            && take(&mut rest, Token::is_close)
    })
}

/// Removes the next token of `rest` and returns true, if it is the wanted one.
fn take(rest: &mut &[Token], is_wanted: impl FnOnce(&Token) -> bool) -> bool {
    match rest.split_first() {
        Some((token, after)) if is_wanted(token) => {
            *rest = after;
            true
        }
        _ => false,
    }
}

/// Removes `::text` from the start of `rest`, if it is there. Returns false for a cast to another type.
fn is_cast_to_text(rest: &mut &[Token]) -> bool {
    let colon = Token::Symbol(':');
    match rest {
        [first, second, name, after @ ..] if *first == colon && *second == colon => {
            *rest = after;
            name.keyword() == Some("text")
        }
        _ => true,
    }
}

impl Token {
    fn is_open(&self) -> bool {
        *self == Token::Symbol('(')
    }

    fn is_close(&self) -> bool {
        *self == Token::Symbol(')')
    }

    fn is_comma(&self) -> bool {
        *self == Token::Symbol(',')
    }

    fn is_value(&self) -> bool {
        matches!(self, Token::Literal | Token::Parameter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn form(sql: &str) -> Form {
        Syntax::of(sql).form
    }

    #[test]
    fn reads_and_writes_are_recognised_by_their_text() {
        for sql in [
            "SELECT movie_id, title FROM movies WHERE year = $1",
            "  -- a comment\n select count(*) from movies where title in ('delete', $$insert into x$$)",
            "/* outer /* inner */ update */ VALUES (1)",
            "WITH recent AS (SELECT * FROM movies WHERE year > 2000) SELECT lower(title) FROM recent",
            "SELECT \"update\", temp FROM t WHERE note = 'it''s; DELETE FROM t'",
            "(SELECT 1) UNION (SELECT 2)",
        ] {
            assert_eq!(form(sql), Form::Query, "{sql}");
        }
        for sql in [
            "INSERT INTO movies VALUES (1)",
            "WITH gone AS (DELETE FROM movies RETURNING 1) SELECT count(*) FROM gone",
            "WITH a AS (SELECT 1), b AS (INSERT INTO t SELECT 1) INSERT INTO t (SELECT 1)",
            "SELECT * FROM movies FOR NO KEY UPDATE",
            "SELECT * FROM movies FOR KEY SHARE",
            "MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE",
        ] {
            assert_eq!(form(sql), Form::Write, "{sql}");
        }
    }

    #[test]
    fn definitions_and_unrecognised_statements_are_neither_reads_nor_writes() {
        for sql in [
            "SELECT * INTO copy FROM movies",
            "SELECT * INTO TEMP copy FROM movies",
            "SELECT 1 AS insert INTO TEMP copy",
            "SELECT (1) merge INTO copy",
            "WITH insert AS (VALUES (1)) SELECT t.insert INTO copy FROM t",
            "((SELECT 1 INTO copy))",
            "SELECT U&\"set\\005fconfig\"('work_mem', '1MB', false)",
            "CREATE TEMP TABLE scratch (a int)",
            "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE UNIQUE INDEX i ON t (a)",
            "ALTER TABLE t ADD COLUMN a int",
            "TRUNCATE t",
        ] {
            assert_eq!(form(sql), Form::Definition, "{sql}");
        }
        for sql in [
            "",
            "SET search_path = other",
            "SET local.tenant = 'A'",
            "SET transaction.x TO 1",
            "SET constraints.x = 1",
            "SET \"local\" TO 1",
            "SET LOCAL",
            "LISTEN news",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "PREPARE p AS SELECT 1",
            "EXPLAIN ANALYZE SELECT charge()",
            "COPY t FROM STDIN",
            "DO $$ BEGIN END $$",
            "CALL p()",
            "VACUUM t",
            "REINDEX TABLE t",
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "DROP INDEX CONCURRENTLY i",
            "ALTER TABLE t DETACH PARTITION u CONCURRENTLY",
            "CREATE DATABASE d",
            "ALTER SYSTEM SET work_mem = '1MB'",
            "COMMIT PREPARED 'x'",
        ] {
            assert_eq!(form(sql), Form::Other, "{sql}");
        }
    }

    #[test]
    fn effects_that_end_with_the_transaction_are_local() {
        for sql in [
            "SET LOCAL work_mem = '1MB'",
            "set local app.tenant to 'A'",
            "SET /* so */ LOCAL ROLE other",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET CONSTRAINTS ALL DEFERRED",
            "SAVEPOINT a",
            "ROLLBACK TO a",
            "ROLLBACK WORK TO SAVEPOINT a",
            "LOCK TABLE movies IN EXCLUSIVE MODE",
            "NOTIFY news",
        ] {
            assert_eq!((form(sql), Syntax::of(sql).controls_transaction), (Form::Local, false), "{sql}");
        }
    }

    #[test]
    fn statements_that_begin_or_end_a_transaction_are_recognised() {
        for sql in
            ["BEGIN", "COMMIT AND CHAIN", "END", "ROLLBACK", "ROLLBACK WORK", "PREPARE TRANSACTION 'x'"]
        {
            assert!(Syntax::of(sql).controls_transaction, "{sql}");
        }
        for sql in ["PREPARE p AS SELECT 1", "SELECT 'BEGIN'"] {
            assert!(!Syntax::of(sql).controls_transaction, "{sql}");
        }
    }

    #[test]
    fn only_a_copy_from_stdin_is_a_copy_in() {
        for (sql, is_copy) in [
            ("COPY t (a, b) FROM STDIN", true),
            ("copy t from /* here */ stdin with (format csv)", true),
            ("COMMIT", false),
            ("COPY t FROM 'stdin'", false),
            ("COPY t TO STDOUT", false),
            ("COPY t FROM PROGRAM 'true'", false),
        ] {
            assert_eq!(is_copy_in(sql), is_copy, "{sql}");
        }
    }

    #[test]
    fn every_name_of_the_text_is_listed() {
        let syntax =
            Syntax::of("SELECT a.charge, public.\"Charge\" (1), lower('charge') FROM accounts a, accounts b");
        assert_eq!(
            syntax.names,
            ["Charge", "a", "accounts", "b", "charge", "from", "lower", "public", "select"]
        );
    }

    #[test]
    fn a_set_config_for_the_transaction_is_recognised_by_its_form() {
        for (sql, is_local) in [
            ("SELECT set_config('app.tenant', $1, true)", true),
            ("SELECT pg_catalog.set_config($1, $2::text, true), set_config('a.b', 'c', TRUE)", true),
            ("SELECT 1", true),
            ("SELECT set_config('app.tenant', $1, false)", false),
            ("SELECT set_config('app.tenant', $1, $2)", false),
            ("SELECT set_config('app.tenant', $1, true AND false)", false),
            ("SELECT set_config('app.tenant', set_config('a.b', 'c', false), true)", false),
            ("SELECT set_config('a.b', 'c', true), x.set_config", false),
            ("SELECT set_config('a.b', $1::text || 'c', true)", false),
        ] {
            assert_eq!(Syntax::of(sql).sets_locally, is_local, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_classified_without_a_panic(sql in "[\\PC'\"$/*\\-();\\n]{0,60}") {
            let _ = Syntax::of(&sql);
        }
    }
}
