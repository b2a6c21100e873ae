//! Builds the database's settings from `DATABASE_URL` and the `DB_*` variables, which may complete and must not contradict
//! each other; from a URL alone too.

use crate::error::{Error, Result, SettingsError};
use crate::settings::database::DatabaseSettings;
use crate::settings::database_url::{DatabaseUrl, default_port, is_host, is_name, parse_port};
use crate::settings::modes::{SslMode, TargetSessionAttrs};
use crate::settings::reader::{Parsed, RawValue, Reader, Source};
use crate::settings::secret::{MASK, OWN_SECRET, Secret, is_placeholder};
use crate::settings::tier::Tier;
use crate::settings::variables::{
    DATABASE_URL, DB_APPLICATION_NAME, DB_HOST, DB_NAME, DB_PASSWORD, DB_PORT, DB_SSLMODE, DB_SSLROOTCERT,
    DB_TARGET_SESSION_ATTRS, DB_USER, Variable,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The variables that identify the database, as opposed to those that describe how to talk to it.
const IDENTITY: [&Variable; 6] = [&DATABASE_URL, &DB_HOST, &DB_PORT, &DB_NAME, &DB_USER, &DB_PASSWORD];

impl DatabaseSettings {
    /// Parses a URL in the form of `DATABASE_URL`; what it leaves out has its default. [`FromStr`] does the same.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): the URL is malformed; it has no host, database or user; it has
    ///   `connect_timeout`, which is a field of [`PoolSettings`](super::PoolSettings).
    ///
    /// # Examples
    ///
    /// ```
    /// use poolhouse::DatabaseSettings;
    ///
    /// let database = DatabaseSettings::parse("postgres://app:s%40fe@db1,db2:6432/movies?sslmode=require")?;
    /// assert_eq!(database.to_string(), "db1:5432,db2:6432/movies");
    /// # Ok::<(), poolhouse::Error>(())
    /// ```
    pub fn parse(url: &str) -> Result<DatabaseSettings> {
        let raw = RawValue { text: url.trim().to_owned(), source: Source::Environment };
        let mut reader = Reader::new(Tier::Dev, BTreeMap::from([(DATABASE_URL.name.to_owned(), raw)]));
        let read = read(&mut reader);
        if read.connect_timeout.is_some() {
            reader.report(
                &DATABASE_URL,
                "has connect_timeout",
                "a URL without it; set PoolSettings::connect_timeout instead",
            );
        }
        match reader.finish().1 {
            problems if problems.is_empty() => Ok(read.database),
            problems => Err(SettingsError { problems }.into()),
        }
    }
}

impl FromStr for DatabaseSettings {
    type Err = Error;

    /// Parses a URL, as [`DatabaseSettings::parse`] does.
    ///
    /// # Errors
    ///
    /// As [`DatabaseSettings::parse`].
    fn from_str(url: &str) -> Result<DatabaseSettings> {
        DatabaseSettings::parse(url)
    }
}

pub(super) struct ReadDatabase {
    pub(super) database: DatabaseSettings,
    pub(super) is_configured: bool,
    /// The URL's connect timeout: a candidate for the pool's.
    pub(super) connect_timeout: Option<Parsed<Duration>>,
}

pub(super) fn read(reader: &mut Reader) -> ReadDatabase {
    let is_configured = IDENTITY.iter().any(|variable| reader.raw(variable).is_some());
    let (url, source) = read_url(reader);
    let from_url = UrlCandidates { source };
    let connect_timeout = url.connect_timeout.and_then(|timeout| {
        let seconds = timeout.as_secs_f64().to_string();
        from_url.candidate(Some(timeout), seconds)
    });
    let parts = Parts::read(reader, url, &from_url);
    if is_configured {
        parts.report_missing(reader);
    }
    let (database, origin) = parts.assemble();
    if !reader.has_problem(&[&DATABASE_URL, &DB_SSLMODE, &DB_SSLROOTCERT]) {
        database.check_sslrootcert(reader, origin.sslrootcert);
    }
    check_tier_rules(reader, &database, is_configured, &origin);
    ReadDatabase { database, is_configured, connect_timeout }
}

/// The parts of [`DatabaseSettings`], each resolved from the URL and its own variable.
struct Parts {
    hosts: Option<Parsed<Vec<String>>>,
    /// As many as hosts.
    ports: Vec<u16>,
    name: Option<Parsed<String>>,
    user: Option<Parsed<String>>,
    password: Option<Parsed<Secret>>,
    sslmode: Word<SslMode>,
    sslrootcert: Option<Parsed<String>>,
    target_session_attrs: Word<TargetSessionAttrs>,
    application_name: String,
}

/// The variable that set each of these, for problems found in the finished value.
struct Origin {
    password: &'static str,
    sslmode: &'static str,
    sslrootcert: &'static str,
}

impl Parts {
    fn read(reader: &mut Reader, url: DatabaseUrl, from_url: &UrlCandidates) -> Parts {
        let (hosts, ports) = read_hosts(reader, from_url.list(url.hosts), from_url.list(url.ports));
        let name = text(reader, &DB_NAME, from_url.text(url.name), parse_name, String::clone);
        let user = text(reader, &DB_USER, from_url.text(url.user), parse_name, String::clone);
        let password = from_url.candidate(url.password, MASK.to_owned());
        let password = text(reader, &DB_PASSWORD, password, parse_password, |_| MASK.to_owned());
        let sslmode = word(reader, &DB_SSLMODE, from_url.word(url.sslmode));
        let sslrootcert = from_url.text(url.sslrootcert);
        let any_path = |text: &str| Some(text.to_owned());
        let sslrootcert = text(reader, &DB_SSLROOTCERT, sslrootcert, any_path, String::clone);
        let target_session_attrs = from_url.word(url.target_session_attrs);
        let target_session_attrs = word(reader, &DB_TARGET_SESSION_ATTRS, target_session_attrs);
        let application = reader.parse(&DB_APPLICATION_NAME, parse_name);
        let application = [application, from_url.text(url.application_name)];
        let application_name = reader.resolve(&DB_APPLICATION_NAME, application, parse_name, String::clone);
        Parts {
            hosts,
            ports,
            name,
            user,
            password,
            sslmode,
            sslrootcert,
            target_session_attrs,
            application_name,
        }
    }

    /// Reports the required parts that nothing sets. A malformed URL is reported already, and may hold them.
    fn report_missing(&self, reader: &mut Reader) {
        if reader.has_problem(&[&DATABASE_URL]) {
            return;
        }
        let is_missing = [self.hosts.is_none(), self.name.is_none(), self.user.is_none()];
        for (variable, is_missing) in [&DB_HOST, &DB_NAME, &DB_USER].into_iter().zip(is_missing) {
            if is_missing {
                reader.report_missing(variable);
            }
        }
    }

    /// Returns the settings, with defaults and empty values for what is missing.
    fn assemble(self) -> (DatabaseSettings, Origin) {
        let origin = Origin {
            password: self.password.as_ref().map_or(DB_PASSWORD.name, |parsed| parsed.variable),
            sslmode: self.sslmode.variable,
            sslrootcert: self.sslrootcert.as_ref().map_or(DB_SSLROOTCERT.name, |parsed| parsed.variable),
        };
        let hosts = self.hosts.map(|parsed| parsed.value).unwrap_or_default();
        let database = DatabaseSettings {
            hosts: hosts.into_iter().zip(self.ports).collect(),
            name: self.name.map(|parsed| parsed.value).unwrap_or_default(),
            user: self.user.map(|parsed| parsed.value).unwrap_or_default(),
            password: self.password.map(|parsed| parsed.value),
            sslmode: self.sslmode.value,
            sslrootcert: self.sslrootcert.map(|parsed| PathBuf::from(parsed.value)),
            target_session_attrs: self.target_session_attrs.value,
            application_name: self.application_name,
        };
        (database, origin)
    }
}

/// Reports what the tier does not allow.
fn check_tier_rules(reader: &mut Reader, database: &DatabaseSettings, is_configured: bool, origin: &Origin) {
    let tier = reader.tier;
    if tier == Tier::Dev {
        return;
    }
    if !is_configured {
        let all = "DATABASE_URL, or DB_HOST, DB_NAME, DB_USER and DB_PASSWORD";
        reader.report(
            &DATABASE_URL,
            "no database is configured",
            format!("{all}; the {tier} tier needs one"),
        );
        return;
    }
    if tier != Tier::Production || reader.has_problem(&[&DATABASE_URL]) {
        return;
    }
    match &database.password {
        Some(password) if is_placeholder(password.expose()) => {
            reader.report_as(&DB_PASSWORD, origin.password, format!("{MASK} (a placeholder)"), OWN_SECRET);
        }
        None if !database.is_unix_socket() => reader.report_missing(&DB_PASSWORD),
        _ => {}
    }
    if let (SslMode::Disable, Some(host)) = (database.sslmode, database.first_remote_host()) {
        let allowed = format!("prefer, require, verify-ca, verify-full: {host} is not this machine");
        reader.report_as(&DB_SSLMODE, origin.sslmode, "sslmode disable", allowed);
    }
}

fn read_url(reader: &mut Reader) -> (DatabaseUrl, Source) {
    let Some(raw) = reader.raw(&DATABASE_URL) else {
        return (DatabaseUrl::default(), Source::NotSet);
    };
    match DatabaseUrl::parse(&raw.text) {
        Ok(url) => {
            reader.set_effective(&DATABASE_URL, url.redact(&raw.text), raw.source.clone());
            (url, raw.source)
        }
        Err(defect) => {
            reader.report(&DATABASE_URL, format!("{MASK} ({defect})"), DATABASE_URL.allowed());
            (DatabaseUrl::default(), raw.source)
        }
    }
}

/// Turns the parts of the URL into candidates beside the `DB_*` variables.
struct UrlCandidates {
    source: Source,
}

impl UrlCandidates {
    fn candidate<T>(&self, value: Option<T>, text: String) -> Option<Parsed<T>> {
        value.map(|value| Parsed { variable: DATABASE_URL.name, source: self.source.clone(), text, value })
    }

    fn text(&self, value: Option<String>) -> Option<Parsed<String>> {
        let text = value.clone().unwrap_or_default();
        self.candidate(value, text)
    }

    fn word(&self, value: Option<&'static str>) -> Option<Parsed<&'static str>> {
        self.candidate(value, value.unwrap_or_default().to_owned())
    }

    fn list<T: ToString>(&self, list: Vec<T>) -> Option<Parsed<Vec<T>>> {
        let text = join(&list);
        self.candidate((!list.is_empty()).then_some(list), text)
    }
}

fn text<T: PartialEq>(
    reader: &mut Reader,
    variable: &'static Variable,
    from_url: Option<Parsed<T>>,
    parse: impl FnOnce(&str) -> Option<T>,
    show: impl Fn(&T) -> String,
) -> Option<Parsed<T>> {
    let own = reader.parse(variable, parse);
    reader.resolve_optional(variable, [own, from_url], show)
}

/// A resolved word, with the variable that set it.
struct Word<T> {
    value: T,
    variable: &'static str,
}

fn word<T: FromStr>(
    reader: &mut Reader,
    variable: &'static Variable,
    from_url: Option<Parsed<&'static str>>,
) -> Word<T> {
    let own = reader.parse(variable, |text| variable.allowed.word(text));
    let winner = reader.choose(variable, [own, from_url], |word| (*word).to_owned());
    let set_by = winner.as_ref().map_or(variable.name, |winner| winner.variable);
    let value = winner.and_then(|winner| variable.word(winner.value));
    Word {
        value: value.unwrap_or_else(|| reader.default_of(variable, |text| variable.word(text))),
        variable: set_by,
    }
}

/// The hosts, and one port for each.
fn read_hosts(
    reader: &mut Reader,
    url_hosts: Option<Parsed<Vec<String>>>,
    url_ports: Option<Parsed<Vec<u16>>>,
) -> (Option<Parsed<Vec<String>>>, Vec<u16>) {
    let db_hosts = reader.parse(&DB_HOST, parse_hosts);
    let candidates = [&db_hosts, &url_hosts].map(|parsed| parsed.as_ref().map(|parsed| parsed.value.clone()));
    let db_ports = reader.parse(&DB_PORT, parse_ports);
    let hosts = reader.resolve_optional(&DB_HOST, [db_hosts, url_hosts], |hosts| hosts.join(","));
    let Some(hosts) = hosts else { return (None, Vec::new()) };

    // A port belongs to the host it was set with. If the environment sets another host, the file's port does not apply.
    let is_overridden = |candidate: &Option<Vec<String>>, ports: &Parsed<Vec<u16>>| {
        candidate.as_ref().is_some_and(|candidate| *candidate != hosts.value)
            && ports.source.rank() < hosts.source.rank()
    };
    let url_ports = url_ports.filter(|ports| !is_overridden(&candidates[1], ports));
    let db_ports = match db_ports {
        Some(ports) if is_overridden(&candidates[0], &ports) => {
            reader.set_effective(&DB_PORT, reader.default_text(&DB_PORT), Source::Variable(hosts.variable));
            None
        }
        Some(ports) if ports.value.len() == 1 => Some(ports.map(|ports| vec![ports[0]; hosts.value.len()])),
        Some(ports) if ports.value.len() != hosts.value.len() => {
            let allowed = format!("one port, or as many as there are hosts ({})", hosts.value.len());
            reader.report(&DB_PORT, ports.text, allowed);
            None
        }
        ports => ports,
    };
    let ports = reader.choose(&DB_PORT, [db_ports, url_ports], |ports| join(ports));
    let ports = ports.map_or_else(|| vec![default_port(); hosts.value.len()], |ports| ports.value);
    (Some(hosts), ports)
}

fn parse_ports(text: &str) -> Option<Vec<u16>> {
    text.split(',').map(|port| parse_port(port.trim())).collect()
}

fn join<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn parse_hosts(text: &str) -> Option<Vec<String>> {
    text.split(',').map(|host| Some(host.trim().to_owned()).filter(|host| is_host(host))).collect()
}

fn parse_name(text: &str) -> Option<String> {
    is_name(text).then(|| text.to_owned())
}

fn parse_password(text: &str) -> Option<Secret> {
    (!text.chars().any(char::is_control)).then(|| Secret::new(text))
}
