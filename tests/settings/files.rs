//! The tiers' files: which is read, what wins, what is refused in them.

use super::*;

fn with_file(name: &str, text: impl AsRef<[u8]>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), text).unwrap();
    dir
}

fn load_dev(text: impl AsRef<[u8]>) -> poolhouse::Result<Settings> {
    Settings::load_from(with_file(".env.dev", text).path(), &BTreeMap::new())
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let dir = with_file(".env.dev", "DB_POOL_MAX_WAITING=7\nDB_POOL_MAX_CONNECTIONS=12 # enough\n");
    let environment = variables(&[("DB_POOL_MAX_CONNECTIONS", "14"), ("API_TOKENS", "ops=s3cr3t,ci=t0k3n")]);
    let settings = Settings::load_from(dir.path(), &environment).unwrap();
    assert_eq!((settings.pool.max_connections, settings.pool.max_waiting), (14, 7));

    assert_eq!(effective(&settings, "DB_POOL_MAX_CONNECTIONS"), row("14", "environment"));
    assert_eq!(effective(&settings, "DB_POOL_MAX_WAITING"), row("7", ".env.dev"));
    assert_eq!(effective(&settings, "DB_POOL_MIN_CONNECTIONS"), row("2", "default"));
    assert_eq!(effective(&settings, "DB_HOST"), row("", "not set"));
    assert_eq!(effective(&settings, "API_TOKENS"), row("ops=***, ci=***", "environment"));
    let names: Vec<_> = settings.effective().iter().map(|row| row.variable).collect();
    assert_eq!(names, VARIABLES.iter().map(|variable| variable.name).collect::<Vec<_>>());
}

#[test]
fn the_environment_wins_in_either_spelling() {
    let file = "DATABASE_POOL_SIZE=5\nDATABASE_MAX_OVERFLOW=10\nDB_POOL_ACQUIRE_TIMEOUT_S=3\nRUST_LOG=warn\n\
                DB_HOST=old\nDB_PORT=1111\nDB_NAME=movies\nDB_USER=app\nDB_PASSWORD=pw\n";
    let dir = with_file(".env.dev", file);
    let environment = variables(&[
        ("DB_POOL_MAX_CONNECTIONS", "8"),
        ("DATABASE_POOL_TIMEOUT", "4"),
        ("LOG_LEVEL", "debug"),
        ("DATABASE_URL", "postgres://root@new/movies"),
    ]);
    let settings = Settings::load_from(dir.path(), &environment).unwrap();
    assert_eq!((settings.pool.max_connections, settings.pool.max_overflow), (8, 0));
    assert_eq!(settings.pool.acquire_timeout, Duration::from_secs(4));
    assert_eq!(settings.log_filter, "debug,tokio_postgres=info");
    // The file's port was the other host's; its password completes the URL.
    let database = &settings.pool.database;
    assert_eq!((database.to_string().as_str(), database.user.as_str()), ("new:5432/movies", "root"));
    assert_eq!(database.password.as_ref().unwrap().expose(), "pw");
    assert_eq!(effective(&settings, "DATABASE_POOL_SIZE"), row("8", "DB_POOL_MAX_CONNECTIONS"));
    assert_eq!(effective(&settings, "DB_POOL_ACQUIRE_TIMEOUT_S"), row("4", "DATABASE_POOL_TIMEOUT"));
    assert_eq!(effective(&settings, "DB_HOST"), row("new", "DATABASE_URL"));
    assert_eq!(effective(&settings, "DB_PASSWORD"), row("***", ".env.dev"));
}

