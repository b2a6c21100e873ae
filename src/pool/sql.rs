//! What a statement's text tells about it: whether it can write, and whether it leaves something behind in the
//! session. Read once per statement, when it is prepared; both answers err on the side of caution.

mod words;

use self::words::Words;

/// What is known of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    /// It cannot change the database: a SELECT, VALUES, TABLE or SHOW without a data-modifying part or a row lock.
    /// (A view or a rule that writes is not seen.)
    pub(crate) is_read: bool,
    /// It may leave something in the session that the next borrower would see. (What a trigger leaves is not
    /// seen.)
    pub(crate) leaves_traces: bool,
    /// It begins or ends a transaction; nothing for the inside of one that somebody else ends.
    pub(crate) controls_transaction: bool,
    /// Names it may call as functions that are not known here. The server's catalogue tells whether any of them
    /// is volatile; until it has, they stand for both a write and a trace.
    pub(crate) unknown_calls: Vec<String>,
}

/// Statements after which a session is as it was before.
const TRACELESS: &[&str] = &[
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "values",
    "table",
    "with",
    "explain",
    "show",
    "analyze",
    "vacuum",
    "truncate",
    "refresh",
    "lock",
    "grant",
    "revoke",
    "comment",
    "reindex",
    "savepoint",
    "release",
    "create",
    "alter",
    "drop",
    "notify",
];

/// Words that mean a trace wherever they stand, even in a statement of the list above: settings and temporary
/// objects. (Functions that leave traces are volatile, and found by that.)
const TRACES: &[&str] = &["set_config", "pg_settings", "temp", "temporary", "pg_temp"];

/// Names before a parenthesis that need no question: the grammar's own words, and functions of PostgreSQL that
/// are not volatile.
const HARMLESS_CALLS: &[&str] = &[
    "in",
    "any",
    "all",
    "some",
    "exists",
    "and",
    "or",
    "not",
    "on",
    "as",
    "over",
    "filter",
    "values",
    "from",
    "where",
    "when",
    "then",
    "else",
    "using",
    "by",
    "array",
    "row",
    "cast",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "select",
    "returning",
    "set",
    "conflict",
    "key",
    "unique",
    "check",
    "lateral",
    "case",
    "having",
    "limit",
    "offset",
    "is",
    "like",
    "ilike",
    "between",
    "distinct",
    "numeric",
    "varchar",
    "char",
    "decimal",
    "interval",
    "timestamp",
    "timestamptz",
    "time",
    "float",
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "array_agg",
    "string_agg",
    "json_agg",
    "jsonb_agg",
    "json_build_object",
    "jsonb_build_object",
    "to_json",
    "to_jsonb",
    "row_to_json",
    "bool_and",
    "bool_or",
    "row_number",
    "rank",
    "dense_rank",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "lower",
    "upper",
    "length",
    "char_length",
    "btrim",
    "ltrim",
    "rtrim",
    "trim",
    "substring",
    "substr",
    "replace",
    "concat",
    "concat_ws",
    "left",
    "right",
    "lpad",
    "rpad",
    "repeat",
    "split_part",
    "position",
    "format",
    "abs",
    "ceil",
    "floor",
    "round",
    "trunc",
    "mod",
    "power",
    "sqrt",
    "now",
    "date_trunc",
    "date_part",
    "extract",
    "age",
    "to_char",
    "to_date",
    "to_timestamp",
    "to_number",
    "generate_series",
    "unnest",
    "array_length",
    "cardinality",
    "array_position",
    "to_tsvector",
    "to_tsquery",
    "plainto_tsquery",
    "websearch_to_tsquery",
    "ts_rank",
    "ts_headline",
    "md5",
    "encode",
    "decode",
    "version",
    "current_setting",
];

/// Volatile functions of PostgreSQL that leave nothing in the session; they are no reads all the same.
const TRACELESS_CALLS: &[&str] = &[
    "nextval",
    "setval",
    "random",
    "clock_timestamp",
    "gen_random_uuid",
    "pg_sleep",
    "pg_notify",
    "pg_advisory_xact_lock",
    "pg_try_advisory_xact_lock",
    "pg_terminate_backend",
    "pg_cancel_backend",
];

impl Kind {
    pub(crate) fn of(sql: &str) -> Kind {
        let mut words = Words::of(sql);
        let first = words.next().map(|word| word.text).unwrap_or_default();
        let mut kind = Kind {
            is_read: matches!(first.as_str(), "select" | "values" | "table" | "show" | "with"),
            leaves_traces: !TRACELESS.contains(&first.as_str()),
            controls_transaction: matches!(first.as_str(), "begin" | "start" | "commit" | "end" | "abort"),
            unknown_calls: Vec::new(),
        };
        let mut second = None;
        for word in words {
            let text = word.text.as_str();
            second.get_or_insert_with(|| text.to_owned());
            kind.leaves_traces |= TRACES.contains(&text) || word.is_escaped;
            if matches!(text, "into" | "insert" | "update" | "delete" | "merge") || word.is_escaped {
                kind.is_read = false;
            }
            if !word.is_called || (HARMLESS_CALLS.contains(&text) && !word.is_qualified && !word.is_quoted) {
                continue;
            }
            if TRACELESS_CALLS.contains(&text) && !word.is_qualified {
                kind.is_read = false;
            } else {
                kind.unknown_calls.push(word.text);
            }
        }
        kind.controls_transaction |= match (first.as_str(), second.as_deref()) {
            ("rollback", second) => second != Some("to"),
            ("prepare", second) => second == Some("transaction"),
            _ => false,
        };
        // What these set ends with the transaction.
        if first == "set" && matches!(second.as_deref(), Some("local" | "transaction" | "constraints")) {
            kind.leaves_traces = false;
        }
        kind
    }

