//! Who may call what: the bearer tokens of `API_TOKENS`, over the wire.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::http::{get, raw_status, send};
use crate::support::App;

const FIRST: &str = "first-token-of-the-rotation-0123456789";
const SECOND: &str = "second-token-of-the-rotation-987654321";
/// `printf %s … | sha256sum` of [`SECOND`].
const SECOND_SHA256: &str = "51b7d5550b922815d128091161abf887c4ae102d9a7b2c76e47866709dd8df1d";

const WRONG: &str = "nobody-was-ever-given-this-token-4711";

const GUARDED: [(&str, &str); 6] = [
    ("GET", "/api/health/db"),
    ("GET", "/api/health/db/series?since=nonsense"),
    ("GET", "/api/health/db/test"),
    ("POST", "/api/movies"),
    ("PUT", "/api/movies/1"),
    ("DELETE", "/api/movies/1"),
];

#[test]
fn guarded_routes_ask_for_a_token_before_they_look_at_anything_else() {
    let app = App::start();
    let before = get(&app, "/api/movies/1").text;
    for (method, path) in GUARDED {
        for (token, error) in [(None, None), (Some(WRONG), Some("invalid_token"))] {
            // A body that would be refused as well, were it read.
            let body = (method != "GET").then_some("{nonsense");
            let answer = send(&app, method, path, token, body);
            assert_eq!(
                (answer.status, answer.error_code().as_str()),
                (401, "unauthorized"),
                "{method} {path}"
            );
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.starts_with("Bearer realm="), "{challenge}");
            match error {
                Some(error) => assert!(challenge.contains(error), "{challenge}"),
                None => assert!(!challenge.contains("error"), "{challenge}"),
            }
        }
    }
    assert_eq!(get(&app, "/api/movies/1").text, before, "nothing was written");
    let log = app.log();
    assert!(log.contains("refused requests with a wrong token"), "{log}");
    assert!(!log.contains(WRONG) && !log.contains(&app.token), "{log}");
}

#[test]
fn reading_needs_no_token() {
    let app = App::start();
    for path in ["/api/health", "/api/movies", "/api/movies/1"] {
        assert_eq!(get(&app, path).status, 200, "{path}");
        // And is not hurt by one that is wrong.
        assert_eq!(send(&app, "GET", path, Some("wrong"), None).status, 200, "{path}");
    }
}

#[test]
fn during_a_rotation_the_old_token_and_the_hashed_new_one_both_pass() {
    let tokens = format!("old={FIRST},new=sha256:{SECOND_SHA256}");
    let app = App::start_with(&[("API_TOKENS", &tokens)]);
    // A hash is no token.
    for (token, status) in [(FIRST, 200), (SECOND, 200), (SECOND_SHA256, 401), ("old", 401)] {
        let answer = send(&app, "GET", "/api/health/db", Some(token), None);
        assert_eq!(answer.status, status, "{token}");
    }
}

#[test]
fn a_malformed_authorization_header_is_a_401_and_never_a_crash() {
    let app = App::start();
    let good = format!("Bearer {}", app.token);
    let long = format!("Bearer {}", "x".repeat(10_000));
    let cases: [(&str, &[&[u8]], u16); 10] = [
        ("the good one", &[good.as_bytes()], 200),
        ("the good one twice", &[good.as_bytes(), good.as_bytes()], 401),
        ("another scheme", &[b"Basic dXNlcjpwYXNz"], 401),
        ("no scheme", &[app.token.as_bytes()], 401),
        ("nothing", &[b""], 401),
        ("the scheme alone", &[b"Bearer"], 401),
        ("spaces for a token", &[b"Bearer     "], 401),
        ("letters outside ASCII", &["Bearer pässwörd".as_bytes()], 401),
        ("bytes that are no UTF-8", &[b"Bearer \xff\xfe"], 401),
        ("10 kB", &[long.as_bytes()], 401),
    ];
    for (name, values, status) in cases {
        let mut request = b"GET /api/health/db HTTP/1.1\r\nhost: test\r\n".to_vec();
        for value in values {
            request.extend([b"authorization: ", *value, b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        assert_eq!(raw_status(&app, &request), status, "{name}");
    }
    assert_eq!(get(&app, "/api/health").status, 200, "it serves on");
}
