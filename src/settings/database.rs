//! How the database is reached.

use crate::error::{Result, SettingsError};
use crate::settings::database_url::{is_host, is_name};
use crate::settings::reader::{Given, Reader, Source};
use crate::settings::secret::Secret;
use crate::settings::tier::Tier;
use crate::settings::variables::{
    DATABASE_URL, DB_APPLICATION_NAME, DB_HOST, DB_NAME, DB_PORT, DB_SSLROOTCERT, DB_USER,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// How the database is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// Hosts with their ports, tried in order. A host that begins with `/` is the directory of a Unix socket.
    pub hosts: Vec<(String, u16)>,
    /// Database name.
    pub name: String,
    /// User name.
    pub user: String,
    /// Password; `None` for servers that ask for none.
    pub password: Option<Secret>,
    /// Encryption of the connection.
    pub sslmode: SslMode,
    /// The certificate authorities to trust, as a PEM file.
    pub sslrootcert: Option<PathBuf>,
    /// Which servers of several will do.
    pub target_session_attrs: TargetSessionAttrs,
    /// What `pg_stat_activity` shows.
    pub application_name: String,
}

impl DatabaseSettings {
    /// Reads a URL as `DATABASE_URL` holds it, and takes the defaults for what it leaves out.
    ///
    /// # Errors
    ///
    /// - [`Error::Settings`](crate::Error::Settings): not such a URL, or it names no host, database or user,
    ///   or it gives `connect_timeout`, which belongs to [`PoolSettings`](super::PoolSettings).
    ///
    /// # Examples
    ///
    /// ```
    /// use poolhouse::settings::DatabaseSettings;
    ///
    /// let database = DatabaseSettings::parse("postgres://app:s%40fe@db1,db2:6432/movies?sslmode=require")?;
    /// assert_eq!(database.to_string(), "db1:5432,db2:6432/movies");
    /// # Ok::<(), poolhouse::Error>(())
    /// ```
    pub fn parse(url: &str) -> Result<DatabaseSettings> {
        let given = Given { text: url.trim().to_owned(), source: Source::Environment };
        let mut reader = Reader::new(Tier::Dev, BTreeMap::from([(DATABASE_URL.name.to_owned(), given)]));
        let read = super::database_reader::read(&mut reader);
        if read.connect_timeout.is_some() {
            reader.fault(
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

    /// The driver's configuration, without anything about encryption or deadlines.
    pub fn driver_config(&self) -> postgres::Config {
        let mut config = self.login_config();
        for (host, port) in &self.hosts {
            config.host(host).port(*port);
        }
        config
    }

    /// The same without the hosts.
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

    /// Whether every host is a Unix socket, where the operating system vouches for the user.
    pub(super) fn is_unix_socket(&self) -> bool {
        !self.hosts.is_empty() && self.hosts.iter().all(|(host, _)| host.starts_with('/'))
    }

    /// The first host that is another machine, as far as its name tells.
    pub(super) fn first_remote_host(&self) -> Option<&str> {
        let is_local = |host: &str| {
            host.starts_with('/')
                || host.eq_ignore_ascii_case("localhost")
                || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        self.hosts.iter().map(|(host, _)| host.as_str()).find(|host| !is_local(host))
    }

    /// Notes what a value built in code may have wrong.
    pub(super) fn check(&self, reader: &mut Reader) {
        if self.hosts.is_empty() {
            reader.fault(&DB_HOST, "not set", DB_HOST.allowed());
        }
        for (host, port) in &self.hosts {
            if !is_host(host) {
                reader.fault(&DB_HOST, host, DB_HOST.allowed());
            }
            if *port == 0 {
                reader.fault(&DB_PORT, "0", DB_PORT.allowed());
            }
        }
        for (variable, text) in
            [(&DB_NAME, &self.name), (&DB_USER, &self.user), (&DB_APPLICATION_NAME, &self.application_name)]
        {
            if !is_name(text) {
                reader.fault(variable, if text.is_empty() { "not set" } else { text }, variable.allowed());
            }
        }
        self.check_sslrootcert(reader, DB_SSLROOTCERT.name);
    }

    /// Notes a missing file of certificate authorities, or one that would verify nothing. `by` is the
    /// variable that named the file.
    pub(super) fn check_sslrootcert(&self, reader: &mut Reader, by: &str) {
        let mode = self.sslmode;
        match &self.sslrootcert {
            None if mode.verifies() => reader.fault(
                &DB_SSLROOTCERT,
                "not set",
                format!("{}, as sslmode is {mode}", DB_SSLROOTCERT.allowed()),
            ),
            // libpq reads `require` with such a file as `verify-ca`. We do not guess: here it would look
            // verified and would not be.
            Some(path) if matches!(mode, SslMode::Prefer | SslMode::Require) => reader.fault_as(
                &DB_SSLROOTCERT,
                by,
                path.display().to_string(),
                format!("with sslmode verify-ca or verify-full only: {mode} verifies nothing"),
            ),
            Some(path) if !path.is_file() => reader.fault_as(
                &DB_SSLROOTCERT,
                by,
                format!("{} (no such file)", path.display()),
                DB_SSLROOTCERT.allowed(),
            ),
            _ => {}
        }
    }
}

/// `host:port/database`, several hosts separated by commas; never the user or the password.
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

/// Encryption of the connection to the server, as `libpq` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Plain.
    Disable,
    /// TLS where the server offers it, nothing verified.
    Prefer,
    /// TLS, nothing verified.
    Require,
    /// TLS, the certificate must be signed by `sslrootcert`.
    VerifyCa,
    /// As `VerifyCa`, and it must be for the host's name.
    VerifyFull,
}

impl SslMode {
    /// Every mode, from the least to the most secure.
    pub const ALL: [SslMode; 5] =
        [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull];

    /// The name as `DB_SSLMODE` gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }

    fn verifies(self) -> bool {
        matches!(self, SslMode::VerifyCa | SslMode::VerifyFull)
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which servers of several will do, as `libpq` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Any.
    Any,
    /// One that accepts writes.
    ReadWrite,
    /// One that does not.
    ReadOnly,
}

impl TargetSessionAttrs {
    /// Every choice.
    pub const ALL: [TargetSessionAttrs; 3] =
        [TargetSessionAttrs::Any, TargetSessionAttrs::ReadWrite, TargetSessionAttrs::ReadOnly];

    /// The name as `DB_TARGET_SESSION_ATTRS` gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            TargetSessionAttrs::Any => "any",
            TargetSessionAttrs::ReadWrite => "read-write",
            TargetSessionAttrs::ReadOnly => "read-only",
        }
    }
}

impl fmt::Display for TargetSessionAttrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
