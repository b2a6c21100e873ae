//! Malformed requests to a small app.

use super::*;
use actix_web::App;
use actix_web::http::header::{ALLOW, CONTENT_TYPE};
use actix_web::test::{TestRequest, call_service, init_service, read_body_json};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Thing {
    size: u32,
}

async fn create(thing: web::Json<Thing>) -> String {
    thing.size.to_string()
}

async fn find(id: web::Path<u32>, filter: web::Query<Thing>) -> String {
    format!("{id} {}", filter.size)
}

fn routes(config: &mut ServiceConfig) {
    let things = web::resource("/things").route(web::post().to(create));
    config
        .configure(json_errors)
        .service(things.default_service(method_not_allowed("POST")))
        .service(web::resource("/things/{id}").route(web::get().to(find)));
}

#[actix_web::test]
async fn malformed_requests_get_json() {
    let app = init_service(App::new().configure(routes)).await;
    let post = |body: &str| {
        TestRequest::post()
            .uri("/things")
            .insert_header((CONTENT_TYPE, "application/json"))
            .set_payload(body.to_owned())
    };
    let exact = format!(r#"{{"size":7,"pad":"{}"}}"#, "x".repeat(MAX_BODY - 19));
    assert_eq!(exact.len(), MAX_BODY);
    let too_large = format!("{exact} ");
    let cases = [
        ("a good body", post(r#"{"size":7}"#), 200, "", ""),
        ("a body of exactly 1 MiB", post(&exact), 200, "", ""),
        ("a body of 1 MiB and a byte", post(&too_large), 413, "too_large", "1048576 bytes"),
        ("no JSON", post("{\n  nonsense"), 400, "invalid_json", "line 2 column 3"),
        ("JSON that breaks off", post(r#"{"size":"#), 400, "invalid_json", "line 1 column 8"),
        ("an empty body", post(""), 400, "invalid_json", "line 1 column 0"),
        ("bytes after the JSON", post(r#"{"size":7} x"#), 400, "invalid_json", "line 1 column 12"),
        ("a missing field", post("{}"), 422, "invalid", "missing field `size`"),
        ("a wrong type", post(r#"{"size":"big"}"#), 422, "invalid", "line 1 column 13"),
        ("a number too large", post(r#"{"size":99999999999}"#), 422, "invalid", "99999999999"),
        (
            "no content type",
            TestRequest::post().uri("/things").set_payload(r#"{"size":7}"#),
            415,
            "unsupported_media_type",
            "application/json",
        ),
        (
            "another content type",
            post(r#"{"size":7}"#).insert_header((CONTENT_TYPE, "text/plain")),
            415,
            "unsupported_media_type",
            "application/json",
        ),
        ("a good path", TestRequest::get().uri("/things/1?size=2"), 200, "", ""),
        (
            "text for a number in the path",
            TestRequest::get().uri("/things/x?size=2"),
            422,
            "invalid",
            "the path",
        ),
        (
            "text for a number in the query",
            TestRequest::get().uri("/things/1?size=x"),
            422,
            "invalid",
            "the query",
        ),
        ("nothing there", TestRequest::get().uri("/nothing"), 404, "not_found", "/nothing"),
        ("a slash too many", TestRequest::post().uri("/things/"), 404, "not_found", "/things/"),
    ];
    for (name, request, status, code, part) in cases {
        let answer = call_service(&app, request.to_request()).await;
        assert_eq!(answer.status().as_u16(), status, "{name}");
        if status >= 400 {
            let body: Value = read_body_json(answer).await;
            assert_eq!(body["error"]["code"], code, "{name}");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains(part), "{name}: {message}");
        }
    }
}

#[actix_web::test]
async fn a_wrong_method_gets_the_allowed_ones() {
    let app = init_service(App::new().configure(routes)).await;
    let answer = call_service(&app, TestRequest::delete().uri("/things").to_request()).await;
    assert_eq!(answer.status(), 405);
    assert_eq!(answer.headers().get(ALLOW).unwrap(), "POST");
    let body: Value = read_body_json(answer).await;
    assert_eq!(body["error"]["code"], "method_not_allowed");
    assert_eq!(body["error"]["message"], "DELETE is not possible here, only POST");
}

#[actix_web::test]
async fn another_limit_of_the_body_is_the_one_in_the_message() {
    let things = web::resource("/things").route(web::post().to(create));
    let own = web::resource("/own")
        .app_data(JsonConfig::default().limit(9).error_handler(|error, _| ApiError::from(error).into()))
        .route(web::post().to(create));
    let app = init_service(App::new().configure(json_errors_up_to(20)).service(things).service(own)).await;
    for (path, limit) in [("/things", 20), ("/own", 9)] {
        let body = format!(r#"{{"size":7,"pad":"{}"}}"#, "x".repeat(10));
        let request = TestRequest::post().uri(path).insert_header((CONTENT_TYPE, "application/json"));
        let response = call_service(&app, request.set_payload(body).to_request()).await;
        assert_eq!(response.status(), 413);
        let body: Value = read_body_json(response).await;
        assert_eq!(body["error"]["message"], format!("the body is larger than {limit} bytes"));
    }
}
