//! How the database is reached: the value, its checks, and the driver's configuration made from it.
//!
//! `database_reader` builds it from variables or from a URL; this file knows neither.

use crate::settings::database_url::{default_port, is_host, is_name};
use crate::settings::modes::{SslMode, TargetSessionAttrs};
use crate::settings::reader::Reader;
use crate::settings::secret::Secret;
use crate::settings::tier::Tier;
use crate::settings::variables::{
    DB_APPLICATION_NAME, DB_HOST, DB_NAME, DB_PORT, DB_SSLMODE, DB_SSLROOTCERT, DB_TARGET_SESSION_ATTRS,
    DB_USER,
};
use crate::settings::with_methods::with_methods;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// How the database is reached: hosts, login, encryption. [`parse`](DatabaseSettings::parse) makes it from a URL,
/// [`new`](DatabaseSettings::new) from its parts.
///
/// # Examples
///
/// ```
/// use poolhouse::{DatabaseSettings, Secret};
/// use poolhouse::settings::SslMode;
///
/// let database = DatabaseSettings::new("db.internal", "movies", "app")
///     .with_password(Some(Secret::new("s@fe")))
///     .with_sslmode(SslMode::Require);
/// assert_eq!(database.to_string(), "db.internal:5432/movies");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatabaseSettings {
    /// Hosts with their ports, tried in order. A host that begins with `/` is the directory of a Unix socket.
    pub hosts: Vec<(String, u16)>,
    /// Database name.
    pub name: String,
    /// User name.
    pub user: String,
    /// Password; `None` for servers that require none.
    pub password: Option<Secret>,
    /// Encryption of the connections.
    pub sslmode: SslMode,
    /// The certificate authorities to trust, as a PEM file.
    pub sslrootcert: Option<PathBuf>,
    /// Which of several servers is acceptable.
    pub target_session_attrs: TargetSessionAttrs,
    /// The `application_name` that `pg_stat_activity` shows.
    pub application_name: String,
}

with_methods! {
    DatabaseSettings {
        with_password(password: Option<Secret>),
        with_sslmode(sslmode: SslMode),
        with_sslrootcert(sslrootcert: Option<PathBuf>),
        with_target_session_attrs(target_session_attrs: TargetSessionAttrs),
    } except { hosts, name, user, application_name }
}

impl DatabaseSettings {
    /// Returns settings for this host, on the default port, with this database and user, and the variables' defaults for
    /// everything else. [`PoolSettings::validate`](super::PoolSettings::validate), which opening a pool calls, checks them.
    pub fn new(
        host: impl Into<String>,
        name: impl Into<String>,
        user: impl Into<String>,
    ) -> DatabaseSettings {
        let mut defaults = Reader::new(Tier::Dev, BTreeMap::new());
        DatabaseSettings {
            hosts: vec![(host.into(), default_port())],
            name: name.into(),
            user: user.into(),
            password: None,
            sslmode: defaults.word(&DB_SSLMODE),
            sslrootcert: None,
            target_session_attrs: defaults.word(&DB_TARGET_SESSION_ATTRS),
            application_name: defaults.default_text(&DB_APPLICATION_NAME).to_owned(),
        }
    }

    /// Sets [`hosts`](DatabaseSettings::hosts).
    #[must_use]
    pub fn with_hosts<H: Into<String>>(
        mut self,
        hosts: impl IntoIterator<Item = (H, u16)>,
    ) -> DatabaseSettings {
        self.hosts = hosts.into_iter().map(|(host, port)| (host.into(), port)).collect();
        self
    }

