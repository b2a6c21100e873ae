//! Every way known in which a statement reaches what its text does not show.
//!
//! A name in braces may be written in any way that means the same, qualified by its schema too; in `{~…}` not qualified.
//! A text in «…» is a string constant.

/// A statement that runs the function `charge`, which writes a row into the ledger and marks the session in every way it
/// can, and what it takes for that.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) name: &'static str,
    pub(super) ddl: &'static str,
    pub(super) sql: &'static str,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// With `public` before `pg_catalog`.
    Shadow,
    /// A function that is declared to be what it is not. What it leaves in the session is its author's fault; what it
    /// writes is not written twice all the same.
    Lie,
}

const fn plain(name: &'static str, ddl: &'static str, sql: &'static str) -> Carrier {
    Carrier { name, ddl, sql, kind: Kind::Plain }
}

const fn shadow(name: &'static str, ddl: &'static str, sql: &'static str) -> Carrier {
    Carrier { name, ddl, sql, kind: Kind::Shadow }
}

const fn lie(name: &'static str, ddl: &'static str, sql: &'static str) -> Carrier {
    Carrier { name, ddl, sql, kind: Kind::Lie }
}

#[rustfmt::skip]
pub(super) const CARRIERS: &[Carrier] = &[
    plain("a function", "", "SELECT {charge}(1)"),
    plain("a function in FROM", "", "SELECT * FROM {charge}(1)"),
    plain("a function in ROWS FROM", "", "SELECT * FROM ROWS FROM ({charge}(1), generate_series(1, 1)) AS x"),
    plain("a function in VALUES", "", "VALUES (1), ({charge}(1))"),
    plain("a function in LIMIT", "", "SELECT 1 LIMIT {charge}(1)"),
    plain("a function in ORDER BY", "", "SELECT a FROM (VALUES (1)) AS x(a) ORDER BY {charge}(a)"),
    plain("a function in FILTER", "", "SELECT count(*) FILTER (WHERE {charge}(1) = 1)"),
    plain("a function in a lateral join", "", "SELECT 1 FROM (VALUES (1)) AS x(a), LATERAL (SELECT {charge}(a) OFFSET 0) AS y"),
    plain("a function in a join's condition", "", "SELECT 1 FROM (VALUES (1)) AS x(a) JOIN (VALUES (1)) AS y(a) ON {charge}(x.a) = y.a"),
    plain("a variadic function",
        "CREATE FUNCTION bill(VARIADIC int[]) RETURNS int LANGUAGE sql AS 'SELECT charge($1[1])'", "SELECT {bill}(VARIADIC ARRAY[1, 2])"),
    plain("a function with names for its arguments",
        "CREATE FUNCTION bill(amount int) RETURNS int LANGUAGE sql AS 'SELECT charge(amount)'", "SELECT {bill}(amount => 1)"),
    plain("a function's default argument",
        "CREATE FUNCTION quiet(a int DEFAULT charge(1)) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1'", "SELECT {quiet}()"),
    plain("a function with the name of a keyword, set", "CREATE FUNCTION set(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT set(1)"),
    plain("a function with the name of a keyword, key", "CREATE FUNCTION key(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT key(1)"),
    plain("a function with the name of a keyword, filter", "CREATE FUNCTION filter(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT filter(1)"),
    plain("a function with the name of a keyword, over", "CREATE FUNCTION over(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT over(1)"),
    plain("a function with the name of a keyword, select", "CREATE FUNCTION \"select\"(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT \"select\"(1)"),
    plain("an overload of a name that is harmless", "CREATE FUNCTION lower(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT lower(1)"),
    plain("an overload that is nearer", "CREATE FUNCTION concat(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT concat(1, 1)"),
    plain("an overload of what may be called without a reset",
        "CREATE FUNCTION nextval(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT nextval(1)"),
    plain("an overload of set_config",
        "CREATE FUNCTION set_config(int, text, boolean) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT set_config(1, 'x', true)"),
    plain("a name with a capital that is no ASCII", "CREATE FUNCTION Éclat(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT Éclat(1)"),
    plain("a name with a capital in quotes", "CREATE FUNCTION \"Charge\"(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT \"Charge\"(1)"),
    plain("a name with a quotation mark", "CREATE FUNCTION \"a\"\"b\"(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT \"a\"\"b\"(1)"),
    plain("a name with a dot", "CREATE FUNCTION \"a.b\"(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT \"a.b\"(1)"),
    plain("a name with a dollar", "CREATE FUNCTION a$b$c(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT a$b$c(1)"),
    plain("a name with white space that is none", "CREATE FUNCTION \"count\u{a0}\"(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT count\u{a0}(1)"),
    plain("a name that is white space", "CREATE FUNCTION \"\u{2003}\"(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'", "SELECT \u{2003}(1)"),
    plain("a name that is cut",
        "CREATE FUNCTION aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggg(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)'",
        "SELECT aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggCUT(1)"),
    plain("a name behind a comment of one line", "", "SELECT 1 -- \r, {charge}(1)"),
    plain("a name behind a nested comment", "", "SELECT 1 /* /* */ ' */, {charge}(1) /* ' */"),
    plain("a name between dollars that quote nothing", "CREATE TABLE u (x$x int); INSERT INTO u VALUES (1)", "SELECT x$x, {charge}(1), x$x FROM {u}"),
    plain("a name behind a backslash", "", "SELECT E'\\'', {charge}(1), ''''"),
    plain("a name behind a string that goes on", "", "SELECT 'a'\n'b', {charge}(1)"),
    plain("a name behind a string with a backslash", "", "SELECT '\\', {charge}(1), '\\'"),
    plain("a view", "CREATE VIEW v AS SELECT charge(1) AS a", "SELECT a FROM {v}"),
    plain("a view of no columns", "CREATE VIEW v AS SELECT charge(1) AS a", "SELECT FROM (SELECT a FROM {v} OFFSET 0) AS x WHERE a = 1"),
    plain("a view by TABLE", "CREATE VIEW v AS SELECT charge(1) AS a", "TABLE {v}"),
    plain("a view over a view", "CREATE VIEW w AS SELECT charge(1) AS a; CREATE VIEW v AS SELECT a FROM w", "SELECT a FROM {v}"),
    plain("a view elsewhere", "CREATE SCHEMA elsewhere; GRANT USAGE ON SCHEMA elsewhere TO PUBLIC;
        CREATE VIEW elsewhere.v AS SELECT charge(1) AS a; GRANT SELECT ON elsewhere.v TO PUBLIC", "SELECT a FROM elsewhere.{~v}"),
    plain("a view with the name of a keyword", "CREATE VIEW temp AS SELECT charge(1) AS a", "SELECT a FROM {temp}"),
    plain("a view over an operator",
        "CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)';
         CREATE OPERATOR @+@ (LEFTARG = int, RIGHTARG = int, FUNCTION = plus); CREATE VIEW v AS SELECT 1 @+@ 1 AS a", "SELECT a FROM {v}"),
    plain("a rule", "CREATE TABLE u (a int); CREATE RULE r AS ON INSERT TO u DO ALSO SELECT charge(1)", "INSERT INTO {u} VALUES (1)"),
    plain("a rule in its place", "CREATE TABLE u (a int); INSERT INTO u VALUES (1); CREATE RULE r AS ON UPDATE TO u DO INSTEAD SELECT charge(1)",
        "UPDATE {u} SET a = 2"),
    plain("a trigger", "CREATE TABLE u (a int); CREATE TRIGGER t AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()", "INSERT INTO {u} VALUES (1)"),
    plain("a trigger of a statement", "CREATE TABLE u (a int); CREATE TRIGGER t BEFORE DELETE ON u EXECUTE FUNCTION charge_by_trigger()", "DELETE FROM {u}"),
    plain("a trigger at the commit", "CREATE TABLE u (a int); CREATE CONSTRAINT TRIGGER t AFTER INSERT ON u DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()", "INSERT INTO {u} VALUES (1)"),
    plain("a trigger of a partition", "CREATE TABLE u (a int) PARTITION BY LIST (a); CREATE TABLE part PARTITION OF u DEFAULT;
        CREATE TRIGGER t AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()", "INSERT INTO {u} VALUES (1)"),
    plain("a trigger of a child", "CREATE TABLE u (a int); CREATE TABLE child () INHERITS (u); INSERT INTO child VALUES (1);
        CREATE TRIGGER t AFTER UPDATE ON child FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()", "UPDATE {u} SET a = a"),
    plain("a trigger behind a foreign key", "CREATE TABLE u (a int PRIMARY KEY); INSERT INTO u VALUES (1);
        CREATE TABLE child (a int REFERENCES u ON DELETE CASCADE); INSERT INTO child SELECT a FROM u;
        CREATE TRIGGER t AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()",
        "DELETE FROM {u} WHERE a = 1"),
    plain("a trigger's condition", "CREATE TABLE u (a int); INSERT INTO u VALUES (1);
        CREATE TRIGGER t BEFORE UPDATE ON u FOR EACH ROW WHEN (charge(new.a) = 1) EXECUTE FUNCTION suppress_redundant_updates_trigger()", "UPDATE {u} SET a = 1"),
    plain("a constraint behind a foreign key", "CREATE TABLE u (a int PRIMARY KEY); INSERT INTO u VALUES (1);
        CREATE TABLE child (a int REFERENCES u ON UPDATE CASCADE); INSERT INTO child VALUES (1);
        ALTER TABLE child ADD CHECK (charge(a) = a) NOT VALID", "UPDATE {u} SET a = a + 1"),
    plain("a constraint behind a foreign key that sets null", "CREATE TABLE u (a int PRIMARY KEY); INSERT INTO u VALUES (1);
        CREATE TABLE child (a int REFERENCES u ON DELETE SET NULL); INSERT INTO child SELECT a FROM u;
        ALTER TABLE child ADD CHECK (charge(1) = 1) NOT VALID", "DELETE FROM {u} WHERE a = 1"),
    plain("a rule behind a foreign key", "CREATE TABLE u (a int PRIMARY KEY); INSERT INTO u VALUES (1);
        CREATE TABLE child (a int REFERENCES u ON DELETE CASCADE); INSERT INTO child SELECT a FROM u;
        CREATE RULE r AS ON DELETE TO child DO ALSO INSERT INTO ledger SELECT charge(1)",
        "DELETE FROM {u} WHERE a = 1"),
    plain("a foreign key behind a foreign key", "CREATE TABLE u (a int PRIMARY KEY); INSERT INTO u VALUES (1);
        CREATE TABLE child (a int PRIMARY KEY REFERENCES u ON DELETE CASCADE); INSERT INTO child SELECT a FROM u;
        CREATE TABLE grandchild (a int REFERENCES child ON DELETE SET NULL); INSERT INTO grandchild SELECT a FROM u;
        ALTER TABLE grandchild ADD CHECK (charge(1) = 1) NOT VALID", "DELETE FROM {u} WHERE a = 1"),
    plain("a rule that writes elsewhere", "CREATE TABLE u (a int); CREATE TABLE w (a int, b int DEFAULT charge(1));
        CREATE RULE r AS ON INSERT TO u DO ALSO INSERT INTO w (a) VALUES (1)", "INSERT INTO {u} VALUES (1)"),
    plain("a trigger of a view", "CREATE VIEW v AS SELECT 1 AS a; CREATE TRIGGER t INSTEAD OF INSERT ON v FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()",
        "INSERT INTO {v} VALUES (1)"),
    plain("a trigger behind a view", "CREATE TABLE u (a int); CREATE VIEW v AS SELECT a FROM u;
        CREATE TRIGGER t AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()", "INSERT INTO {v} VALUES (1)"),
    plain("a trigger in a common table expression", "CREATE TABLE u (a int); CREATE TRIGGER t AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()",
        "WITH x AS (INSERT INTO {u} VALUES (1) RETURNING a) SELECT a FROM x"),
    plain("a trigger by MERGE", "CREATE TABLE u (a int); CREATE TRIGGER t AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION charge_by_trigger()",
        "MERGE INTO {u} USING (VALUES (1)) AS x(b) ON a = b + 1 WHEN NOT MATCHED THEN INSERT VALUES (b)"),
    plain("an event trigger", "CREATE EVENT TRIGGER charge_at_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION charge_by_event()", "CREATE TABLE IF NOT EXISTS u (a int)"),
    plain("a column's default", "CREATE TABLE u (a int, b int DEFAULT charge(1))", "INSERT INTO {u} (a) VALUES (1)"),
    plain("a column's default by its name", "CREATE TABLE u (a int, b int DEFAULT charge(1)); INSERT INTO u VALUES (1, 1)", "UPDATE {u} SET b = DEFAULT"),
    plain("a view's default", "CREATE TABLE u (a int); CREATE VIEW v AS SELECT a FROM u; ALTER VIEW v ALTER a SET DEFAULT charge(1)", "INSERT INTO {v} DEFAULT VALUES"),
    plain("a domain's default", "CREATE DOMAIN d AS int DEFAULT charge(1); CREATE TABLE u (a d)", "INSERT INTO {u} DEFAULT VALUES"),
    plain("a table's constraint", "CREATE TABLE u (a int CHECK (charge(a) = a))", "INSERT INTO {u} VALUES (1)"),
    plain("a partition's constraint", "CREATE TABLE u (a int) PARTITION BY LIST (a); CREATE TABLE part PARTITION OF u DEFAULT;
        ALTER TABLE part ADD CHECK (charge(a) = a)", "INSERT INTO {u} VALUES (1)"),
    plain("a view's check", "CREATE TABLE u (a int); CREATE VIEW v AS SELECT a FROM u WHERE charge(a) = 1 WITH CHECK OPTION", "INSERT INTO {v} VALUES (1)"),
    plain("a domain", "CREATE DOMAIN d AS int CHECK (charge(VALUE) = VALUE)", "SELECT 1::{d}"),
    plain("a domain over a domain", "CREATE DOMAIN e AS int CHECK (charge(VALUE) = VALUE); CREATE DOMAIN d AS e", "SELECT CAST(1 AS {d})"),
    plain("an array of a domain", "CREATE DOMAIN d AS int CHECK (charge(VALUE) = VALUE)", "SELECT «{1}»::{d}[]"),
    plain("a domain in a row from JSON", "CREATE DOMAIN d AS int CHECK (charge(VALUE) = VALUE); CREATE TABLE u (a d)",
        "SELECT a FROM json_populate_record(NULL::{u}, «{\"a\": 1}»)"),
    plain("a column of a domain", "CREATE DOMAIN d AS int CHECK (charge(VALUE) = VALUE); CREATE TABLE u (a d)", "INSERT INTO {u} VALUES (1)"),
    plain("an operator", "CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)';
        CREATE OPERATOR @+@ (LEFTARG = int, RIGHTARG = int, FUNCTION = plus)", "SELECT 1 @+@ 1"),
    plain("an operator by its full name", "CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)';
        CREATE OPERATOR @+@ (LEFTARG = int, RIGHTARG = int, FUNCTION = plus)", "SELECT 1 OPERATOR(public.@+@) 1"),
    plain("an operator before its operand", "CREATE FUNCTION plus(int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)';
        CREATE OPERATOR @# (RIGHTARG = int, FUNCTION = plus)", "SELECT @# 1"),
    plain("an operator without spaces", "CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)';
        CREATE OPERATOR #- (LEFTARG = int, RIGHTARG = int, FUNCTION = plus)", "SELECT 1#-1"),
    plain("an operator behind LIKE", "CREATE FUNCTION likes(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT charge($1) = 1';
        CREATE OPERATOR ~~ (LEFTARG = int, RIGHTARG = int, FUNCTION = likes)", "SELECT 1 LIKE 1"),
    plain("an operator behind IN", "CREATE TYPE c AS (a int); CREATE FUNCTION same(c, c) RETURNS boolean LANGUAGE sql AS 'SELECT charge(1) = 1';
        CREATE OPERATOR = (LEFTARG = c, RIGHTARG = c, FUNCTION = same)", "SELECT x IN («(1)»::c) FROM (VALUES («(2)»::c)) AS v(x)"),
    plain("an operator behind CASE", "CREATE TYPE c AS (a int); CREATE FUNCTION same(c, c) RETURNS boolean LANGUAGE sql AS 'SELECT charge(1) = 1';
        CREATE OPERATOR = (LEFTARG = c, RIGHTARG = c, FUNCTION = same)", "SELECT CASE x WHEN «(1)»::c THEN 1 ELSE 2 END FROM (VALUES («(2)»::c)) AS v(x)"),
    plain("an operator class behind ORDER BY", "CREATE TYPE c AS (a int);
        CREATE FUNCTION less(c, c) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1.a < $2.a';
        CREATE FUNCTION order_of(c, c) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1.a - $2.a + 0 * charge(1); END';
        CREATE FUNCTION same(c, c) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1.a = $2.a';
        CREATE OPERATOR < (LEFTARG = c, RIGHTARG = c, FUNCTION = less);
        CREATE OPERATOR = (LEFTARG = c, RIGHTARG = c, FUNCTION = same);
        CREATE OPERATOR CLASS c_ops DEFAULT FOR TYPE c USING btree AS OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 order_of(c, c)",
        "SELECT x FROM (VALUES («(2)»::c), («(1)»::c)) AS v(x) ORDER BY x"),
    plain("an operator class behind GROUP BY", "CREATE TYPE c AS (a int);
        CREATE FUNCTION same(c, c) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1.a = $2.a';
        CREATE FUNCTION hash_of(c) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1.a + 0 * charge(1); END';
        CREATE OPERATOR = (LEFTARG = c, RIGHTARG = c, FUNCTION = same, HASHES);
        CREATE OPERATOR CLASS c_ops DEFAULT FOR TYPE c USING hash AS OPERATOR 1 =, FUNCTION 1 hash_of(c)",
        "SELECT count(*) FROM (VALUES («(2)»::c), («(1)»::c)) AS v(x) GROUP BY x"),
    plain("a cast", "CREATE TYPE c AS (a int); CREATE FUNCTION to_c(int) RETURNS c LANGUAGE sql AS 'SELECT ROW(charge($1))::c';
        CREATE CAST (int AS c) WITH FUNCTION to_c(int)", "SELECT 1::{c}"),
    plain("a function with the name of its type", "CREATE TYPE c AS (a int); CREATE FUNCTION c(int) RETURNS c LANGUAGE sql AS 'SELECT ROW(charge($1))::c'",
        "SELECT {c}(1)"),
    plain("a cast of an array's elements", "CREATE TYPE c AS (a int); CREATE FUNCTION to_c(int) RETURNS c LANGUAGE sql AS 'SELECT ROW(charge($1))::c';
        CREATE CAST (int AS c) WITH FUNCTION to_c(int)", "SELECT ARRAY[1]::{c}[]"),
    plain("a cast at an assignment", "CREATE TYPE c AS (a int); CREATE FUNCTION to_c(int) RETURNS c LANGUAGE sql AS 'SELECT ROW(charge($1))::c';
        CREATE CAST (int AS c) WITH FUNCTION to_c(int) AS ASSIGNMENT; CREATE TABLE u (a c)", "INSERT INTO {u} VALUES (1)"),
    plain("an implicit cast", "CREATE TYPE c AS (a int); CREATE FUNCTION to_c(int) RETURNS c LANGUAGE sql AS 'SELECT ROW(charge($1))::c';
        CREATE CAST (int AS c) WITH FUNCTION to_c(int) AS IMPLICIT;
        CREATE FUNCTION quiet(c) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'", "SELECT {quiet}(1)"),
    plain("a cast to JSON", "CREATE TYPE c AS ENUM ('x'); CREATE FUNCTION to_json_of(c) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM charge(1); RETURN '1'; END $$;
        CREATE CAST (c AS json) WITH FUNCTION to_json_of(c)", "SELECT to_json(«x»::{c})"),
    plain("attribute notation", "CREATE TABLE u (a int); INSERT INTO u VALUES (1); CREATE FUNCTION bill(u) RETURNS int LANGUAGE sql AS 'SELECT charge($1.a)'",
        "SELECT x.{~bill} FROM {u} AS x"),
    plain("attribute notation of a row", "CREATE TABLE u (a int); INSERT INTO u VALUES (1); CREATE FUNCTION bill(u) RETURNS int LANGUAGE sql AS 'SELECT charge($1.a)'",
        "SELECT (x).{~bill} FROM {u} AS x"),
    plain("attribute notation in a subquery", "CREATE TYPE c AS (a int); CREATE FUNCTION bill(c) RETURNS int LANGUAGE sql AS 'SELECT charge($1.a)'",
        "SELECT (SELECT ROW(1)::c).{~bill}"),
    plain("an aggregate", "CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($2)';
        CREATE AGGREGATE total(int) (SFUNC = add, STYPE = int, INITCOND = '0')", "SELECT {total}(a) FROM (VALUES (1), (2)) AS x(a)"),
    plain("an aggregate's last step", "CREATE FUNCTION last_step(int) RETURNS int LANGUAGE sql AS 'SELECT charge(1)';
        CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0', FINALFUNC = last_step)", "SELECT {total}(a) FROM (VALUES (1), (2)) AS x(a)"),
    plain("an aggregate with a name that is harmless", "CREATE FUNCTION add(int, box) RETURNS int LANGUAGE sql AS 'SELECT charge(1)';
        CREATE AGGREGATE sum(box) (SFUNC = add, STYPE = int, INITCOND = '0')", "SELECT sum(box «1,1,2,2»)"),
    plain("an ordered aggregate", "CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($2)';
        CREATE FUNCTION last_step(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
        CREATE AGGREGATE total(ORDER BY int) (SFUNC = add, STYPE = int, INITCOND = '0', FINALFUNC = last_step)",
        "SELECT {total}() WITHIN GROUP (ORDER BY a) FROM (VALUES (1)) AS x(a)"),
    plain("a window", "CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($2)';
        CREATE AGGREGATE total(int) (SFUNC = add, STYPE = int, INITCOND = '0')", "SELECT {total}(1) OVER ()"),
    plain("a moving window", "CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql STRICT IMMUTABLE AS 'SELECT $1 + $2';
        CREATE FUNCTION back(int, int) RETURNS int LANGUAGE sql STRICT AS 'SELECT $1 - $2 + 0 * charge(1)';
        CREATE AGGREGATE total(int) (SFUNC = add, STYPE = int, INITCOND = '0', MSFUNC = add, MINVFUNC = back, MSTYPE = int, MINITCOND = '0')",
        "SELECT {total}(a) OVER (ORDER BY a ROWS 1 PRECEDING) FROM generate_series(1, 4) AS x(a)"),
    plain("a policy", "CREATE TABLE u (a int); INSERT INTO u VALUES (1); ALTER TABLE u ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON u USING (charge(a) = 1)",
        "SELECT a FROM {u}"),
    plain("a policy for writing", "CREATE TABLE u (a int); ALTER TABLE u ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON u WITH CHECK (charge(a) = 1)",
        "INSERT INTO {u} VALUES (1)"),
    plain("a policy behind a view", "CREATE TABLE u (a int); INSERT INTO u VALUES (1); ALTER TABLE u ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON u USING (charge(a) = 1); CREATE VIEW v WITH (security_invoker) AS SELECT a FROM u", "SELECT a FROM {v}"),
    plain("a policy that asks a view", "CREATE VIEW v AS SELECT charge(1) AS a; CREATE TABLE u (a int); INSERT INTO u VALUES (1);
        ALTER TABLE u ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON u USING ((SELECT max(a) FROM v) = 1)", "SELECT a FROM {u}"),
    plain("a policy that asks a table with a policy", "CREATE TABLE w (a int); INSERT INTO w VALUES (1); ALTER TABLE w ENABLE ROW LEVEL SECURITY;
        CREATE POLICY q ON w USING (charge(a) = 1); CREATE TABLE u (a int); INSERT INTO u VALUES (1);
        ALTER TABLE u ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON u USING (a IN (SELECT a FROM w))", "SELECT a FROM {u}"),
    plain("a policy for what a trigger writes", "CREATE TABLE u (a int); ALTER TABLE u ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON u FOR UPDATE USING (charge(a) = 1); CREATE POLICY q ON u FOR SELECT USING (true); INSERT INTO u VALUES (1)", "SELECT a FROM {u} FOR UPDATE"),
    plain("a procedure", "CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT charge(1)'", "CALL {p}()"),
    plain("a block", "", "DO $do$ BEGIN PERFORM public.charge(1); END $do$"),
    plain("COPY of a query", "", "COPY (SELECT {charge}(1)) TO STDOUT"),
    plain("a common table expression", "", "WITH x AS MATERIALIZED (SELECT {charge}(1) AS a) SELECT a FROM x"),
    plain("a recursive one", "", "WITH RECURSIVE x AS (SELECT {charge}(1) AS a UNION ALL SELECT a + 1 FROM x WHERE a < 3) SELECT a FROM x"),
    plain("EXPLAIN ANALYZE", "", "EXPLAIN (ANALYZE) SELECT {charge}(1)"),
    plain("SELECT INTO", "", "SELECT {charge}(1) AS a INTO u"),
    plain("CREATE TABLE AS", "", "CREATE TABLE u AS SELECT {charge}(1) AS a"),
    plain("REFRESH", "CREATE MATERIALIZED VIEW m AS SELECT charge(1) AS a WITH NO DATA; ALTER MATERIALIZED VIEW m OWNER TO teller", "REFRESH MATERIALIZED VIEW {m}"),
    plain("an index", "CREATE TABLE u (a int); ALTER TABLE u OWNER TO teller; INSERT INTO u VALUES (1);
        CREATE FUNCTION fixed(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN charge($1); END'", "CREATE INDEX ON {u} ({fixed}(a))"),
    plain("a table by its name in a text", "CREATE VIEW v AS SELECT charge(1) AS a", "SELECT table_to_xml(«v», true, true, '')"),
    plain("a schema by its name in a text", "CREATE VIEW v AS SELECT charge(1) AS a", "SELECT schema_to_xml(«public», true, true, '')"),
    plain("a statement in a text", "", "SELECT query_to_xml(«SELECT public.charge(1)», true, true, '')"),
    plain("a statement in a text of another kind", "", "SELECT ts_rewrite(«a»::tsquery, «SELECT 'a'::tsquery, 'b'::tsquery FROM public.charge(1)»)"),
    plain("a foreign table", "CREATE VIEW v AS SELECT charge(1) AS a;
        CREATE EXTENSION postgres_fdw SCHEMA public;
        CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port 'PORT', dbname 'NAME');
        CREATE USER MAPPING FOR teller SERVER here OPTIONS (user 'teller', password 'teller', password_required 'false');
        CREATE FOREIGN TABLE f (a int) SERVER here OPTIONS (table_name 'v')", "SELECT a FROM {f}"),
    plain("a foreign child", "CREATE VIEW v AS SELECT charge(1) AS a; CREATE TABLE u (a int);
        CREATE EXTENSION postgres_fdw SCHEMA public;
        CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port 'PORT', dbname 'NAME');
        CREATE USER MAPPING FOR teller SERVER here OPTIONS (user 'teller', password 'teller', password_required 'false');
        CREATE FOREIGN TABLE f () INHERITS (u) SERVER here OPTIONS (table_name 'v')", "SELECT a FROM {u}"),
    shadow("a function before the server's own", "CREATE FUNCTION lower(text) RETURNS int LANGUAGE sql AS 'SELECT charge(1)'", "SELECT lower(«A»)"),
    shadow("now before the server's own", "CREATE FUNCTION now() RETURNS int LANGUAGE sql AS 'SELECT charge(1)'", "SELECT now()"),
    shadow("random before the server's own", "CREATE FUNCTION random() RETURNS int LANGUAGE sql AS 'SELECT charge(1)'", "SELECT random()"),
    shadow("set_config before the server's own",
        "CREATE FUNCTION set_config(text, text, boolean) RETURNS int LANGUAGE sql AS 'SELECT charge(1)'", "SELECT set_config(«app.tenant», «A», true)"),
    shadow("count before the server's own", "CREATE FUNCTION step(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge(1)';
        CREATE AGGREGATE count(int) (SFUNC = step, STYPE = int, INITCOND = '0')", "SELECT count(a) FROM (VALUES (1)) AS x(a)"),
    shadow("a view before the server's own", "CREATE VIEW pg_class AS SELECT charge(1) AS a", "SELECT a FROM pg_class"),
    shadow("an operator before the server's own", "CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql AS 'SELECT charge($1)';
        CREATE OPERATOR + (LEFTARG = int, RIGHTARG = int, FUNCTION = plus)", "SELECT 1 + 1"),
    shadow("a type before the server's own", "CREATE DOMAIN text AS pg_catalog.text CHECK (charge(1) = 1)", "SELECT «x»::text"),
    lie("a function that is declared stable", "CREATE FUNCTION quiet() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN charge(1); END'", "SELECT {quiet}()"),
    lie("a function that is declared immutable", "CREATE FUNCTION quiet(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN charge($1); END'",
        "SELECT {quiet}(a) FROM (VALUES (1)) AS x(a)"),
];

/// Statements that mark the session by themselves.
#[rustfmt::skip]
pub(super) const MARKS: &[&str] = &[
    "SET {~work_mem} = «1MB»",
    "SET SESSION {~work_mem} TO «1MB»",
    "SET {~app}.{~tenant} = «A»",
    "SET local.{~tenant} = «A»",
    "SET local.{~tenant} TO «A»",
    "SET transaction.{~x} = «A»",
    "SET constraints.{~x} = «A»",
    "SET session.{~x} = «A»",
    "SET {~search_path} = elsewhere",
    "SET SCHEMA «elsewhere»",
    "SET TIME ZONE «UTC+3»",
    "SET XML OPTION DOCUMENT",
    "SET NAMES «LATIN1»",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET ROLE pg_monitor",
    "SELECT {~set_config}(«work_mem», «1MB», false)",
    "SELECT pg_catalog.{~set_config}(«app.tenant», «A», false)",
    "SELECT {~set_config}(«app.tenant», «A», true), {~set_config}(«app.tenant», «A», false)",
    "SELECT {~set_config}(«app.tenant», «A», true AND false)",
    "SELECT {~set_config}(«app.tenant», «A», true = false)",
    "SELECT {~set_config}(«app.tenant», «A», true IS NULL)",
    "SELECT {~set_config}(«app.tenant», «A», NOT true)",
    "SELECT {~set_config}(«app.tenant», «A», «f»)",
    "SELECT {~set_config}(«app.tenant», «A, true)», false)",
    "SELECT {~set_config}(«app.tenant», n, l) FROM (VALUES («A», true), («B», false)) AS x(n, l)",
    "SELECT {~set_config}(«app.tenant», «A», \"true\") FROM (VALUES (false)) AS x(\"true\")",
    "UPDATE {~pg_settings} SET setting = «1MB» WHERE name = «work_mem»",
    "LISTEN news",
    "CREATE TEMP TABLE scratch (a int)",
    "CREATE TABLE pg_temp.{~scratch} (a int)",
    "CREATE TEMPORARY VIEW scratch AS SELECT 1 AS a",
    "SELECT 1 AS a INTO TEMP scratch",
    "SELECT 1 AS insert INTO TEMP scratch",
    "SELECT 1 AS a INTO pg_temp.{~scratch}",
    "SELECT {~pg_advisory_lock}(1)",
    "SELECT {~pg_try_advisory_lock_shared}(1)",
    "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
    "PREPARE planned AS SELECT 1",
    "SELECT {~setseed}(0.25)",
    "BEGIN",
    "START TRANSACTION READ ONLY",
];

/// Statements that leave nothing, and must not cost a reset.
#[rustfmt::skip]
pub(super) const CLEAN: &[(&str, &str)] = &[
    ("", "SELECT 1"),
    ("", "SELECT now(), clock_timestamp(), random(), gen_random_uuid()"),
    ("", "SELECT set_config('app.tenant', 'A', true)"),
    ("", "SELECT set_config('app.tenant', 'A', TRUE) AS tenant"),
    ("CREATE TABLE u (id serial PRIMARY KEY, a text); INSERT INTO u (a) VALUES ('x')", "SELECT a FROM u WHERE id = 1"),
    ("", "SELECT count(*), max(lower(a)) FROM u WHERE a LIKE 'x%' AND id BETWEEN 1 AND 10"),
    ("", "INSERT INTO u (a) VALUES ('y')"),
    ("", "INSERT INTO u (a) VALUES ('y') RETURNING id"),
    ("", "INSERT INTO u (id, a) VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET a = excluded.a"),
    ("", "UPDATE u SET a = 'y' WHERE id = 1 RETURNING a"),
    ("", "DELETE FROM u WHERE id = 77"),
    ("", "WITH x AS (SELECT id FROM u) SELECT count(*) FROM x"),
    ("", "SELECT a FROM u WHERE id = 1 FOR UPDATE"),
    ("", "SELECT nextval('u_id_seq')"),
    ("", "SELECT pg_advisory_xact_lock(1)"),
    ("", "SELECT pg_notify('news', 'x')"),
    ("CREATE VIEW v AS SELECT id, lower(a) AS a, now() AS at FROM u", "SELECT a FROM v"),
    ("CREATE TABLE k (temp int, temporary int, set int, local int)", "SELECT temp, temporary, set, local FROM k"),
    ("CREATE FUNCTION quiet(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1'", "SELECT quiet(1)"),
    ("CREATE TABLE o (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), at timestamptz DEFAULT now())", "INSERT INTO o DEFAULT VALUES"),
    ("CREATE TYPE level AS ENUM ('low', 'high'); CREATE DOMAIN small AS int CHECK (VALUE < 10); CREATE TABLE l (level level, n small)",
        "INSERT INTO l VALUES ('low', 1) RETURNING level, n"),
    ("", "SHOW work_mem"),
    ("", "VALUES (1), (2)"),
    ("", "TABLE u"),
];
