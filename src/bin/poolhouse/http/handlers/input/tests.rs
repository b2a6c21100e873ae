//! Every way to ask for something that cannot be, and what the answer says about it.

use super::*;
use serde_json::json;

fn problems(error: ApiError) -> String {
    assert_eq!((error.status().as_u16(), error.code()), (422, "invalid"));
    error.message().to_owned()
}

fn body(value: Value) -> Body {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_good_query_string_is_read() {
    let all = "search=toy+story&genre=Sci-Fi&year=1995&after=7&limit=100";
    let (filter, limit) = movie_filter(all).unwrap();
    let expected = MovieFilter {
        search: Some("toy story".to_owned()),
        genre: Some("Sci-Fi".to_owned()),
        year: Some(1995),
        after: 7,
    };
    assert_eq!((filter, limit), (expected, 100));
    for nothing in ["", "search=&genre=&year=&after=&limit=", "limit=20", "after=0"] {
        assert_eq!(movie_filter(nothing).unwrap(), (MovieFilter::default(), 20), "{nothing:?}");
    }
    assert_eq!(movie_filter("search=am%C3%A9lie").unwrap().0.search.as_deref(), Some("amélie"));
}

#[test]
fn a_bad_query_string_is_refused_with_what_is_wrong() {
    let long = format!("search={}", "x".repeat(201));
    let cases = [
        ("limit=0", "limit: '0' is not a whole number from 1 to 100"),
        ("limit=-1", "limit: '-1' is not a whole number from 1 to 100"),
        ("limit=1000000", "limit: '1000000' is not a whole number from 1 to 100"),
        ("limit=ten", "limit: 'ten' is not a whole number from 1 to 100"),
        ("limit=%2B5", "limit: '+5' is not a whole number from 1 to 100"),
        ("limit=5.0", "limit: '5.0' is not a whole number from 1 to 100"),
        ("limit=-", "limit: '-' is not a whole number from 1 to 100"),
        ("limit=99999999999999999999", "limit: '99999999999999999999' is not a whole number"),
        ("year=99999", "year: '99999' is not a whole number from 1870 to 2200"),
        ("year=1869", "year: '1869' is not a whole number from 1870 to 2200"),
        ("after=-1", "after: '-1' is not a whole number from 0 to 2147483647"),
        ("after=2147483648", "after: '2147483648' is not a whole number from 0 to 2147483647"),
        ("genre=comedy", "genre: 'comedy' is unknown, known are Action, Adventure, Animation"),
        ("genre=Romcom", "War, Western"),
        ("search=!%3F", "search: '!?' has no letter and no digit"),
        ("search=%20", "search: ' ' has no letter and no digit"),
        ("search=a%00b", "search: has the control character U+0000"),
        (long.as_str(), "search: has 201 characters, at most 200 may be"),
        ("titel=x", "'titel': unknown, known are search, genre, year, after, limit"),
        ("titel=", "'titel': unknown"),
        ("limit=5&limit=6", "limit: given more than once"),
        ("limit=0&year=1&x=y", "limit: '0' is not a whole number from 1 to 100; year: '1' is not"),
    ];
    for (query, part) in cases {
        let message = problems(movie_filter(query).unwrap_err());
        assert!(message.contains(part), "{query}: {message}");
    }
}

#[test]
fn of_many_problems_the_first_are_reported_and_the_rest_is_counted() {
    let message = problems(movie_filter(&"a&".repeat(30_000)).unwrap_err());
    assert!(message.len() < 4096, "{} bytes", message.len());
    assert!(message.ends_with("; … and 29980 more"), "{message}");
    let fields: Value = (0..30_000).map(|number| (format!("f{number}"), json!(1))).collect();
    let message = problems(movie(&body(fields), Some(7)).unwrap_err());
    // The missing title too.
    assert!(message.len() < 4096 && message.ends_with("; … and 29981 more"), "{message}");
}

#[test]
fn a_good_body_is_read() {
    let full = json!({"movie_id": 7, "title": "  Alien\u{a0}", "year": 1979, "genres": ["Horror", "Sci-Fi"]});
    let expected = Movie {
        movie_id: 7,
        title: "Alien".to_owned(),
        year: Some(1979),
        genres: vec!["Horror".to_owned(), "Sci-Fi".to_owned()],
    };
    assert_eq!(movie(&body(full), None).unwrap(), expected);

    let least = Movie { movie_id: 7, title: "Alien".to_owned(), year: None, genres: Vec::new() };
    for (value, path_id) in [
        (json!({"movie_id": 7, "title": "Alien"}), None),
        (json!({"movie_id": 7, "title": "Alien", "year": null, "genres": []}), None),
        (json!({"title": "Alien"}), Some(7)),
        (json!({"movie_id": 7, "title": "Alien"}), Some(7)),
    ] {
        assert_eq!(movie(&body(value.clone()), path_id).unwrap(), least, "{value}");
    }
    let longest = json!({"movie_id": 1, "title": "é".repeat(500)});
    assert_eq!(movie(&body(longest), None).unwrap().title.chars().count(), 500);
}

#[test]
fn a_bad_body_is_refused_with_everything_that_is_wrong() {
    let good = |name: &str, value: Value| {
        let mut movie = json!({"movie_id": 7, "title": "Alien"});
        movie[name] = value;
        body(movie)
    };
    let cases = [
        (body(json!({})), "movie_id: missing; title: missing"),
        (good("movie_id", json!(0)), "movie_id: '0' is not a whole number from 1 to 2147483647"),
        (good("movie_id", json!(-1)), "movie_id: '-1' is not"),
        (good("movie_id", json!(1_i64 << 40)), "movie_id: '1099511627776' is not"),
        (good("movie_id", json!(1.5)), "movie_id: '1.5' is not"),
        (good("movie_id", json!("7")), "movie_id: '\"7\"' is not"),
        (good("movie_id", json!(null)), "movie_id: 'null' is not"),
        (good("title", json!("")), "title: must not be empty"),
        (good("title", json!(" \t\n\u{3000}")), "title: must not be empty"),
        (good("title", json!("a\u{0}b")), "title: has the control character U+0000"),
        (good("title", json!("a\nb")), "title: has the control character U+000A"),
        (good("title", json!("x".repeat(501))), "title: has 501 characters, at most 500 may be"),
        (good("title", json!(["Alien"])), "title: '[\"Alien\"]' is not a text"),
        (good("title", json!(null)), "title: 'null' is not a text"),
        (good("year", json!(99999)), "year: '99999' is not a whole number from 1870 to 2200"),
        (good("year", json!("1979")), "year: '\"1979\"' is not"),
        (good("genres", json!("Horror")), "genres: '\"Horror\"' is not a list of texts"),
        (good("genres", json!(null)), "genres: 'null' is not a list of texts"),
        (good("genres", json!([1])), "genres: '1' is not a text"),
        (good("genres", json!(["Horror", "Fun"])), "genre: 'Fun' is unknown, known are Action"),
        (good("genres", json!(["War", "War"])), "genres: War is given more than once"),
        (good("titel", json!(1)), "'titel': unknown, known are movie_id, title, year, genres"),
        (good(&"k".repeat(90), json!(1)), "kkkk…': unknown"),
        (
            body(json!({"movie_id": 0, "title": " ", "year": 1, "genres": ["?"], "x": 1})),
            "'x': unknown, known are movie_id, title, year, genres; movie_id: '0' is not a whole number from 1 to \
             2147483647; title: must not be empty; year: '1' is not a whole number from 1870 to 2200; genre: '?'",
        ),
    ];
    for (body, part) in cases {
        let message = problems(movie(&body, None).unwrap_err());
        assert!(message.contains(part), "{body:?}: {message}");
    }
    let other = problems(movie(&body(json!({"movie_id": 8, "title": "Alien"})), Some(7)).unwrap_err());
    assert!(other.contains("movie_id: '8' is not the 7 of the path"), "{other}");
}
