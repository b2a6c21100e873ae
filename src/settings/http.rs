//! The HTTP service's settings: where it listens, its limits, and the tokens it accepts.

use crate::error::{self, Problem, SettingsError};
use crate::settings::reader::{Reader, Source};
use crate::settings::secret::{MASK, OWN_SECRET, is_known_hash, is_placeholder, is_uniform};
use crate::settings::tier::Tier;
use crate::settings::variables::{
    API_TOKENS, HTTP_BIND, HTTP_REQUEST_TIMEOUT_MS, HTTP_SHUTDOWN_TIMEOUT_S, HTTP_WORKERS, METRICS_AUTH,
};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The HTTP service's settings: where it listens, its limits, and the tokens it accepts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HttpSettings {
    /// `HTTP_BIND`: address and port to listen on.
    pub bind: SocketAddr,
    /// `HTTP_WORKERS`: worker threads.
    pub workers: usize,
    /// `HTTP_SHUTDOWN_TIMEOUT_S`: how long requests in flight may take to finish at shutdown.
    pub shutdown_timeout: Duration,
    /// `HTTP_REQUEST_TIMEOUT_MS`: how long a request may take; `None` leaves it to the pool's limits.
    pub request_timeout: Option<Duration>,
    /// `API_TOKENS`: the accepted bearer tokens, by name. Empty in the dev tier only; every request that needs a token is
    /// refused then.
    pub tokens: Vec<ApiToken>,
    /// `METRICS_AUTH`: whether `/metrics` needs a token.
    pub metrics_auth: bool,
}

/// One accepted bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// The name that log lines show.
    pub name: String,
    /// The SHA-256 of the token, which itself is not kept.
    pub sha256: [u8; 32],
}

impl ApiToken {
    /// Hashes a token in plain text.
    pub fn new(name: impl Into<String>, token: &str) -> ApiToken {
        ApiToken { name: name.into(), sha256: Sha256::digest(token).into() }
    }

    /// Hashes a token that every tier accepts. A hash does not show whether its token is long enough, so the rules of production
    /// are applied here.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): what is wrong with the name or the token, without its text, and what is allowed.
    ///
    /// # Examples
    ///
    /// ```
    /// use poolhouse::settings::ApiToken;
    ///
    /// assert!(ApiToken::checked("ops", "too-short").is_err());
    /// let token = ApiToken::checked("ops", "0b5d3f1c9a7e4826d1f0b3c5a7e9d2f4")?;
    /// assert!(token.entry().starts_with("ops=sha256:"));
    /// # Ok::<(), poolhouse::Error>(())
    /// ```
    pub fn checked(name: &str, token: &str) -> error::Result<ApiToken> {
        let checked = match token {
            "" => Err(("is empty".to_owned(), OWN_SECRET.to_owned())),
            _ if token.starts_with("sha256:") => {
                Err(("is a hash already".to_owned(), "the token itself, or the hash as an entry".to_owned()))
            }
            _ => check_name(name).and_then(|()| check_secret(token, Tier::Production)),
        };
        checked.map(|()| ApiToken::new(name, token)).map_err(|(what, allowed)| {
            let value = format!("{MASK} (the token {what})");
            SettingsError { problems: vec![Problem { variable: API_TOKENS.name.to_owned(), value, allowed }] }
                .into()
        })
    }

    /// The entry of `API_TOKENS` that accepts the token: `name=sha256:<hex>`.
    pub fn entry(&self) -> String {
        let hex: String = self.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}=sha256:{hex}", self.name)
    }
}

/// Does not show the hash: a weak token can be guessed from it.
impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiToken").field("name", &self.name).field("sha256", &format_args!("{MASK}")).finish()
    }
}

pub(super) fn read(reader: &mut Reader) -> HttpSettings {
    let bind = reader.parse(&HTTP_BIND, |text| text.parse::<SocketAddr>().ok());
    let bind = reader.resolve(&HTTP_BIND, [bind], |text| text.parse().ok(), SocketAddr::to_string);

    let workers = reader.parse(&HTTP_WORKERS, |text| HTTP_WORKERS.allowed.count(text));
    let workers = match reader.resolve_optional(&HTTP_WORKERS, [workers], u32::to_string) {
        Some(winner) => winner.value as usize,
        None => {
            let parallelism = std::thread::available_parallelism().map_or(1, |n| n.get().min(256));
            reader.set_effective(&HTTP_WORKERS, parallelism.to_string(), Source::Default);
            parallelism
        }
    };
    let shutdown_timeout = reader.duration(&HTTP_SHUTDOWN_TIMEOUT_S, None);
    let request_timeout = reader.optional_duration(&HTTP_REQUEST_TIMEOUT_MS, None);
    let tokens = read_tokens(reader);
    let metrics_auth = reader.switch(&METRICS_AUTH);
    HttpSettings { bind, workers, shutdown_timeout, request_timeout, tokens, metrics_auth }
}

