//! The question to the service, and why there may be no answer to it. It knows nothing of what the answer means.

use crate::cli::Failure;
use crate::log_lines::escaped;
use serde_json::Value;
use std::time::Duration;
use ureq::{Agent, Error};

/// The whole status. `since` leaves out the steps of the last minutes: no step is as late.
const PATH: &str = "/api/health/db/series?since=18446744073709551615";

/// The longest answer that is read: the service bounds its own to less.
const MAX_ANSWER: u64 = 4 << 20;

/// A running service, and the token to ask it with.
#[derive(Clone)]
pub(super) struct Service {
    url: String,
    token: String,
    timeout: Duration,
    agent: Agent,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// It may answer later.
    Unreachable(String),
    /// It answers, and will not answer this question.
    Refused(String),
}

impl From<NoAnswer> for Failure {
    fn from(error: NoAnswer) -> Failure {
        match error {
            NoAnswer::Unreachable(text) | NoAnswer::Refused(text) => Failure::Failed(text),
        }
    }
}

impl Service {
    /// Does not connect yet.
    pub(super) fn new(url: &str, token: String, timeout: Duration) -> Result<Service, Failure> {
        let refuse = |what: &str| {
            let url = escaped(url);
            Err(Failure::Settings(format!(
                "the address '{url}' {what}, as in http://127.0.0.1:5000 is right"
            )))
        };
        let Some(rest) = url.strip_prefix("http://") else {
            return refuse(match url.starts_with("https://") {
                true => "asks for TLS, which the service does not speak: its own address",
                false => "does not begin with http://: one",
            });
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let has_port = authority.rsplit_once(':').is_none_or(|(host, port)| {
            !host.is_empty()
                && (host.starts_with('[') && !host.contains(']')
                    || port.ends_with(']')
                    || port.parse::<u16>().is_ok())
        });
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._~:[]/".contains(c);
        if authority.is_empty() || !has_port || !rest.chars().all(is_host) {
            return refuse("is not a host and a port: one");
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(timeout))
            // Neither a proxy nor another host may see the token.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .new_agent();
        Ok(Service { url: url.trim_end_matches('/').to_owned(), token, timeout, agent })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Asks, at most for the timeout.
    pub(super) fn ask(&self) -> Result<Value, NoAnswer> {
        let request = self.agent.get(format!("{}{PATH}", self.url));
        let mut response = request
            .header("Authorization", format!("Bearer {}", self.token))
            .call()
            .map_err(|error| self.no_answer(&error))?;
        match response.status().as_u16() {
            200 => {}
            401 => {
                return Err(NoAnswer::Refused(format!(
                    "the service at {} does not accept this token (401): it must be one of the service's API_TOKENS, the token \
                     itself and not its hash",
                    self.url
                )));
            }
            code @ (502..=504) => {
                return Err(NoAnswer::Unreachable(format!(
                    "{} answers {code}: is the service behind it running?",
                    self.url
                )));
            }
            code => return Err(self.is_not_poolhouse(&format!("status {code}"))),
        }
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let body = body.map_err(|error| match error {
            Error::BodyExceedsLimit(_) => self.is_not_poolhouse(&format!("more than {MAX_ANSWER} bytes")),
            error => self.no_answer(&error),
        })?;
        serde_json::from_str(&body).map_err(|_| self.is_not_poolhouse("no JSON"))
    }

    pub(super) fn is_not_poolhouse(&self, answer: &str) -> NoAnswer {
        NoAnswer::Refused(escaped(&format!(
            "what listens at {} is not a poolhouse service of this version: GET /api/health/db/series was answered with \
             {answer}. Give the address of `poolhouse serve`, as in `poolhouse status http://127.0.0.1:5000`",
            self.url
        )))
    }

    fn no_answer(&self, error: &Error) -> NoAnswer {
        let (url, seconds) = (&self.url, self.timeout.as_secs());
        match error {
            Error::Timeout(_) => NoAnswer::Unreachable(format!(
                "the service at {url} has not answered within {seconds} s: it may be overloaded or stopped; --timeout waits longer"
            )),
            Error::Protocol(_) | Error::Http(_) => {
                self.is_not_poolhouse(&format!("something else than HTTP ({error})"))
            }
            Error::HostNotFound => {
                NoAnswer::Unreachable(format!("no host of the name in {url}: is it spelled right?"))
            }
            error => NoAnswer::Unreachable(escaped(&format!(
                "nothing answers at {url} ({error}): is `poolhouse serve` running there?"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_with_a_host() {
        let new = |url| Service::new(url, String::new(), Duration::from_secs(1));
        for url in [
            "http://127.0.0.1:5000",
            "http://[::1]:5000/",
            "http://[::1]",
            "http://db.example",
            "http://proxy:80/pool/",
        ] {
            assert!(new(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "127.0.0.1:5000",
            "https://127.0.0.1",
            "http://",
            "http:///x",
            "http://a:b",
            "http://a:70000",
            "http://user@host",
            "http://a b",
            "http://a?x",
            "http://a/\u{1b}[2J",
        ] {
            assert!(new(url).is_err(), "{url}");
        }
    }
}
