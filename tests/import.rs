//! Importing MovieLens files: all or nothing, again without harm.

use crate::support::app::poolhouse;
use crate::support::{Database, Proxy, SOON, eventually, postgres};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use tempfile::TempDir;

const HEADER: &str = "movieId,title,genres\r\n";

/// Imports a file of this content.
fn import(database: &Database, content: &[u8]) -> Output {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("movies.csv"), content).unwrap();
    import_file(database, directory.path(), "movies.csv")
}

fn import_file(database: &Database, directory: &Path, file: &str) -> Output {
    poolhouse(directory).args(["import", file]).env("DATABASE_URL", database.url()).output().unwrap()
}

#[track_caller]
fn assert_imported(output: &Output, counts: &str) {
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{failed}");
    assert!(said.contains(counts), "{counts:?} is missing in: {said}");
}

/// Every row of the table as `id|title|year|genres`.
fn rows(database: &Database) -> Vec<String> {
    let sql =
        "SELECT concat_ws('|', movie_id, title, coalesce(year::text, '-'), array_to_string(genres, ' '))
               FROM movies ORDER BY movie_id";
    database.client().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_file_is_loaded_as_it_is_meant() {
    let database = postgres::fresh_database().with_schema();
    let file = format!(
        "\u{feff}{HEADER}1,Toy Story (1995),Adventure|Animation\r\n\
         2,\"Misérables, Les (1995) \",Drama\r\n\
         3,\"\"\"Crocodile\"\" Dundee (1986)\",(no genres listed)\r\n\
         4,C:\\temp\\N (2001),IMAX\r\n\
         5,Юность,Drama|Film-Noir\r\n\
         2147483647,(2019),Sci-Fi"
    );
    assert_imported(&import(&database, file.as_bytes()), "Imported 6 movies");
    assert_eq!(
        rows(&database),
        [
            "1|Toy Story|1995|Adventure Animation",
            "2|Misérables, Les|1995|Drama",
            "3|\"Crocodile\" Dundee|1986|",
            "4|C:\\temp\\N|2001|IMAX",
            "5|Юность|-|Drama Film-Noir",
            "2147483647|(2019)|-|Sci-Fi",
        ]
    );
}

#[test]
fn a_second_import_changes_what_differs_and_keeps_the_rest() {
    let database = postgres::fresh_database().with_schema();
    let first = format!("{HEADER}1,A (2000),Drama\r\n2,B (2000),Drama\r\n3,C (2000),Drama\r\n");
    assert_imported(&import(&database, first.as_bytes()), "inserted 3, updated 0, unchanged 0");
    assert_imported(&import(&database, first.as_bytes()), "inserted 0, updated 0, unchanged 3");
    let second =
        format!("{HEADER}2,B (2000),(no genres listed)\r\n3,C (2000),Drama\r\n4,D,War\r\n5,E,War\r\n");
    assert_imported(&import(&database, second.as_bytes()), "inserted 2, updated 1, unchanged 1");
    assert_eq!(rows(&database), ["1|A|2000|Drama", "2|B|2000|", "3|C|2000|Drama", "4|D|-|War", "5|E|-|War"]);
}

#[test]
fn a_bad_file_is_reported_by_its_lines_and_loads_nothing() {
    let database = postgres::fresh_database().with_schema();
    database.client().batch_execute("INSERT INTO movies (movie_id, title) VALUES (1, 'Before')").unwrap();
    // An empty table is filled directly, another one through a table in between.
    let empty = postgres::fresh_database().with_schema();
    let good = format!("{HEADER}1,Changed (2000),Drama\r\n2,New (2001),War\r\n");
    let after_good = |line: &str| format!("{good}{line}").into_bytes();
    let long: String = (0..3000).map(|_| "a line of text and then some more of it,\r\n").collect();
    let bad_files = [
        (Vec::new(), &["line 1", "the file is empty"][..]),
        (HEADER.into(), &["line 1", "no movies"]),
        (b"1,Toy Story (1995),Drama\r\n".into(), &["line 1: the header must be movieId,title,genres"]),
        (b"movieId;title;genres\r\n1;A;Drama\r\n".into(), &["the header must be", "movieId;title;genres"]),
        (b"\x1f\x8b\x08\x00binary".into(), &["the header must be"]),
        (after_good("0,A,Drama\r\n"), &["line 4: movie id \"0\"", "from 1 to 2147483647"]),
        (after_good("-1,A,Drama\r\n"), &["line 4: movie id \"-1\""]),
        (after_good("one,A,Drama\r\n"), &["line 4: movie id \"one\""]),
        (after_good("1099511627776,A,Drama\r\n"), &["line 4: movie id \"1099511627776\""]),
        (after_good("3,,Drama\r\n"), &["line 4: the title is empty"]),
        (after_good("3,\u{200b},Drama\r\n"), &["line 4: the title \"\\u{200b}\" has no visible character"]),
        (after_good("3,A,Cooking\r\n"), &["line 4: genre \"Cooking\"", "Western"]),
        (after_good("3,A,Drama,War\r\n"), &["line 4: 4 fields instead of 3"]),
        (after_good("3,\"Trunca"), &["line 4"]),
        (after_good("3,Truncated (19"), &["line 4: 2 fields instead of 3"]),
        (after_good("3,Truncated (1995),Dra"), &["line 4: genre \"Dra\""]),
        (after_good("3,\"A,Drama\r\n4,B,War\r\n"), &["line 4: a line break inside a field", "closing quote"]),
        (after_good(&format!("3,\"A,Drama\r\n{long}")), &["line 4: a line break inside a field"]),
        (after_good("2,Again,Drama\r\n"), &["line 4: movie id 2 is on line 3 already"]),
        ([good.as_bytes(), b"3,caf\xe9,Drama\r\n"].concat(), &["line 4: title is not UTF-8"]),
        (after_good("3,A\0B,Drama\r\n"), &["line 4", "control character"]),
        (after_good("0,A,Drama\r\n3,A,Nothing\r\nx\r\n"), &["line 4", "line 5", "line 6: 1 field instead"]),
        (after_good(&"0,A,Drama\r\n".repeat(21)), &["line 23", "… and 1 more"]),
    ];
    std::thread::scope(|scope| {
        for (database, before) in [(&database, &["1|Before|-|"][..]), (&empty, &[])] {
            let bad_files = &bad_files;
            scope.spawn(move || {
                for (content, words) in bad_files {
                    let output = import(database, content);
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert_eq!(output.status.code(), Some(1), "{said}");
                    for word in words.iter().chain(&["nothing was loaded", "movies.csv"]) {
                        assert!(said.contains(word), "{word:?} is missing in: {said}");
                    }
                    assert!(!said.contains("panicked"), "{said}");
                    assert_eq!(rows(database), before, "after {said}");
                }
            });
        }
    });
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let database = postgres::fresh_database().with_schema();
    let directory = TempDir::new().unwrap();
    for file in ["missing.csv", "."] {
        let output = import_file(&database, directory.path(), file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(file) && said.contains("os error"), "{said}");
    }
}

#[test]
fn a_dash_reads_standard_input() {
    let database = postgres::fresh_database().with_schema();
    let mut child = poolhouse(Path::new("/"))
        .args(["import", "-"])
        .env("DATABASE_URL", database.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(HEADER.as_bytes()).unwrap();
    // Its writer may take any time: until then, others may write.
    let mut other = database.client();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
    eventually("it waits for input", SOON, || other.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 1);
    let insert = "SET lock_timeout = '5s'; INSERT INTO movies (movie_id, title) VALUES (7, 'Seventh')";
    other.batch_execute(insert).unwrap();
    for id in 1..=20_000 {
        write!(input, "{id},\"Film number {id}, the long one (1999)\",Drama|War\r\n").unwrap();
    }
    drop(input);
    assert_imported(&child.wait_with_output().unwrap(), "inserted 19999, updated 1, unchanged 0");
    assert_eq!(rows(&database).len(), 20_000);
}

#[test]
fn bad_lines_of_standard_input_are_reported_as_such() {
    let database = postgres::fresh_database().with_schema();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bad");
    fs::write(&path, format!("{HEADER}1\r\n")).unwrap();
    let output = poolhouse(Path::new("/"))
        .args(["import", "-"])
        .env("DATABASE_URL", database.url())
        .stdin(fs::File::open(path).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("import of standard input: nothing was loaded"), "{said}");
}

#[test]
fn imports_at_the_same_time_go_one_after_the_other() {
    let database = postgres::fresh_database().with_schema();
    let lines = |title: &str, ids: &mut dyn Iterator<Item = u32>| {
        HEADER.to_owned() + &ids.map(|id| format!("{id},{title} {id},Drama\r\n")).collect::<String>()
    };
    // In opposite order, so that without care each would wait for what the other holds.
    let files = [lines("Up", &mut (1..=5000)), lines("Down", &mut (1..=5000).rev())];
    std::thread::scope(|scope| {
        for file in &files {
            scope.spawn(|| assert_imported(&import(&database, file.as_bytes()), "Imported 5000 movies"));
        }
    });
    let rows = rows(&database);
    assert_eq!(rows.len(), 5000);
    let word = if rows[0].contains("Up") { "Up" } else { "Down" };
    assert!(rows.iter().all(|row| row.contains(word)), "a mixture of both files");
}

#[test]
fn the_timeout_ends_an_import_that_waits_for_another() {
    let database = postgres::fresh_database().with_schema();
    let mut other = database.client();
    other.query("SELECT pg_advisory_lock(hashtext('poolhouse import'))", &[]).unwrap();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("movies.csv"), format!("{HEADER}1,Film (1999),Drama\r\n")).unwrap();
    let import_within = |seconds: &str| {
        let mut import = poolhouse(directory.path());
        import.args(["import", "--timeout", seconds, "movies.csv"]).env("DATABASE_URL", database.url());
        import.output().unwrap()
    };
    let output = import_within("1");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing was loaded: deadline exceeded"), "{said}");
    assert_eq!(rows(&database).len(), 0);
    drop(other);
    assert_imported(&import_within("600"), "Imported 1 movies");
    assert_eq!(import_within("0").status.code(), Some(2));
}

/// The server commits, and its answer never arrives.
#[test]
fn a_commit_that_was_done_and_not_answered_is_not_reported_as_nothing_loaded() {
    let database = postgres::fresh_database().with_schema();
    let mut direct = database.client();
    // A commit of new movies waits for a lock of ours.
    let waiting_commit = "
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON movies DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION wait()";
    direct.batch_execute(waiting_commit).unwrap();
    let mut count = |sql: &str| direct.query_one(sql, &[]).unwrap().get::<_, i64>(0);
    let proxy = Proxy::to(&database.settings());
    let directory = TempDir::new().unwrap();
    for (movies, comes_back) in [(1, true), (2, false)] {
        let lines: String = (1..=movies).map(|id| format!("{id},Film {id},Drama\r\n")).collect();
        fs::write(directory.path().join("movies.csv"), HEADER.to_owned() + &lines).unwrap();
        count("SELECT count(pg_advisory_lock(1)::text)");
        let mut import = poolhouse(directory.path());
        import.args(["import", "movies.csv"]).env("DATABASE_URL", postgres::url(&proxy.settings()));
        if !comes_back {
            import.env("DB_POOL_ACQUIRE_TIMEOUT_S", "1");
        }
        let child = import.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("it commits", SOON, || {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event = 'advisory' AND query = 'COMMIT'";
            count(sql) == 1
        });
        proxy.stall_replies_after(0);
        count("SELECT count(pg_advisory_unlock(1))");
        eventually("it is committed", SOON, || count("SELECT count(*) FROM movies") == movies);
        proxy.cut();
        if comes_back {
            proxy.pass();
            assert_imported(&child.wait_with_output().unwrap(), "inserted 1, updated 0, unchanged 0");
            continue;
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains("nothing was loaded"), "{said}");
        for words in ["import of movies.csv: outcome unknown", "may or may not", "importing it again"] {
            assert!(said.contains(words), "{words:?} is missing in: {said}");
        }
    }
    // As reported.
    let again = import_file(&database, directory.path(), "movies.csv");
    assert_imported(&again, "inserted 0, updated 0, unchanged 2");
}

#[test]
fn the_sample_in_the_repository_is_a_good_file() {
    let database = postgres::fresh_database().with_schema();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/sample_movies.csv");
    assert_imported(&import_file(&database, Path::new("/"), file), "updated 0, unchanged 0");
    let found = |words: &str| {
        let sql = "SELECT count(*) FROM movies WHERE search @@ poolhouse_query($1)";
        database.client().query_one(sql, &[&words]).unwrap().get::<_, i64>(0)
    };
    assert!(rows(&database).len() >= 300);
    for words in
        ["amelie", "AMÉLIE", "schindlers list", "schindler's", "avventura", "2001 odys", "trois couleurs"]
    {
        assert!(found(words) > 0, "{words} finds nothing");
    }
    for words in ["", "  ", "?!", "zzz", "':* & | !"] {
        assert_eq!(found(words), 0, "{words:?}");
    }
}