    /// The same once it is known whether any of the unknown calls is volatile: only a volatile function may
    /// write, set, lock or create (PostgreSQL, "Function Volatility Categories").
    pub(crate) fn resolved(mut self, is_volatile: bool) -> Kind {
        if is_volatile && !self.unknown_calls.is_empty() {
            self.is_read = false;
            self.leaves_traces = true;
        }
        self.unknown_calls = Vec::new();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_are_known_by_their_text() {
        for sql in [
            "SELECT movie_id, title FROM movies WHERE year = $1",
            "  -- a comment\n select count(*) from movies where title in ('delete', $$insert into x$$)",
            "/* outer /* inner */ update */ VALUES (1)",
            "WITH recent AS (SELECT * FROM movies WHERE year > 2000) SELECT lower(title) FROM recent",
            "SELECT \"update_count\" FROM t WHERE note = 'it''s; DELETE FROM t'",
        ] {
            let kind = Kind {
                is_read: true,
                leaves_traces: false,
                controls_transaction: false,
                unknown_calls: Vec::new(),
            };
            assert_eq!(Kind::of(sql), kind, "{sql}");
        }
    }

    #[test]
    fn whatever_may_write_is_no_read() {
        for sql in [
            "INSERT INTO movies VALUES (1)",
            "WITH gone AS (DELETE FROM movies RETURNING 1) SELECT count(*) FROM gone",
            "SELECT * FROM movies FOR UPDATE",
            "SELECT nextval('seq')",
            "SELECT E'it\\'s', nextval('a')",
            "SELECT * INTO copy FROM movies",
            "DO $$ BEGIN END $$",
            "",
        ] {
            assert!(!Kind::of(sql).is_read, "{sql}");
        }
    }

    #[test]
    fn traces_are_known_by_their_text() {
        for sql in [
            "SET search_path = other",
            "set role other",
            "LISTEN news",
            "SELECT set_config('work_mem', '1MB', false)",
            "UPDATE pg_settings SET setting = '1MB' WHERE name = 'work_mem'",
            "SELECT E'it\\'s', set_config('work_mem', '1MB', false)",
            "SELECT 1 -- a comment\r, set_config('work_mem', '1MB', false)",
            "SELECT U&\"set\\005fconfig\"('work_mem', '1MB', false)",
            "SELECT * INTO pg_temp.scratch FROM movies",
            "CREATE TEMP TABLE scratch (a int)",
            "CREATE TEMPORARY VIEW v AS SELECT 1",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "PREPARE p AS SELECT 1",
            "BEGIN",
            "DO $$ BEGIN END $$",
            "",
        ] {
            assert!(Kind::of(sql).leaves_traces, "{sql}");
        }
        for sql in ["SET LOCAL work_mem = '1MB'", "SELECT pg_advisory_xact_lock(1)", "CREATE TABLE t (a int)"]
        {
            assert!(!Kind::of(sql).leaves_traces, "{sql}");
        }
    }

    #[test]
    fn calls_that_are_not_known_are_asked_for() {
        for (sql, names) in [
            ("SELECT transfer_money(1, 2)", &["transfer_money"][..]),
            ("SELECT public.\"Charge\" (1)", &["charge"]),
            ("SELECT charge/**/(1), charge -- x\n (2)", &["charge", "charge"]),
            ("SELECT public.count(1), x.left('a', 1)", &["count", "left"]),
            ("SELECT zahle\u{1f642}(1)", &["zahle\u{1f642}"]),
            ("SELECT pg_advisory_lock(1), query_to_xml('SELECT 1')", &["pg_advisory_lock", "query_to_xml"]),
            ("SELECT count(*) FROM movies WHERE lower(title) IN ('a')", &[]),
        ] {
            let kind = Kind::of(sql);
            assert_eq!(kind.unknown_calls, names, "{sql}");
            let volatile = kind.clone().resolved(true);
            assert_eq!(
                (volatile.is_read, volatile.leaves_traces),
                (names.is_empty(), !names.is_empty()),
                "{sql}"
            );
            let stable = kind.resolved(false);
            assert_eq!((stable.is_read, stable.leaves_traces), (true, false), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(sql in "[\\PC'\"$/*\\-();\\n]{0,60}") {
            let _ = Kind::of(&sql);
        }
    }
}