#[test]
fn app_env_picks_the_file() {
    let dir = with_file(".env.dev", "DB_POOL_MAX_WAITING=1\n");
    std::fs::write(dir.path().join(".env.preprod"), "DB_POOL_MAX_WAITING=2\nAPP_ENV=preprod\n").unwrap();
    let waiting = |environment| Settings::load_from(dir.path(), &environment).unwrap().pool.max_waiting;
    assert_eq!(waiting(BTreeMap::new()), 1);
    assert_eq!(waiting(variables(&[("APP_ENV", " ")])), 1);
    assert_eq!(waiting(variables(&complete("preprod", &[]))), 2);

    let error = Settings::load_from(dir.path(), &variables(&[("APP_ENV", "staging")])).unwrap_err();
    assert!(error.to_string().contains("dev, preprod, production"), "{error}");
    let problem = &problems_of(load_dev("APP_ENV=production\n"))[0];
    assert_eq!((problem.variable.as_str(), &*problem.value), ("APP_ENV", "production in .env.dev"));
}

#[test]
fn a_missing_file_is_fine_in_dev_and_named_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    Settings::load_from(dir.path(), &BTreeMap::new()).unwrap();
    for (tier, file, hint) in [
        ("preprod", ".env.preprod", "preprod"),
        ("production", ".env.production", ".env.production.template"),
    ] {
        let problems = problems_of(Settings::load_from(dir.path(), &variables(&complete(tier, &[]))));
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].variable, file);
        assert!(problems[0].value.contains(&dir.path().display().to_string()), "{problems:?}");
        assert!(problems[0].allowed.contains(hint), "{problems:?}");
    }
}

#[test]
fn an_unreadable_file_is_an_error_even_in_dev() {
    // A directory: no permission keeps root from reading a file.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".env.dev")).unwrap();
    let problems = problems_of(Settings::load_from(dir.path(), &BTreeMap::new()));
    assert_eq!(problems[0].variable, ".env.dev");
    assert!(problems[0].value.starts_with("cannot be read in"), "{problems:?}");
}

#[test]
fn a_malformed_line_is_reported_by_its_number_and_never_quoted() {
    for (line, what) in [
        ("s3cr3t", "has no ="),
        ("=s3cr3t", "has a name"),
        ("s3 cr3t=1", "has a name"),
        ("1s3cr3t=1", "has a name"),
        ("DB_PASSWORD=s3 cr3t", "has a value that cannot be read"),
        ("DB_PASSWORD='s3cr3t", "has a quote that is not closed"),
        ("DB_PASSWORD=it's3cr3t", "has a quote that is not closed"),
        ("DB_PASSWORD=\"s3cr3t # '", "has a quote that is not closed"),
        ("DB_PASSWORD=pa$s3cr3t", "has a $"),
        ("DB_PASSWORD=\"${s3cr3t}\"", "has a $"),
        ("DB_PASSWORD=#s3cr3t", "begins with #"),
        ("DB_PASSWORD=s3cr3t\\", "has a backslash"),
        ("DB_PASSWORD=\\s3cr3t", "has a backslash"),
    ] {
        let text = format!("# a comment\n\nLOG_LEVEL=info\n{line}\nHTTP_WORKERS=0\n");
        let problems = problems_of(load_dev(&text));
        assert_eq!(problems.len(), 2, "{line}: {problems:?}");
        assert_eq!(problems[0].variable, ".env.dev line 4", "{line}");
        assert!(problems[0].value.contains(what), "{line}: {problems:?}");
        assert!(!format!("{problems:?}").contains("3cr3t"), "{line}: {problems:?}");
        assert_eq!(problems[1].variable, "HTTP_WORKERS", "the lines after it are still judged");
    }
    assert_eq!(problems_of(load_dev(b"\n\xff\n"))[0].value, "is not UTF-8");
    assert_eq!(problems_of(load_dev("\u{feff}LOG_LEVEL=info"))[0].value, "begins with a byte order mark");
}

