//! Puts the database together from `DATABASE_URL` and the `DB_*` variables, which may complete each other
//! and must not contradict each other.

use crate::settings::database::{DatabaseSettings, SslMode, TargetSessionAttrs};
use crate::settings::database_url::{DatabaseUrl, default_port, is_host, is_name, parse_port};
use crate::settings::reader::{Reader, Said, Source, one_of};
use crate::settings::secret::{MASK, OWN_SECRET, Secret, is_placeholder};
use crate::settings::tier::Tier;
use crate::settings::variables::{
    DATABASE_URL, DB_APPLICATION_NAME, DB_HOST, DB_NAME, DB_PASSWORD, DB_PORT, DB_SSLMODE, DB_SSLROOTCERT,
    DB_TARGET_SESSION_ATTRS, DB_USER, Variable,
};
use std::path::PathBuf;
use std::time::Duration;

/// The variables that say which database, and not merely how to talk to it.
const IDENTITY: [&Variable; 6] = [&DATABASE_URL, &DB_HOST, &DB_PORT, &DB_NAME, &DB_USER, &DB_PASSWORD];

pub(super) struct ReadDatabase {
    pub(super) database: DatabaseSettings,
    pub(super) is_configured: bool,
    /// What the URL says about the time to connect, which is the pool's to weigh.
    pub(super) connect_timeout: Option<Said<Duration>>,
}

pub(super) fn read(reader: &mut Reader) -> ReadDatabase {
    let is_configured = IDENTITY.iter().any(|variable| reader.given(variable).is_some());
    let (url, source) = read_url(reader);
    let by_url = UrlSays { source };

    let (hosts, ports) = read_hosts(reader, by_url.list(url.hosts), by_url.list(url.ports));
    let name = text(reader, &DB_NAME, by_url.text(url.name), parse_name, String::clone);
    let user = text(reader, &DB_USER, by_url.text(url.user), parse_name, String::clone);
    let password = by_url.said(url.password, MASK.to_owned());
    let password = text(reader, &DB_PASSWORD, password, parse_password, |_| MASK.to_owned());
    let (sslmode, sslmode_by) =
        word(reader, &DB_SSLMODE, by_url.word(url.sslmode), &SslMode::ALL, SslMode::as_str);
    let sslrootcert = text(
        reader,
        &DB_SSLROOTCERT,
        by_url.text(url.sslrootcert),
        |text| Some(text.to_owned()),
        String::clone,
    );
    let session = by_url.word(url.target_session_attrs);
    let (target_session_attrs, _) =
        word(reader, &DB_TARGET_SESSION_ATTRS, session, &TargetSessionAttrs::ALL, TargetSessionAttrs::as_str);
    let application = reader.said(&DB_APPLICATION_NAME, parse_name);
    let application = [application, by_url.text(url.application_name)];
    let application_name = reader.settle(&DB_APPLICATION_NAME, application, parse_name, String::clone);
    let connect_timeout = url.connect_timeout.and_then(|span| {
        let seconds = span.as_secs_f64().to_string();
        by_url.said(Some(span), seconds)
    });

    if is_configured && !reader.is_faulty(&[&DATABASE_URL]) {
        for (variable, is_missing) in
            [(&DB_HOST, hosts.is_none()), (&DB_NAME, name.is_none()), (&DB_USER, user.is_none())]
        {
            if is_missing {
                reader.require(variable);
            }
        }
    }

    let by = Authors {
        password: password.as_ref().map_or(DB_PASSWORD.name, |said| said.by),
        sslmode: sslmode_by,
        sslrootcert: sslrootcert.as_ref().map_or(DB_SSLROOTCERT.name, |said| said.by),
    };
    let database = DatabaseSettings {
        hosts: hosts.map(|said| said.value).unwrap_or_default().into_iter().zip(ports).collect(),
        name: name.map(|said| said.value).unwrap_or_default(),
        user: user.map(|said| said.value).unwrap_or_default(),
        password: password.map(|said| said.value),
        sslmode,
        sslrootcert: sslrootcert.map(|said| PathBuf::from(said.value)),
        target_session_attrs,
        application_name,
    };
    if !reader.is_faulty(&[&DATABASE_URL, &DB_SSLMODE, &DB_SSLROOTCERT]) {
        database.check_sslrootcert(reader, by.sslrootcert);
    }
    judge(reader, &database, is_configured, &by);
    ReadDatabase { database, is_configured, connect_timeout }
}

/// Which variable each of these came from, for complaints about it.
struct Authors {
    password: &'static str,
    sslmode: &'static str,
    sslrootcert: &'static str,
}

