//! `/api/movies` as its users meet it, against the sample catalogue and films of their own.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::http::{Answer, get, raw_status, send, write};
use crate::support::App;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::thread;

/// Above every id of the sample catalogue.
const OURS: i32 = 2_000_000_000;

#[track_caller]
fn add(app: &App, movie: &Value) -> Answer {
    write(app, "POST", "/api/movies", &movie.to_string())
}

#[track_caller]
fn movies(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["movies"].as_array().unwrap().clone()
}

fn titles(app: &App, query: &str) -> Vec<String> {
    let answer = get(app, &format!("/api/movies?after={}&{query}", OURS - 1));
    movies(&answer).iter().map(|movie| movie["title"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_movie_is_added_read_replaced_and_removed() {
    let app = App::start();
    let path = format!("/api/movies/{OURS}");
    let movie =
        json!({"movie_id": OURS, "title": "Nothing Sacred", "year": 1937, "genres": ["Comedy", "Drama"]});
    assert_eq!(get(&app, &path).status, 404);

    let added = add(&app, &movie);
    assert_eq!((added.status, added.header("location")), (201, Some(path.as_str())));
    assert_eq!(added.json(), movie);
    assert_eq!(get(&app, &path).json(), movie);

    // A whole number is one however JSON spells it.
    let spelled = r#"{"movie_id": 2e9, "title": "Nothing Sacred", "year": 1937.0}"#;
    let spelled = write(&app, "PUT", &path, spelled);
    assert_eq!((spelled.status, &spelled.json()["year"]), (200, &json!(1937)), "{spelled:?}");

    // A replacement is whole: what it does not say is gone.
    let replaced = write(&app, "PUT", &path, r#"{"title": "  Nothing Left "}"#);
    let expected = json!({"movie_id": OURS, "title": "Nothing Left", "year": null, "genres": []});
    assert_eq!((replaced.status, replaced.json()), (200, expected.clone()));
    assert_eq!(get(&app, &path).json(), expected);
    let repeated = json!({"movie_id": OURS, "title": "Nothing Left"}).to_string();
    assert_eq!(write(&app, "PUT", &path, &repeated).status, 200);

    let removed = send(&app, "DELETE", &path, Some(&app.token), None);
    assert_eq!((removed.status, removed.text.as_str()), (204, ""));
    for answer in [
        get(&app, &path),
        write(&app, "PUT", &path, r#"{"title": "Nothing"}"#),
        send(&app, "DELETE", &path, Some(&app.token), None),
    ] {
        assert_eq!((answer.status, answer.error_code().as_str()), (404, "not_found"));
        assert_eq!(answer.message(), format!("there is no movie {OURS}"));
    }
}

#[test]
fn head_is_get_without_the_body() {
    let app = App::start();
    for path in [
        "/api/health",
        "/api/health/db",
        "/api/health/db/series",
        "/api/health/db/test",
        "/api/movies",
        "/api/movies/1",
        "/api/movies/0",
    ] {
        let [head, get] = ["HEAD", "GET"].map(|method| send(&app, method, path, Some(&app.token), None));
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert!(head.header("content-length").is_some_and(|length| length != "0"), "{path}: {head:?}");
    }
}

#[test]
fn of_many_inserts_of_one_id_at_once_one_succeeds_and_the_others_conflict() {
    let app = App::start();
    let movie = |number: usize| json!({"movie_id": OURS, "title": format!("Copy {number}")});
    let answers: Vec<Answer> = thread::scope(|scope| {
        let app = &app;
        let writers: Vec<_> = (0..8).map(|number| scope.spawn(move || add(app, &movie(number)))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let added: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
    assert_eq!(added.len(), 1, "{answers:?}");
    assert_eq!(get(&app, &format!("/api/movies/{OURS}")).json(), added[0].json());
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!((answer.status, answer.error_code().as_str()), (409, "conflict"));
        assert_eq!(answer.message(), format!("there is a movie {OURS} already"));
    }
}

#[test]
fn pages_follow_one_another_and_miss_nothing() {
    let app = App::start();
    for number in 0..7 {
        assert_eq!(
            add(&app, &json!({"movie_id": OURS + 10 * number, "title": format!("Part {number}")})).status,
            201
        );
    }
    let mut after = OURS - 1;
    let mut pages = Vec::new();
    loop {
        let answer = get(&app, &format!("/api/movies?after={after}&limit=3"));
        pages.push(
            movies(&answer).iter().map(|movie| movie["movie_id"].as_i64().unwrap()).collect::<Vec<_>>(),
        );
        match answer.json()["next_after"].as_i64() {
            Some(next) => after = i32::try_from(next).unwrap(),
            None => break,
        }
    }
    let ids: Vec<i64> = (0..7).map(|number| i64::from(OURS) + 10 * number).collect();
    assert_eq!(pages, [&ids[..3], &ids[3..6], &ids[6..]]);

    // A last page that is exactly full has no next one.
    let full = get(&app, &format!("/api/movies?after={after}&limit=1")).json();
    assert_eq!((full["movies"].as_array().unwrap().len(), &full["next_after"]), (1, &Value::Null));
    let beyond = get(&app, "/api/movies?after=2147483647").json();
    assert_eq!(beyond, json!({"movies": [], "next_after": null}));
}

#[test]
fn the_whole_catalogue_can_be_walked_and_a_page_has_20_movies_where_nobody_asks() {
    let app = App::start();
    assert_eq!(movies(&get(&app, "/api/movies")).len(), 20);
    let mut ids = BTreeSet::new();
    let mut after = 0;
    loop {
        let answer = get(&app, &format!("/api/movies?limit=100&after={after}"));
        for movie in movies(&answer) {
            let keys: Vec<_> = movie.as_object().unwrap().keys().cloned().collect();
            assert_eq!(keys, ["genres", "movie_id", "title", "year"]);
            assert!(ids.insert(movie["movie_id"].as_i64().unwrap()), "twice: {movie}");
        }
        match answer.json()["next_after"].as_i64() {
            Some(next) => after = next,
            None => break,
        }
    }
    let count: i64 = app.database().client().query_one("SELECT count(*) FROM movies", &[]).unwrap().get(0);
    assert_eq!(ids.len() as i64, count);
    assert!(count >= 100, "the sample catalogue has {count} movies");
}

#[test]
fn movies_are_found_by_the_words_of_their_title_by_genre_and_by_year() {
    let app = App::start();
    for (number, title, year, genres) in [
        (0, "Le Fabuleux Destin d'Amélie Poulain", 2001, json!(["Comedy", "Romance"])),
        (1, "Amelia", 2009, json!(["Drama"])),
        (2, "À bout de souffle", 1960, json!(["Crime", "Drama"])),
        (3, "2001: A Space Odyssey", 1968, json!(["Sci-Fi"])),
        (4, "Schindler's List", 1993, json!(["Drama", "War"])),
    ] {
        let movie = json!({"movie_id": OURS + number, "title": title, "year": year, "genres": genres});
        assert_eq!(add(&app, &movie).status, 201, "{movie}");
    }
    let (amelie, amelia) = ("Le Fabuleux Destin d'Amélie Poulain", "Amelia");
    let (breathless, odyssey, schindler) = ("À bout de souffle", "2001: A Space Odyssey", "Schindler's List");
    let cases: [(&str, &[&str]); 15] = [
        ("search=amelie", &[amelie]),
        ("search=AM%C3%89LIE", &[amelie]),
        ("search=ameli", &[amelie, amelia]),
        ("search=poulain+amelie", &[amelie]),
        ("search=poulain+odyssey", &[]),
        ("search=a+bout", &[breathless]),
        ("search=2001", &[odyssey]),
        ("search=space-odyssey!", &[odyssey]),
        ("search=schindlers", &[schindler]),
        ("search=schindler%27s+list", &[schindler]),
        ("genre=Drama", &[amelia, breathless, schindler]),
        ("genre=Sci-Fi", &[odyssey]),
        ("year=2001", &[amelie]),
        ("search=am&genre=Drama&year=2009", &[amelia]),
        ("search=am&genre=Drama&year=2001", &[]),
    ];
    for (query, expected) in cases {
        assert_eq!(titles(&app, query), expected, "{query}");
    }
    // Search text is text: no operator, quote or pattern of it means anything to the server.
    for hostile in
        ["a%27+OR+1=1--", "a:*+%7C+b", "%22a", "a%5C", "a%26%26b", "%28a", "a%3C-%3Eb", "%F0%9F%8E%AC+a"]
    {
        assert_eq!(get(&app, &format!("/api/movies?search={hostile}")).status, 200, "{hostile}");
    }
}

#[test]
fn bad_input_gets_its_status_and_a_message_and_changes_nothing() {
    let app = App::start();
    let id = format!("/api/movies/{OURS}");
    assert_eq!(add(&app, &json!({"movie_id": OURS, "title": "Witness"})).status, 201);
    let count =
        || app.database().client().query_one("SELECT count(*) FROM movies", &[]).unwrap().get::<_, i64>(0);
    let before = count();

    let reads = [
        ("/api/movies/0", 422, "movie_id: '0' is not a whole number from 1 to 2147483647"),
        ("/api/movies/-1", 422, "from 1 to 2147483647"),
        ("/api/movies/text", 422, "movie_id: 'text'"),
        ("/api/movies/1099511627776", 422, "from 1 to 2147483647"),
        ("/api/movies/2147483648", 422, "from 1 to 2147483647"),
        ("/api/movies/1.0", 422, "movie_id: '1.0'"),
        ("/api/movies/%2B1", 422, "from 1 to 2147483647"),
        ("/api/movies/%00", 422, "from 1 to 2147483647"),
        ("/api/movies/%FF", 422, "from 1 to 2147483647"),
        ("/api/movies/2147483647", 404, "there is no movie 2147483647"),
        ("/api/movies?limit=0", 422, "limit: '0' is not a whole number from 1 to 100"),
        ("/api/movies?limit=-1", 422, "from 1 to 100"),
        ("/api/movies?limit=1000000", 422, "from 1 to 100"),
        ("/api/movies?year=99999", 422, "year: '99999' is not a whole number from 1870 to 2200"),
        ("/api/movies?genre=Romcom", 422, "known are Action, Adventure, Animation"),
        ("/api/movies?search=%21%3F", 422, "has no letter and no digit"),
        ("/api/movies?search=a%00", 422, "U+0000"),
        ("/api/movies?after=-1", 422, "from 0 to 2147483647"),
        ("/api/movies?colour=red", 422, "'colour': unknown"),
        ("/api/movies/", 404, "/api/movies/"),
        ("/api/nothing", 404, "/api/nothing"),
        ("/", 404, "there is nothing at /"),
    ];
    for (path, status, part) in reads {
        let answer = get(&app, path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert!(answer.message().contains(part), "{path}: {}", answer.message());
    }

    let nul = r#"{"movie_id": 5, "title": "a\u0000b"}"#;
    let twice = r#"{"movie_id": 5, "movie_id": 6, "title": "x", "title": "x"}"#;
    let writes = [
        ("POST", "/api/movies", "{", 400, "line 1 column 1"),
        ("POST", "/api/movies", "", 400, "line 1 column 0"),
        ("POST", "/api/movies", "[]", 422, "expected a map"),
        ("POST", "/api/movies", "{}", 422, "movie_id: missing; title: missing"),
        ("POST", "/api/movies", r#"{"movie_id": 0, "title": ""}"#, 422, "title: must not be empty"),
        ("POST", "/api/movies", r#"{"movie_id": 1099511627776, "title": "x"}"#, 422, "from 1 to 2147483647"),
        ("POST", "/api/movies", r#"{"movie_id": 5, "title": "x", "year": 99999}"#, 422, "from 1870 to 2200"),
        (
            "POST",
            "/api/movies",
            r#"{"movie_id": 5, "title": "x", "genres": ["Fun"]}"#,
            422,
            "'Fun' is unknown",
        ),
        ("POST", "/api/movies", r#"{"movie_id": 5, "title": "x", "titel": "y"}"#, 422, "'titel': unknown"),
        ("POST", "/api/movies", nul, 422, "U+0000"),
        ("POST", "/api/movies", twice, 422, "movie_id: given more than once; title: given more than once"),
        ("PUT", &id, r#"{"movie_id": 5, "title": "x"}"#, 422, "is not the 2000000000 of the path"),
        ("PUT", &id, r#"{"title": " "}"#, 422, "title: must not be empty"),
        ("PUT", "/api/movies/0", r#"{"title": "x"}"#, 422, "from 1 to 2147483647"),
        ("PUT", &id, "{\"title\": \"\u{200b}\"}", 422, "title: has no visible character"),
        ("PUT", &id, "{\"title\": \"\u{2060} \u{301}\u{3164}\"}", 422, "title: has no visible character"),
        ("PUT", &id, r#"{"title": "x", "year": 1995.5}"#, 422, "year: '1995.5' is not a whole number"),
        ("POST", "/api/movies", r#"{"movie_id": 1e10, "title": "x"}"#, 422, "from 1 to 2147483647"),
    ];
    for (method, path, body, status, part) in writes {
        let answer = write(&app, method, path, body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text);
        assert!(answer.message().contains(part), "{method} {path} {body}: {}", answer.message());
    }

    let undeclared =
        format!("POST /api/movies HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\n", app.token);
    let undeclared = undeclared + "content-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(raw_status(&app, undeclared.as_bytes()), 415);
    let patched = write(&app, "PATCH", "/api/movies", "{}");
    assert_eq!((patched.status, patched.header("allow")), (405, Some("GET, HEAD, POST")));
    let posted = write(&app, "POST", &id, "{}");
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD, PUT, DELETE")));

    assert_eq!(count(), before);
    assert_eq!(get(&app, &id).json()["title"], "Witness");
}

#[test]
fn a_body_of_1_mib_is_read_and_one_byte_more_is_not() {
    let app = App::start();
    // Spaces are legal around JSON: the size is the only thing wrong.
    let movie = json!({"movie_id": OURS, "title": "Large"}).to_string();
    let exact = format!("{movie}{}", " ".repeat(1024 * 1024 - movie.len()));
    let above = format!("{exact} ");

    let refused = write(&app, "POST", "/api/movies", &above);
    assert_eq!((refused.status, refused.error_code().as_str()), (413, "too_large"));
    assert!(refused.message().contains("1048576 bytes"), "{}", refused.message());
    assert_eq!(write(&app, "POST", "/api/movies", &exact).status, 201);
}

#[test]
fn titles_of_every_script_come_back_as_they_were_sent() {
    let app = App::start();
    let longest = "界".repeat(500);
    let titles = [
        "七人の侍",
        "Ёлки",
        "عمر المختار",
        "…And Justice for All",
        "\"Quoted\", 'and' \\ more",
        "👾🎬",
        "%00",
        &longest,
    ];
    for (number, title) in (0..).zip(titles) {
        let movie = json!({"movie_id": OURS + number, "title": title, "year": null, "genres": []});
        assert_eq!(add(&app, &movie).status, 201, "{title}");
        assert_eq!(get(&app, &format!("/api/movies/{}", OURS + number)).json(), movie);
    }
}