    /// Sets [`name`](DatabaseSettings::name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> DatabaseSettings {
        self.name = name.into();
        self
    }

    /// Sets [`user`](DatabaseSettings::user).
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> DatabaseSettings {
        self.user = user.into();
        self
    }

    /// Sets [`application_name`](DatabaseSettings::application_name).
    #[must_use]
    pub fn with_application_name(mut self, application_name: impl Into<String>) -> DatabaseSettings {
        self.application_name = application_name.into();
        self
    }

    /// The field behind each variable that [`check`](DatabaseSettings::check) reports.
    pub(super) const FIELDS: [(&str, &str); 6] = [
        (DB_HOST.name, "database.hosts"),
        (DB_PORT.name, "database.hosts"),
        (DB_NAME.name, "database.name"),
        (DB_USER.name, "database.user"),
        (DB_SSLROOTCERT.name, "database.sslrootcert"),
        (DB_APPLICATION_NAME.name, "database.application_name"),
    ];

    /// Returns the driver's configuration: hosts and login, without encryption and timeouts, which the pool adds itself.
    pub fn driver_config(&self) -> postgres::Config {
        let mut config = self.login_config();
        for (host, port) in &self.hosts {
            config.host(host).port(*port);
        }
        config
    }

    /// As [`driver_config`](DatabaseSettings::driver_config), without the hosts.
    pub(crate) fn login_config(&self) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.dbname(&self.name).user(&self.user).application_name(&self.application_name);
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        config.target_session_attrs(match self.target_session_attrs {
            TargetSessionAttrs::Any => postgres::config::TargetSessionAttrs::Any,
            TargetSessionAttrs::ReadWrite => postgres::config::TargetSessionAttrs::ReadWrite,
            TargetSessionAttrs::ReadOnly => postgres::config::TargetSessionAttrs::ReadOnly,
        });
        config
    }

    /// Whether every host is a Unix socket, over which the operating system can authenticate the user.
    pub(super) fn is_unix_socket(&self) -> bool {
        !self.hosts.is_empty() && self.hosts.iter().all(|(host, _)| host.starts_with('/'))
    }

    /// The first host that is another machine, judged by its name: nothing is resolved.
    pub(super) fn first_remote_host(&self) -> Option<&str> {
        let is_local = |host: &str| {
            host.starts_with('/')
                || host.eq_ignore_ascii_case("localhost")
                || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        self.hosts.iter().map(|(host, _)| host.as_str()).find(|host| !is_local(host))
    }

    /// Reports what is out of range. Values built in code need it; values that `database_reader` built have passed already.
    pub(super) fn check(&self, reader: &mut Reader) {
        if self.hosts.is_empty() {
            reader.report(&DB_HOST, "not set", DB_HOST.allowed());
        }
        for (host, port) in &self.hosts {
            if !is_host(host) {
                reader.report(&DB_HOST, host, DB_HOST.allowed());
            }
            if *port == 0 {
                reader.report(&DB_PORT, "0", DB_PORT.allowed());
            }
        }
        for (variable, text) in
            [(&DB_NAME, &self.name), (&DB_USER, &self.user), (&DB_APPLICATION_NAME, &self.application_name)]
        {
            if !is_name(text) {
                reader.report(variable, if text.is_empty() { "not set" } else { text }, variable.allowed());
            }
        }
        self.check_sslrootcert(reader, DB_SSLROOTCERT.name);
    }

    /// Reports a missing file of certificate authorities, and one that `sslmode` would not use. `named_by` is the variable
    /// that names the file.
    pub(super) fn check_sslrootcert(&self, reader: &mut Reader, named_by: &str) {
        let mode = self.sslmode;
        match &self.sslrootcert {
            None if mode.verifies() => reader.report(
                &DB_SSLROOTCERT,
                "not set",
                format!("{}, as sslmode is {mode}", DB_SSLROOTCERT.allowed()),
            ),
            // libpq treats `require` with such a file as `verify-ca`. Guessing the same is not ours to do, and ignoring the
            // file would leave a connection unverified that looks verified.
            Some(path) if matches!(mode, SslMode::Prefer | SslMode::Require) => reader.report_as(
                &DB_SSLROOTCERT,
                named_by,
                path.display().to_string(),
                format!("with sslmode verify-ca or verify-full only: {mode} verifies nothing"),
            ),
            Some(path) if !path.is_file() => reader.report_as(
                &DB_SSLROOTCERT,
                named_by,
                format!("{} (no such file)", path.display()),
                DB_SSLROOTCERT.allowed(),
            ),
            _ => {}
        }
    }
}

/// Writes `host:port/database`, several hosts separated by commas; never the user or the password.
impl fmt::Display for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match host.contains(':') {
                true => write!(f, "{comma}[{host}]:{port}")?,
                false => write!(f, "{comma}{host}:{port}")?,
            }
        }
        write!(f, "/{}", self.name)
    }
}
