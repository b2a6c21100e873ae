//! What its superuser can do, and see it do.

use super::*;

/// A client of its superuser.
fn client(data: &Path) -> postgres::Client {
    let password = fs::read_to_string(data.with_file_name("password")).unwrap();
    let lines = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let port = lines.lines().nth(3).unwrap().trim();
    let url = format!("postgres://poolhouse:{}@127.0.0.1:{port}/postgres?sslmode=disable", password.trim());
    url.parse::<postgres::Config>().unwrap().connect(postgres::NoTls).unwrap()
}

/// The service finds the table empty, and before it loads its sample another poolhouse has imported a film under an id
/// that the sample uses too.
#[test]
fn a_sample_is_never_put_over_an_import_at_the_same_moment() {
    let app = serve(made());
    // The first to ask for the lock of imports asks for it late: once there is a film.
    let late = "
        TRUNCATE movies;
        CREATE SEQUENCE askers;
        CREATE FUNCTION hashtext(name text) RETURNS integer LANGUAGE plpgsql AS $$
            BEGIN
                IF name = 'poolhouse import' AND nextval('askers') = 1 THEN
                    WHILE NOT EXISTS (SELECT FROM movies) LOOP PERFORM pg_sleep(0.005); END LOOP;
                END IF;
                RETURN pg_catalog.hashtext(name);
            END
        $$;
        ALTER DATABASE postgres SET search_path = public, pg_catalog";
    client(&data(&app)).batch_execute(late).unwrap();
    let app = App::spawn(&[], app.stop().2, &[]);
    let mut asks = || {
        let lock = fs::read_to_string(data(&app).join("postmaster.pid"));
        let is_ready =
            lock.is_ok_and(|lock| lock.lines().nth(7).is_some_and(|state| state.trim() == "ready"));
        let sql = "SELECT is_called FROM askers";
        is_ready && client(&data(&app)).query_one(sql, &[]).unwrap().get(0)
    };
    eventually("the service is about to load its sample", SOON, &mut asks);
    let output = import(&app, "1,Zyxwv (2001),Drama");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let app = app.until_it_answers();
    let (status, movie) = app.get("/api/movies/1");
    assert!(status == 200 && movie.contains("Zyxwv"), "{movie}");
    let log = app.log();
    assert!(log.contains("Application started with 1 movies") && !log.contains("Loaded a sample"), "{log}");
}

#[test]
fn the_servers_log_has_an_end() {
    let app = serve(made());
    let log = app.directory().join(".poolhouse/postgres.log");
    let length = || fs::metadata(&log).unwrap().len();
    let much = "DO $$ BEGIN FOR i IN 1..21 LOOP RAISE LOG '%', repeat('x', 500000); END LOOP; END $$";
    client(&data(&app)).batch_execute(much).unwrap();
    eventually("it begins anew", SOON, || length() < 10_000_000);
    let before = fs::metadata(log.with_extension("log.1")).unwrap();
    assert!(before.len() > 10_000_000 && before.permissions().mode() & 0o777 == 0o600, "{before:?}");
    client(&data(&app)).batch_execute("DO $$ BEGIN RAISE LOG 'it goes on'; END $$").unwrap();
    let words = fs::read_to_string(&log).unwrap();
    assert!(words.contains("it goes on") && !words.contains('\0'), "{words}");
}