/// Reads the tokens. A problem identifies a token by its position: in a mistyped list its "name" may be part of a secret.
fn read_tokens(reader: &mut Reader) -> Vec<ApiToken> {
    let tier = reader.tier;
    let Some(raw) = reader.raw(&API_TOKENS) else {
        if tier != Tier::Dev {
            reader.report_missing(&API_TOKENS);
        }
        return Vec::new();
    };
    let mut tokens: Vec<ApiToken> = Vec::new();
    for (index, entry) in raw.text.split(',').enumerate() {
        let number = index + 1;
        let mut report = |what: String, allowed: &str| {
            reader.report(&API_TOKENS, format!("{MASK} (token {number} {what})"), allowed);
        };
        let token = match parse_token(entry.trim(), tier) {
            Ok(token) => token,
            Err((what, allowed)) => {
                report(what, &allowed);
                continue;
            }
        };
        if let Some(earlier) = tokens.iter().position(|other| other.name == token.name) {
            report(format!("has the name of token {}", earlier + 1), "a name of its own for each token");
        } else if let Some(earlier) = tokens.iter().position(|other| other.sha256 == token.sha256) {
            report(format!("is the same as token {}", earlier + 1), "each token once");
        }
        tokens.push(token);
    }
    let shown = tokens.iter().map(|token| format!("{}={MASK}", token.name)).collect::<Vec<_>>().join(", ");
    reader.set_effective(&API_TOKENS, shown, raw.source);
    tokens
}

/// Parses one entry of the list. The error is the problem and the allowed values.
fn parse_token(entry: &str, tier: Tier) -> Result<ApiToken, (String, String)> {
    let malformed = |what: &str| (what.to_owned(), API_TOKENS.allowed());
    let (name, token) = entry.split_once('=').unwrap_or(("default", entry));
    let (name, token) = (name.trim(), token.trim());
    if token.trim_matches('=').is_empty() {
        // Base64 can end in `==`, as `c2VjcmV0==` does; the token would be taken for a name.
        return Err(malformed("is empty; a bare token that holds = must be written default=token"));
    }
    check_name(name)?;
    if let Some(hex) = token.strip_prefix("sha256:") {
        let sha256 = parse_sha256(hex).ok_or_else(|| malformed("has no 64 hex digits after sha256:"))?;
        if tier == Tier::Production && is_known_hash(&sha256) {
            let allowed = format!("the hash of {OWN_SECRET}");
            return Err(("is the hash of a text that is no secret".to_owned(), allowed));
        }
        return Ok(ApiToken { name: name.to_owned(), sha256 });
    }
    check_secret(token, tier)?;
    Ok(ApiToken::new(name, token))
}

fn check_name(name: &str) -> Result<(), (String, String)> {
    let is_name_char = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match name.is_empty() || name.len() > 64 || !name.bytes().all(is_name_char) {
        true => Err((
            "has a name that is not 1 to 64 letters, digits, `.`, `_` or `-`".to_owned(),
            API_TOKENS.allowed(),
        )),
        false => Ok(()),
    }
}

/// Checks a token in plain text.
fn check_secret(token: &str, tier: Tier) -> Result<(), (String, String)> {
    if tier == Tier::Production && is_placeholder(token) {
        return Err(("is a placeholder".to_owned(), OWN_SECRET.to_owned()));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = "has a character that an Authorization header cannot carry";
        return Err((what.to_owned(), API_TOKENS.allowed()));
    }
    if token.len() < tier.min_token_length() {
        let allowed = format!("at least {} characters in the {tier} tier", tier.min_token_length());
        return Err((format!("has {} characters", token.len()), allowed));
    }
    if tier == Tier::Production && is_uniform(token.as_bytes()) {
        return Err(("has too few different characters".to_owned(), OWN_SECRET.to_owned()));
    }
    Ok(())
}

fn parse_sha256(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 64)
}
