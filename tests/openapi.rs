//! The description of the HTTP surface, `docs/openapi.json`, against the routes and their answers.

use crate::support::app::App;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn description() -> Value {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json"));
    serde_json::from_str(&text.unwrap()).unwrap()
}

/// The methods of each described path.
fn described(description: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let paths = description["paths"].as_object().unwrap().iter();
    paths
        .map(|(path, item)| {
            (path.clone(), item.as_object().unwrap().keys().map(|it| it.to_uppercase()).collect())
        })
        .collect()
}

/// The paths in the sources of the routes: each text that is passed to `resource`, and the files of the live page.
fn routed() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = [sources(&root.join("src/bin/poolhouse/http")), sources(&root.join("src/web"))].concat();
    let mut paths = BTreeSet::new();
    for (file, text) in sources {
        let text = text.split("#[cfg(test)]").next().unwrap();
        let (before, prefix) = match file {
            _ if file.ends_with("/health_routes.rs") => ("resource(\"", "/api/health"),
            _ if file.ends_with("/dashboard/mod.rs") => ("(\"/dashboard", "/dashboard"),
            _ => {
                let (all, literal) = ("web::resource(", "web::resource(\"");
                assert_eq!(
                    text.matches(all).count(),
                    text.matches(literal).count(),
                    "{file}: a path is no literal"
                );
                (literal, "")
            }
        };
        // Documentation mounts routes of its own.
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let rests = code.filter_map(|line| line.split_once(before)).map(|(_, rest)| rest);
        paths.extend(rests.map(|rest| format!("{prefix}{}", rest.split('"').next().unwrap())));
    }
    paths
}

/// The names and texts of the Rust files below a directory, but for tests.
fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let is_rust = path.extension().is_some_and(|it| it == "rs");
        match path.file_stem().is_some_and(|name| name == "tests") {
            true => {}
            false if path.is_dir() => found.extend(sources(&path)),
            false if is_rust => found.push((path.display().to_string(), fs::read_to_string(&path).unwrap())),
            false => {}
        }
    }
    found
}

#[test]
fn every_route_and_method_is_described_and_nothing_else() {
    let description = description();
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    let described = described(&description);
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), routed());

    let app = App::start();
    let (code, served) = app.get("/api/openapi.json");
    assert_eq!((code, serde_json::from_str::<Value>(&served).unwrap()), (200, description));
    for (path, methods) in described {
        let path = path.replace("{movie_id}", "1").replace("{document_id}", "1");
        let answer = send(&app, "OPTIONS", &path, None, None);
        assert_eq!(answer.code, 405, "{path}");
        let allowed: BTreeSet<_> = answer.allow.split(", ").map(str::to_owned).collect();
        assert_eq!(allowed, methods, "{path}");
    }
}

struct Answer {
    code: u16,
    allow: String,
    media_type: String,
    body: String,
}

fn send(app: &App, method: &str, path: &str, token: Option<&str>, body: Option<(&str, &str)>) -> Answer {
    let config = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true);
    let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", app.base_url));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let agent = ureq::Agent::new_with_config(config.build());
    let answer = match body {
        Some((media_type, text)) => {
            agent.run(request.header("content-type", media_type).body(text.to_owned()).unwrap())
        }
        None => agent.run(request.body(()).unwrap()),
    };
    let mut answer = answer.unwrap();
    let header = |name| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let (allow, media_type) = (header("allow"), header("content-type"));
    Answer {
        code: answer.status().as_u16(),
        allow,
        media_type,
        body: answer.body_mut().read_to_string().unwrap(),
    }
}

/// What the description has for this answer; `$ref`s to responses are followed.
fn response<'a>(description: &'a Value, method: &str, path: &str, code: u16) -> &'a Value {
    let found = &description["paths"][path][method.to_lowercase()]["responses"][code.to_string()];
    match found["$ref"].as_str() {
        Some(place) => description.pointer(place.trim_start_matches('#')).unwrap(),
        None => found,
    }
}

