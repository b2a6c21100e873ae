//! Plain HTTP for the stories: every status is an answer, none is an error.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::support::App;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Request};

/// Longer than anything the service may take; a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The code of an error, and that the body is one: `{"error":{"code","message"}}` and nothing more.
    #[track_caller]
    pub(crate) fn error_code(&self) -> String {
        let body = self.json();
        let keys = |value: &Value| {
            value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        assert_eq!(
            (keys(&body), keys(&body["error"])),
            (vec!["error".into()], vec!["code".into(), "message".into()])
        );
        body["error"]["code"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("no message: {self:?}")).to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Without a token.
#[track_caller]
pub(crate) fn get(app: &App, path: &str) -> Answer {
    send(app, "GET", path, None, None)
}

/// With the app's token.
#[track_caller]
pub(crate) fn get_as_known(app: &App, path: &str) -> Answer {
    send(app, "GET", path, Some(&app.token), None)
}

/// With the app's token, and a body declared as JSON.
#[track_caller]
pub(crate) fn write(app: &App, method: &str, path: &str, body: &str) -> Answer {
    send(app, method, path, Some(&app.token), Some(body))
}

#[track_caller]
pub(crate) fn send(app: &App, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Answer {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(PATIENCE))
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(format!("{}{path}", app.base_url));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let outcome = match body {
        Some(body) => {
            agent.run(request.header("content-type", "application/json").body(body.to_owned()).unwrap())
        }
        None => agent.run(request.body(()).unwrap()),
    };
    let mut answer = outcome.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        text: answer.body_mut().read_to_string().unwrap(),
    }
}

/// Sends bytes as they are, for what no client library would; returns the status line's code.
#[track_caller]
pub(crate) fn raw_status(app: &App, request: &[u8]) -> u16 {
    let address = app.base_url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    let line = String::from_utf8_lossy(&first);
    line.strip_prefix("HTTP/1.1 ").and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}
