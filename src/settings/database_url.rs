//! Parses `DATABASE_URL`. The driver has a parser too, but it does not distinguish a missing port from 5432, does not know
//! `verify-full`, and takes an unescaped `@` anywhere in the text for the end of the password.

use crate::settings::secret::{MASK, Secret};
use crate::settings::tier::Tier;
use crate::settings::variables::{DB_CONNECT_TIMEOUT_S, DB_PORT, DB_SSLMODE, DB_TARGET_SESSION_ATTRS};
use percent_encoding::percent_decode_str;
use std::net::IpAddr;
use std::time::Duration;

/// The parts of a database URL; what it leaves out is `None` or empty.
#[derive(Default)]
pub(super) struct DatabaseUrl {
    pub(super) hosts: Vec<String>,
    /// As many as hosts; empty if the URL has no port at all.
    pub(super) ports: Vec<u16>,
    pub(super) name: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) sslmode: Option<&'static str>,
    pub(super) sslrootcert: Option<String>,
    pub(super) target_session_attrs: Option<&'static str>,
    pub(super) application_name: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
}

/// The problem with a URL. It never quotes the URL, any part of which may be part of a mistyped password; the one exception
/// is the name of a parameter, where that is impossible.
type Defect = String;

const ENCODE: &str = "write special characters in user, password and database as %XX, as in %40 for @";

impl DatabaseUrl {
    pub(super) fn parse(text: &str) -> Result<DatabaseUrl, Defect> {
        let rest = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
            .ok_or("it does not begin with postgres:// or postgresql://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains(['/', '@']) || authority.matches('@').count() > 1 {
            return Err(format!("it has a stray / or @; {ENCODE}"));
        }

        let mut url = DatabaseUrl { name: decode(path)?, ..DatabaseUrl::default() };
        let hosts = match authority.split_once('@') {
            Some((login, hosts)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                url.user = decode(user)?;
                url.password = decode(password)?.map(Secret::new);
                hosts
            }
            None => authority,
        };
        if !hosts.is_empty() {
            url.read_hosts(hosts)?;
        }
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            // With an @ after it, the ? was probably meant as part of the password.
            url.read_parameter(parameter, !query.contains('@'))?;
        }
        for (what, name) in
            [("database", &url.name), ("user", &url.user), ("application_name", &url.application_name)]
        {
            if name.as_deref().is_some_and(|name| !is_name(name)) {
                return Err(format!("the {what} is longer than 63 bytes"));
            }
        }
        Ok(url)
    }

    /// Returns the text that this was parsed from, with the password masked.
    pub(super) fn redact(&self, text: &str) -> String {
        let parts = || {
            let (scheme, rest) = text.split_once("://")?;
            // The first @ ends the login: `parse` refuses any other.
            let (login, rest) = rest.split_once('@')?;
            let (user, _) = login.split_once(':')?;
            Some(format!("{scheme}://{user}:{MASK}@{rest}"))
        };
        match &self.password {
            Some(_) => parts().unwrap_or_else(|| MASK.to_owned()),
            None => text.to_owned(),
        }
    }

    fn read_hosts(&mut self, hosts: &str) -> Result<(), Defect> {
        let mut ports = Vec::new();
        for (index, entry) in hosts.split(',').enumerate() {
            let (host, port) = match entry.strip_prefix('[') {
                Some(rest) => {
                    let (host, rest) = rest.split_once(']').ok_or("a [ is not closed")?;
                    let port = rest.strip_prefix(':');
                    if port.is_none() && !rest.is_empty() {
                        return Err("a ] is followed by something that is no :port".into());
                    }
                    (host, port)
                }
                None => entry.split_once(':').map_or((entry, None), |(host, port)| (host, Some(port))),
            };
            let host = decode(host)?.filter(|host| is_host(host));
            self.hosts.push(host.ok_or_else(|| format!("host {} is not a host name or address", index + 1))?);
            ports.push(match port {
                Some(port) => Some(parse_port(port).ok_or_else(|| {
                    format!("the port of host {} is not a number from 1 to 65535; {ENCODE}", index + 1)
                })?),
                None => None,
            });
        }
        if ports.iter().any(Option::is_some) {
            self.ports = ports.into_iter().map(|port| port.unwrap_or_else(default_port)).collect();
        }
        Ok(())
    }

    fn read_parameter(&mut self, parameter: &str, may_quote: bool) -> Result<(), Defect> {
        let (name, value) = parameter.split_once('=').ok_or("a parameter has no =")?;
        let value = decode(value)?;
        let text = value.as_deref().unwrap_or_default();
        let known = match name {
            "sslmode" => set(&mut self.sslmode, DB_SSLMODE.allowed.word(text)),
            "target_session_attrs" => {
                set(&mut self.target_session_attrs, DB_TARGET_SESSION_ATTRS.allowed.word(text))
            }
            "connect_timeout" => set(&mut self.connect_timeout, DB_CONNECT_TIMEOUT_S.allowed.duration(text)),
            "sslrootcert" => set(&mut self.sslrootcert, value),
            "application_name" => set(&mut self.application_name, value),
            _ => None,
        };
        match known {
            Some(Ok(())) => Ok(()),
            Some(Err(defect)) => Err(format!("the parameter {name} {defect}")),
            None if may_quote && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                Err(format!("the parameter {name} is not supported"))
            }
            None => Err(format!("it has a parameter that is not supported; {ENCODE}")),
        }
    }
}

/// Sets a parameter that is not set yet; `None` is a value that could not be parsed.
fn set<T>(slot: &mut Option<T>, value: Option<T>) -> Option<Result<(), &'static str>> {
    Some(match (&slot, value) {
        (Some(_), _) => Err("is given twice"),
        (None, None) => Err("has a value that is not allowed"),
        (None, value) => {
            *slot = value;
            Ok(())
        }
    })
}

/// Whether this is a host: a name, an address, or the directory of a Unix socket.
pub(super) fn is_host(text: &str) -> bool {
    if text.starts_with('/') {
        return !text.chars().any(char::is_control);
    }
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    !text.is_empty() && text.len() <= 253 && (is_name || text.parse::<IpAddr>().is_ok())
}

/// Whether this is a valid name of a database, user or application. The server truncates longer names.
pub(super) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The default port.
pub(super) fn default_port() -> u16 {
    let Some(port) = parse_port(DB_PORT.default_in(Tier::Dev)) else {
        unreachable!("bug: DB_PORT does not allow its own default")
    };
    port
}

pub(super) fn parse_port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}

/// Decodes `%XX`; `None` for the empty text, which counts as missing.
fn decode(text: &str) -> Result<Option<String>, Defect> {
    // The crate keeps a malformed escape unchanged, which would be a wrong password that only the login detects.
    let is_escape =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(is_escape) {
        return Err("a % is not followed by two hex digits; write %25 for % itself".into());
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "an escape is not UTF-8")?;
    if decoded.chars().any(char::is_control) {
        return Err("it has a control character".into());
    }
    Ok((!decoded.is_empty()).then(|| decoded.into_owned()))
}
