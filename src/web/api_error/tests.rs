//! The table of `ApiError`'s doc, and texts that a body must never contain.

use super::*;
use crate::error::{ConnectFailure, DecodeError, Interruption, PoolNumbers, Problem, SettingsError};
use actix_web::body::to_bytes;
use serde_json::Value;
use std::time::Duration;

const SECRETS: [&str; 4] = ["db.internal", "SELECT", "swordfish", "10.0.0.7"];

fn numbers() -> Box<PoolNumbers> {
    let text = "could not connect to db.internal (10.0.0.7), password swordfish".to_owned();
    let last_failure = Some(ConnectFailure::new(Duration::ZERO, Duration::ZERO, text));
    Box::new(PoolNumbers { last_failure, ..PoolNumbers::default() })
}

fn lost() -> Box<Interruption> {
    Interruption::new(Duration::ZERO, "SELECT swordfish at db.internal")
}

async fn answer(error: Error) -> (u16, Value, Option<String>) {
    let response = ApiError::from(error).error_response();
    let retry_after = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body()).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap(), retry_after)
}

#[actix_web::test]
async fn every_error_has_its_response_and_no_body_contains_a_secret() {
    let decode = DecodeError {
        column: "swordfish".to_owned(),
        postgres_type: "text".to_owned(),
        message: "SELECT".to_owned(),
    };
    let settings = SettingsError {
        problems: vec![Problem {
            variable: "DB_HOST".to_owned(),
            value: "db.internal".to_owned(),
            allowed: "-".to_owned(),
        }],
    };
    let cases = [
        (Error::NotInitialized, 500, "internal", None),
        (Error::AlreadyInitialized, 500, "internal", None),
        (Error::Settings(settings), 500, "internal", None),
        (Error::Exhausted(numbers()), 503, "exhausted", Some("1")),
        (Error::Suspended(numbers()), 503, "suspended", Some("1")),
        (Error::Saturated(numbers()), 503, "saturated", Some("1")),
        (Error::Down(numbers()), 503, "down", Some("5")),
        (Error::Authentication(numbers()), 503, "login_refused", Some("5")),
        (Error::Closed, 503, "closed", Some("5")),
        (Error::SelfDeadlock(numbers()), 500, "internal", None),
        (Error::DeadlineExceeded(lost()), 504, "deadline_exceeded", None),
        (Error::ConnectionLost(lost()), 503, "try_again", Some("1")),
        (Error::OutcomeUnknown(lost()), 500, "outcome_unknown", None),
        (Error::Decode(Box::new(decode)), 500, "internal", None),
        (Error::TooManyRows, 500, "internal", None),
        (Error::application("SELECT swordfish"), 500, "internal", None),
        (Error::application(ApiError::conflict("taken")), 409, "conflict", None),
    ];
    for (error, status, code, retry_after) in cases {
        let name = format!("{error:?}");
        let (actual, body, header) = answer(error).await;
        assert_eq!((actual, header.as_deref()), (status, retry_after), "{name}");
        assert_eq!(body["error"]["code"], code, "{name}");
        assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        assert_eq!(body.as_object().unwrap().len(), 1, "{name}");
        assert_eq!(body["error"].as_object().unwrap().len(), 2, "{name}");
        for secret in SECRETS {
            assert!(!body.to_string().contains(secret), "{name}: {body}");
        }
    }
}

#[test]
fn a_sqlstate_distinguishes_the_clients_mistake_from_ours() {
    type Case<'a> = (&'a [&'a str], bool, Option<(u16, &'a str)>);
    let cases: &[Case<'_>] = &[
        (&["23505", "23503", "23P01"], false, Some((409, "conflict"))),
        (&["23514", "23502", "22001", "22003", "22021", "22P02"], false, Some((422, "invalid"))),
        (&["57014"], false, Some((504, "deadline_exceeded"))),
        (&["40001", "40P01", "55P03", "53300", "57P01", "57P03"], true, Some((503, "try_again"))),
        // A table or column that does not exist, a syntax error, a missing right, and no SQLSTATE at all.
        (&["42P01", "42703", "42601", "42501", ""], false, None),
    ];
    for (sqlstates, is_transient, expected) in cases {
        for sqlstate in *sqlstates {
            let answer = from_sqlstate(sqlstate, *is_transient);
            let actual = answer.as_ref().map(|answer| (answer.status().as_u16(), answer.code()));
            assert_eq!(actual, *expected, "{sqlstate}");
        }
    }
}

#[test]
fn the_cause_is_kept_for_the_log() {
    let error = ApiError::from(Error::Down(numbers()));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("db.internal"), "{cause}");
}