/// What the tier demands of the database.
fn judge(reader: &mut Reader, database: &DatabaseSettings, is_configured: bool, by: &Authors) {
    let tier = reader.tier;
    if tier == Tier::Dev {
        return;
    }
    if !is_configured {
        let all = "DATABASE_URL, or DB_HOST, DB_NAME, DB_USER and DB_PASSWORD";
        reader.fault(&DATABASE_URL, "no database is configured", format!("{all}; the {tier} tier needs one"));
        return;
    }
    if tier != Tier::Production || reader.is_faulty(&[&DATABASE_URL]) {
        return;
    }
    match &database.password {
        Some(password) if is_placeholder(password.expose()) => {
            reader.fault_as(&DB_PASSWORD, by.password, format!("{MASK} (a placeholder)"), OWN_SECRET);
        }
        None if !database.is_unix_socket() => reader.require(&DB_PASSWORD),
        _ => {}
    }
    if let (SslMode::Disable, Some(host)) = (database.sslmode, database.first_remote_host()) {
        let allowed = format!("prefer, require, verify-ca, verify-full: {host} is not this machine");
        reader.fault_as(&DB_SSLMODE, by.sslmode, "sslmode disable", allowed);
    }
}

fn read_url(reader: &mut Reader) -> (DatabaseUrl, Source) {
    let Some(given) = reader.given(&DATABASE_URL) else {
        return (DatabaseUrl::default(), Source::NotSet);
    };
    match DatabaseUrl::parse(&given.text) {
        Ok(url) => {
            reader.row(&DATABASE_URL, url.redact(&given.text), given.source.clone());
            (url, given.source)
        }
        Err(fault) => {
            reader.fault(&DATABASE_URL, format!("{MASK} ({fault})"), DATABASE_URL.allowed());
            (DatabaseUrl::default(), given.source)
        }
    }
}

/// Turns what the URL holds into statements that can be weighed against the `DB_*` variables.
struct UrlSays {
    source: Source,
}

impl UrlSays {
    fn said<T>(&self, value: Option<T>, text: String) -> Option<Said<T>> {
        value.map(|value| Said { by: DATABASE_URL.name, source: self.source.clone(), text, value })
    }

    fn text(&self, value: Option<String>) -> Option<Said<String>> {
        let text = value.clone().unwrap_or_default();
        self.said(value, text)
    }

    fn word(&self, value: Option<&'static str>) -> Option<Said<&'static str>> {
        self.said(value, value.unwrap_or_default().to_owned())
    }

    fn list<T: ToString>(&self, list: Vec<T>) -> Option<Said<Vec<T>>> {
        let text = join(&list);
        self.said((!list.is_empty()).then_some(list), text)
    }
}

fn text<T: PartialEq>(
    reader: &mut Reader,
    variable: &'static Variable,
    by_url: Option<Said<T>>,
    parse: impl FnOnce(&str) -> Option<T>,
    show: impl Fn(&T) -> String,
) -> Option<Said<T>> {
    let said = reader.said(variable, parse);
    reader.settle_unset(variable, [said, by_url], show)
}

/// What holds, and which variable says so.
fn word<T: Copy + PartialEq>(
    reader: &mut Reader,
    variable: &'static Variable,
    by_url: Option<Said<&'static str>>,
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> (T, &'static str) {
    let parse = |text: &str| one_of(&variable.allowed, text, all, &as_str);
    let said = reader.said(variable, |text| variable.allowed.word(text));
    let said = reader.weigh(variable, [said, by_url], |word| (*word).to_owned());
    let by = said.as_ref().map_or(variable.name, |said| said.by);
    let value = said.and_then(|said| parse(said.value));
    (value.unwrap_or_else(|| reader.default_of(variable, parse)), by)
}

/// The hosts, and one port for each.
fn read_hosts(
    reader: &mut Reader,
    url_hosts: Option<Said<Vec<String>>>,
    url_ports: Option<Said<Vec<u16>>>,
) -> (Option<Said<Vec<String>>>, Vec<u16>) {
    let db_hosts = reader.said(&DB_HOST, parse_hosts);
    let claims = [&db_hosts, &url_hosts].map(|said| said.as_ref().map(|said| said.value.clone()));
    let db_ports = reader.said(&DB_PORT, parse_ports);
    let Some(hosts) = reader.settle_unset(&DB_HOST, [db_hosts, url_hosts], |hosts| hosts.join(",")) else {
        return (None, Vec::new());
    };

    // A port that was given along with a host goes when the environment names another host.
    let is_overruled = |claim: &Option<Vec<String>>, ports: &Said<Vec<u16>>| {
        claim.as_ref().is_some_and(|claim| *claim != hosts.value) && ports.source.rank() < hosts.source.rank()
    };
    let url_ports = url_ports.filter(|ports| !is_overruled(&claims[1], ports));
    let db_ports = match db_ports {
        Some(ports) if is_overruled(&claims[0], &ports) => {
            reader.row(&DB_PORT, reader.preset(&DB_PORT), Source::Variable(hosts.by));
            None
        }
        Some(ports) if ports.value.len() == 1 => Some(ports.map(|ports| vec![ports[0]; hosts.value.len()])),
        Some(ports) if ports.value.len() != hosts.value.len() => {
            let allowed = format!("one port, or as many as there are hosts ({})", hosts.value.len());
            reader.fault(&DB_PORT, ports.text, allowed);
            None
        }
        ports => ports,
    };
    let ports = reader.weigh(&DB_PORT, [db_ports, url_ports], |ports| join(ports));
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
