//! What a statement's text tells about it: whether it can write, and whether it leaves something behind in the
//! session. Read once per statement, when it is prepared; both answers err on the side of caution.

/// What is known of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// It cannot change the database: a SELECT, VALUES, TABLE or SHOW without a data-modifying part, a row
    /// lock, or a call of a function not known to be harmless. (A view or a rule that writes is not seen.)
    pub(crate) is_read: bool,
    /// It may leave something in the session that the next borrower would see.
    pub(crate) leaves_traces: bool,
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

/// Words that mean a trace wherever they stand, even in a statement of the list above: session settings,
/// session-level advisory locks, temporary objects, large-object descriptors, other connections.
const TRACES: &[&str] = &[
    "set_config",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "temp",
    "temporary",
    "setseed",
    "lo_open",
    "dblink_connect",
    "dblink_open",
    "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot",
];

/// Names before a parenthesis that do not make a SELECT write. A name that is not here may be a function
/// that does.
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
    "unaccent",
    "similarity",
    "md5",
    "encode",
    "decode",
    "version",
    "current_setting",
    "pg_sleep",
    "numeric",
    "varchar",
    "char",
    "decimal",
    "interval",
    "timestamp",
    "timestamptz",
    "time",
    "float",
];

impl Kind {
    pub(crate) fn of(sql: &str) -> Kind {
        let mut words = Words { rest: sql };
        let first = words.next().map(|word| word.text).unwrap_or_default();
        let first = first.as_str();
        let mut leaves_traces = !TRACELESS.contains(&first);
        let mut is_read = matches!(first, "select" | "values" | "table" | "show" | "with");
        let mut second = None;
        let mut previous = first.to_owned();
        for word in words {
            let text = word.text.as_str();
            if second.is_none() {
                second = Some(text.to_owned());
            }
            if TRACES.contains(&text) || (text == "pg_temp" && first != "select") {
                leaves_traces = true;
            }
            match text {
                "into" | "insert" | "update" | "delete" | "merge" => is_read = false,
                // FOR UPDATE is met above; FOR SHARE and its kin lock, but change nothing.
                _ if word.is_called && !HARMLESS_CALLS.contains(&text) && previous != "as" => is_read = false,
                _ => {}
            }
            previous.clear();
            previous.push_str(text);
        }
        // What these set ends with the transaction.
        if first == "set" && matches!(second.as_deref(), Some("local" | "transaction" | "constraints")) {
            leaves_traces = false;
        }
        Kind { is_read, leaves_traces }
    }
}

struct Word {
    text: String,
    /// An opening parenthesis follows.
    is_called: bool,
}

/// The words of a statement in lower case, without comments, string literals and quoting.
struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn skip_past(&mut self, end: &str) {
        self.rest = self.rest.find(end).map_or("", |at| &self.rest[at + end.len()..]);
    }

    /// A `/* … */` comment, which nests.
    fn skip_comment(&mut self) {
        let mut depth = 1;
        while depth > 0 && !self.rest.is_empty() {
            let (step, change) = match &self.rest.as_bytes()[..self.rest.len().min(2)] {
                b"/*" => (2, 1),
                b"*/" => (2, -1),
                _ => (self.rest.chars().next().map_or(0, char::len_utf8), 0),
            };
            depth += change;
            self.rest = &self.rest[step..];
        }
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        loop {
            let first = self.rest.chars().next()?;
            let after = &self.rest[first.len_utf8()..];
            if self.rest.starts_with("--") {
                self.skip_past("\n");
            } else if let Some(inside) = self.rest.strip_prefix("/*") {
                self.rest = inside;
                self.skip_comment();
            } else if first == '\'' {
                self.rest = after;
                self.skip_past("'");
            } else if first == '$' {
                // $1 is a parameter; $tag$ … $tag$ is a literal.
                let tag = after.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(after.len());
                if after[tag..].starts_with('$') && !after.starts_with(|c: char| c.is_ascii_digit()) {
                    let quote = self.rest[..tag + 2].to_owned();
                    self.rest = &self.rest[tag + 2..];
                    self.skip_past(&quote);
                } else {
                    self.rest = &after[tag..];
                }
            } else if first == '"' {
                let end = after.find('"').unwrap_or(after.len());
                let text = after[..end].to_lowercase();
                self.rest = after.get(end + 1..).unwrap_or("");
                return Some(Word { text, is_called: self.rest.trim_start().starts_with('(') });
            } else if first.is_alphabetic() || first == '_' {
                let end = self
                    .rest
                    .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
                    .unwrap_or(self.rest.len());
                let text = self.rest[..end].to_lowercase();
                self.rest = &self.rest[end..];
                return Some(Word { text, is_called: self.rest.trim_start().starts_with('(') });
            } else {
                self.rest = after;
            }
        }
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
            assert_eq!(Kind::of(sql), Kind { is_read: true, leaves_traces: false }, "{sql}");
        }
    }

    #[test]
    fn whatever_may_write_is_no_read() {
        for sql in [
            "INSERT INTO movies VALUES (1)",
            "WITH gone AS (DELETE FROM movies RETURNING 1) SELECT count(*) FROM gone",
            "SELECT * FROM movies FOR UPDATE",
            "SELECT transfer_money(1, 2)",
            "SELECT nextval('seq')",
            "SELECT public.\"Charge\" (1)",
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
            "SELECT pg_advisory_lock(1)",
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

    proptest! {
        #[test]
        fn no_text_is_too_strange(sql in "[\\PC'\"$/*\\-();\\n]{0,60}") {
            let _ = Kind::of(&sql);
        }
    }
}