#[test]
fn well_formed_lines_mean_what_they_say() {
    for (line, password) in [
        ("DB_PASSWORD=pw", "pw"),
        ("  export DB_PASSWORD = pw  \r", "pw"),
        ("DB_PASSWORD=p=w#1", "p=w#1"),
        ("DB_PASSWORD=pw # it's a comment with $ and '", "pw"),
        ("DB_PASSWORD='p w # $x \"y\"'", "p w # $x \"y\""),
        ("DB_PASSWORD=\"p'w \\$ \\\\\"", "p'w $ \\"),
        ("DB_PASSWORD=pä\\ w", "pä w"),
    ] {
        let text = format!("DB_HOST=db\nDB_NAME=m # it's a comment\nDB_USER=\"app\"\n{line}");
        let settings = load_dev(&text).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(settings.pool.database.password.unwrap().expose(), password, "{line}");
    }
    assert!(!load_dev("DB_PASSWORD= # it's for later\n").unwrap().is_database_configured);
}

#[test]
fn a_mistyped_name_in_the_file_is_refused_with_the_nearest_known_one() {
    for (name, nearest) in [
        ("DB_POOL_MAX_CONECTIONS", "DB_POOL_MAX_CONNECTIONS"),
        ("DB_PASWORD", "DB_PASSWORD"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("db_host", "DB_HOST"),
        ("DB_POOL_IDLE_TIMEOUT", "DB_POOL_IDLE_TIMEOUT_S"),
    ] {
        let problems = problems_of(load_dev(format!("LOG_LEVEL=info\n{name}=5\n")));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].variable, name);
        assert_eq!(problems[0].value, "unknown variable in .env.dev line 2");
        assert_eq!(problems[0].allowed, format!("the nearest known name is {nearest}"));
    }
    // Others share the environment, and may share the file.
    load_dev("AWS_REGION=eu-central-1\n").unwrap();
    let foreign = variables(&[("DB_POOL_OF_ANOTHER_PROGRAM", "5"), ("DATABASE_YML", "x")]);
    Settings::load_from(Path::new("/nonexistent"), &foreign).unwrap();
}

#[test]
fn a_variable_set_twice_in_one_file_is_refused() {
    let problems = problems_of(load_dev("DB_POOL_MAX_WAITING=1\nLOG_LEVEL=info\nDB_POOL_MAX_WAITING=2\n"));
    assert_eq!(problems[0].variable, "DB_POOL_MAX_WAITING");
    assert_eq!(problems[0].value, "set in .env.dev line 1 and line 3");
}

#[test]
fn the_files_of_the_project_do_what_they_promise() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dev = Settings::load_from(root, &BTreeMap::new()).unwrap();
    assert!(!dev.is_database_configured);
    assert!(dev.http.tokens.iter().any(|token| token.name == "dev"));

    let preprod = variables(&[("APP_ENV", "preprod")]);
    let names = |result| problems_of(result).into_iter().map(|p| p.variable).collect::<Vec<_>>();
    assert_eq!(names(Settings::load_from(root, &preprod)), ["DB_HOST", "DB_NAME", "DB_USER", "API_TOKENS"]);
    let filled = variables(&[
        ("APP_ENV", "preprod"),
        ("DATABASE_URL", "postgres://app:mS8dQ2vL@db.internal/movies"),
        ("API_TOKENS", TOKEN),
    ]);
    Settings::load_from(root, &filled).unwrap();

    let template = std::fs::read_to_string(root.join(".env.production.template")).unwrap();
    let dir = with_file(".env.production", &template);
    let production = variables(&[("APP_ENV", "production")]);
    assert_eq!(
        names(Settings::load_from(dir.path(), &production)),
        ["DB_HOST", "DB_NAME", "DB_USER", "DB_PASSWORD", "DB_SSLROOTCERT", "API_TOKENS"]
    );
    for variable in VARIABLES {
        let is_there = template.lines().any(|line| {
            line.trim_start_matches("# ").split_once('=').is_some_and(|(name, _)| name == variable.name)
        });
        assert!(is_there, "{} is missing in the template", variable.name);
    }
}