#[test]
fn real_answers_are_as_described() {
    let description = description();
    let app = App::start();
    let movie = json!({"movie_id": 9001, "title": "My Film", "year": 2024, "genres": ["Drama"]}).to_string();
    let document = json!({"source": "a", "text": "A pool lends connections."}).to_string();
    let (movie, document) = (Some(("application/json", &*movie)), Some(("application/json", &*document)));
    let (one, all) = ("/api/movies/{movie_id}", "/api/movies");
    let (document_one, documents) = ("/api/documents/{document_id}", "/api/documents");
    let token = Some(app.token.as_str());
    for (method, path, example, token, body, code) in [
        ("GET", "/api/health", "", None, None, 200),
        ("GET", "/api/health", "?", None, None, 200),
        ("GET", "/api/health/ready", "", None, None, 200),
        ("GET", "/api/health/db/test", "", token, None, 200),
        ("GET", all, "?limit=2", None, None, 200),
        ("GET", all, "?limit=0", None, None, 422),
        ("GET", one, "336", None, None, 200),
        ("GET", one, "9001", None, None, 404),
        ("POST", all, "", None, movie, 401),
        ("POST", all, "", token, movie, 201),
        ("POST", all, "", token, movie, 409),
        ("POST", all, "", token, Some(("application/json", "{")), 400),
        ("POST", all, "", token, Some(("text/plain", "{}")), 415),
        ("PUT", one, "9001", token, movie, 200),
        ("DELETE", one, "9001", token, None, 204),
        ("POST", documents, "", token, document, 201),
        ("POST", documents, "?source=b", token, Some(("text/markdown", "# Pools")), 201),
        ("POST", documents, "", token, document, 409),
        ("GET", documents, "", None, None, 200),
        ("GET", documents, "?search=pool&limit=1", None, None, 200),
        ("GET", documents, "?search=the", None, None, 422),
        ("GET", document_one, "1", None, None, 200),
        ("GET", document_one, "1?chunks=false", None, None, 200),
        ("DELETE", document_one, "1", token, None, 204),
        ("DELETE", document_one, "1", token, None, 404),
        ("GET", "/api/health/db", "", None, None, 401),
        ("GET", "/api/health/db", "", token, None, 200),
        ("GET", "/api/health/db/series", "", token, None, 200),
        ("GET", "/api/health/db/series", "?since=x", token, None, 422),
        ("GET", "/api/openapi.json", "", None, None, 200),
        ("GET", "/metrics", "", token, None, 200),
        ("GET", "/dashboard", "", None, None, 200),
        ("GET", "/dashboard/page.css", "", None, None, 200),
        ("GET", "/dashboard/page.js", "", None, None, 200),
    ] {
        let address = path.split('{').next().unwrap().to_owned() + example;
        let answer = send(&app, method, &address, token, body);
        let place = format!("{method} {address}: {} {}", answer.code, answer.body);
        assert_eq!(answer.code, code, "{place}");
        let response = response(&description, method, path, code);
        assert!(response.is_object(), "{place} is not described");
        let Some(content) = response["content"].as_object() else {
            assert_eq!(answer.body, "", "{place}");
            continue;
        };
        assert!(content.contains_key(&answer.media_type), "{} of {place}", answer.media_type);
        if answer.media_type == "application/json" {
            check(&description, &content["application/json"]["schema"], &answer.body, &place);
        }
    }
}

#[test]
fn the_answers_of_a_service_without_a_database_are_as_described() {
    let description = description();
    let nowhere = "postgres://me@127.0.0.1:1/movies?sslmode=disable";
    let app = App::launch(tempfile::tempdir().unwrap(), &[("DATABASE_URL", nowhere), ("DB_START", "wait")]);
    for (path, code) in [
        ("/api/health/ready", 503),
        ("/api/health/db", 503),
        ("/api/health/db/series", 200),
        ("/api/health/db/test", 503),
        ("/api/movies", 503),
    ] {
        let answer = send(&app, "GET", path, Some(&app.token), None);
        assert_eq!(answer.code, code, "{path}: {}", answer.body);
        let schema = &response(&description, "GET", path, code)["content"]["application/json"]["schema"];
        check(&description, schema, &answer.body, path);
    }
}

/// Validates a body. The schema's `$ref`s are into the description's components.
#[track_caller]
fn check(description: &Value, schema: &Value, body: &str, place: &str) {
    assert!(schema.is_object(), "{place} has no schema");
    let whole = json!({"allOf": [schema], "components": description["components"]});
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&whole).unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let errors: Vec<_> =
        validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{place}: {errors:?}");
}
