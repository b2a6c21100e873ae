//! The middleware with every kind of Authorization header.

use super::*;
use actix_web::http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use actix_web::test::{TestRequest, call_service, init_service, read_body_json};
use actix_web::{App, HttpRequest, web};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use std::sync::atomic::Ordering;

const FIRST: &str = "first-token-0123456789-0123456789-abc";
const SECOND: &str = "second-token-0123456789-0123456789-xy";

fn token(name: &str, text: &str) -> ApiToken {
    ApiToken { name: name.to_owned(), sha256: Sha256::digest(text).into() }
}

async fn token_name(request: HttpRequest) -> String {
    request.extensions().get::<TokenName>().map_or_else(|| "no token".to_owned(), |name| name.0.to_string())
}

/// Sends these Authorization headers to a guarded route; returns the status, the challenge and the body.
async fn ask(tokens: Vec<ApiToken>, headers: &[&[u8]]) -> (u16, Option<String>, String) {
    let auth = BearerAuth::new(tokens);
    let app = init_service(App::new().route("/", web::get().to(token_name).wrap(auth))).await;
    let mut request = TestRequest::get();
    for value in headers {
        request = request.append_header((
            HeaderName::from_static("authorization"),
            HeaderValue::from_bytes(value).unwrap(),
        ));
    }
    let answer = call_service(&app, request.to_request()).await;
    let challenge = answer.headers().get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    let body = actix_web::test::read_body(answer).await;
    (status, challenge, String::from_utf8(body.to_vec()).unwrap())
}

#[actix_web::test]
async fn each_of_several_tokens_passes_under_its_name() {
    let tokens = || vec![token("first", FIRST), token("second", SECOND)];
    for (header, name) in [
        (format!("Bearer {FIRST}"), "first"),
        (format!("Bearer {SECOND}"), "second"),
        (format!("bearer {FIRST}"), "first"),
        (format!("BEARER   {SECOND}"), "second"),
    ] {
        let (status, challenge, body) = ask(tokens(), &[header.as_bytes()]).await;
        assert_eq!((status, challenge, body.as_str()), (200, None, name), "{header}");
    }
}

#[actix_web::test]
async fn any_other_header_is_a_401_with_advice() {
    let good = format!("Bearer {FIRST}");
    let long = format!("Bearer {}", "x".repeat(10_000));
    let prefix = format!("Bearer {}", &FIRST[..FIRST.len() - 1]);
    let longer = format!("Bearer {FIRST}x");
    let other_case = format!("Bearer {}", FIRST.to_uppercase());
    let two_parts = format!("Bearer {FIRST} {SECOND}");
    let hex: String = Sha256::digest(FIRST).iter().map(|byte| format!("{byte:02x}")).collect();
    let as_hash = format!("Bearer sha256:{hex}");
    let (none, malformed, wrong) = (None, Some("invalid_request"), Some("invalid_token"));
    type Case<'a> = (&'a str, &'a [&'a [u8]], Option<&'a str>);
    let cases: &[Case<'_>] = &[
        ("no header", &[], none),
        ("an empty header", &[b""], malformed),
        ("another scheme", &[b"Basic dXNlcjpwYXNz"], malformed),
        ("the token alone", &[FIRST.as_bytes()], malformed),
        ("the scheme alone", &[b"Bearer"], malformed),
        ("the scheme and a space", &[b"Bearer "], malformed),
        ("the scheme and many spaces", &[b"Bearer      "], malformed),
        ("two tokens in one header", &[two_parts.as_bytes()], malformed),
        ("the good header twice", &[good.as_bytes(), good.as_bytes()], malformed),
        ("a good header, then another", &[good.as_bytes(), b"Basic dXNlcjpwYXNz"], malformed),
        ("a scheme that only begins alike", &[b"Bearerx abc"], malformed),
        ("a wrong token", &[b"Bearer wrong"], wrong),
        ("a prefix of the token", &[prefix.as_bytes()], wrong),
        ("the token and more", &[longer.as_bytes()], wrong),
        ("the token in another case", &[other_case.as_bytes()], wrong),
        ("the token's hash instead of the token", &[as_hash.as_bytes()], wrong),
        ("letters outside ASCII", &["Bearer pässwörd".as_bytes()], wrong),
        ("bytes that are no UTF-8", &[b"Bearer \xff\xfe\x80"], wrong),
        ("10 kB", &[long.as_bytes()], wrong),
    ];
    for (name, headers, error) in cases {
        let (status, challenge, body) = ask(vec![token("first", FIRST)], headers).await;
        assert_eq!(status, 401, "{name}");
        let expected = match error {
            Some(error) => format!(r#"Bearer realm="poolhouse", error="{error}""#),
            None => r#"Bearer realm="poolhouse""#.to_owned(),
        };
        assert_eq!(challenge, Some(expected), "{name}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"]["code"], "unauthorized", "{name}");
        assert!(!body.to_string().contains(FIRST), "{name}: {body}");
    }
}

#[actix_web::test]
async fn without_a_configured_token_every_request_is_refused() {
    for header in
        ["Bearer ", "Bearer x", "Bearer 0000000000000000000000000000000000000000000000000000000000000000"]
    {
        assert_eq!(ask(Vec::new(), &[header.as_bytes()]).await.0, 401, "{header:?}");
    }
}

#[actix_web::test]
async fn a_guarded_route_leaves_its_neighbours_open() {
    let auth = BearerAuth::new([token("first", FIRST)]);
    let resource =
        web::resource("/").route(web::get().to(token_name)).route(web::post().to(token_name).wrap(auth));
    let app = init_service(App::new().service(resource)).await;
    let open = call_service(&app, TestRequest::get().to_request()).await;
    assert_eq!(open.status(), 200);
    let refused = call_service(&app, TestRequest::post().to_request()).await;
    assert_eq!(refused.status(), 401);
    let body: Value = read_body_json(refused).await;
    assert_eq!(body["error"]["code"], "unauthorized");
}

#[test]
fn guesses_are_reported_together_with_their_number() {
    let refusals = LogThrottle::new(Duration::from_secs(10));
    assert_eq!(refusals.count(), Some(1));
    assert!((0..10_000).all(|_| refusals.count().is_none()));
    refusals.next_report.store(0, Ordering::Relaxed);
    assert_eq!(refusals.count(), Some(10_001));
}

/// Header values: arbitrary bytes, mixed with those that have a meaning.
fn header_value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b' '), Just(b'\t'), 0x21..=0x7e_u8, 0x80..=0xff_u8];
    let word = prop_oneof![
        Just(b"Bearer".to_vec()),
        Just(b"bearer ".to_vec()),
        Just(FIRST.as_bytes().to_vec()),
        Just(b"\"".to_vec()),
        Just(b",".to_vec()),
        vec(byte, 0..12),
    ];
    vec(word, 0..6).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn of_arbitrary_headers_only_the_token_passes(values in vec(header_value(), 0..3)) {
        let auth = BearerAuth::new([token("first", FIRST)]);
        let mut headers = HeaderMap::new();
        for value in &values {
            // A parser of HTTP leaves no spaces around a value.
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.trim_ascii()).unwrap());
        }
        let is_right = match &values[..] {
            [value] => {
                let value = value.trim_ascii();
                value.len() > 7
                    && value[..7].eq_ignore_ascii_case(b"bearer ")
                    && value[7..].trim_ascii() == FIRST.as_bytes()
            }
            _ => false,
        };
        prop_assert_eq!(auth.check(&headers).is_ok(), is_right, "{:?}", headers);
    }
}
