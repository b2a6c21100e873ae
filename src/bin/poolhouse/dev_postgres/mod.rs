//! The private PostgreSQL of the dev tier. A developer who has configured no database gets one, in `.poolhouse/` of
//! the current directory; it is kept between runs. How a server is made, started and stopped is in [`cluster`].
//!
//! ```text
//! .poolhouse/lock           held while a poolhouse uses this directory
//! .poolhouse/password       of the server's only user, readable by its owner only
//! .poolhouse/password.new   the same, while the server is being created
//! .poolhouse/postgres.log   the server's log, readable by its owner only
//! .poolhouse/postgres.log.1 the previous part of the log, rotated at 10 MiB
//! .poolhouse/data/          the server's data directory
//! ```
//!
//! If the server's user cannot enter the current directory (root's home, for example), all of this is in a directory
//! below `/var/lib/poolhouse` instead.

mod cluster;

use crate::dev_postgres::cluster::processes::{is_running, kill_all};
use crate::dev_postgres::cluster::{Account, Cluster, ClusterError, Programs, Server, Shutdown, tail};
use crate::process::signals;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use poolhouse::settings::DatabaseSettings;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const USER: &str = "poolhouse";
const PASSWORD: &str = "password";
const LOG: &str = "postgres.log";
/// How long a fast shutdown may take; an immediate shutdown and `kill -9` follow.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another poolhouse may take to start the server that this one joins.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// A longer log is rotated and replaces the previous part.
const LOG_LIMIT: u64 = 10 * 1024 * 1024;

/// What to do if another poolhouse already runs the private server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Use that server; it stops when the other poolhouse stops.
    Join,
    /// Fail.
    Refuse,
}

/// A running private server. Dropping this stops it, if this poolhouse started it.
#[derive(Debug)]
pub(crate) struct LocalPostgres {
    /// `None` if another poolhouse runs it, and while this is dropped.
    server: Option<Server>,
    database: DatabaseSettings,
    home: PathBuf,
    /// The length of the log when this run began.
    log_start: u64,
    /// Excludes a second poolhouse from the directory; the operating system releases it when the process ends.
    _lock: Option<File>,
}

impl LocalPostgres {
    /// Starts the private server of `project`; creates it the first time.
    ///
    /// # Blocking
    ///
    /// Half a second; a few seconds the first time; after a crash until the server has recovered, at most a minute.
    /// Fails, and leaves nothing running or half created, once shutdown is requested.
    pub(crate) fn start(project: &Path, sharing: Sharing) -> Result<LocalPostgres, ClusterError> {
        let home = home_of(project)?;
        make_private_directory(&home)?;
        let data = home.join("data");
        let Some(lock) = lock(&home)? else {
            return match sharing {
                Sharing::Join => LocalPostgres::join(&home, &data),
                Sharing::Refuse => Err(ClusterError::new(format!(
                    "another poolhouse is using the private PostgreSQL in {}: stop it first, or set DATABASE_URL",
                    home.display()
                ))),
            };
        };
        let account = Account::for_server(&data)?;
        // Before anything is written, because the existing files may be repairable.
        let made_by = Cluster::version_of(&data).map_err(|error| or_start_anew(&error, &home))?;
        let programs = Programs::find(made_by).map_err(|error| match made_by {
            Some(_) => ClusterError::new(format!("{error} (or remove {} to start anew)", home.display())),
            None => error,
        })?;
        let cluster = Cluster::new(programs.clone(), data, account).unless(signals::is_shutdown_requested);
        let password = match made_by {
            Some(_) => read_password(&home)?,
            None => {
                log::info!("Creating a private PostgreSQL {} in {}", programs.major, home.display());
                create(&cluster, &home)?
            }
        };
        // Repeated after the process has ended: a killed process that is not reaped leaves its lock file in the way.
        while let Some(pid) = cluster.left_behind()? {
            log::warn!("Stopping the private PostgreSQL that an earlier run left behind (process {pid})");
            end_left_behind(pid)?;
        }
        let log = home.join(LOG);
        prepare_log(&log).map_err(ClusterError::during(format!("write {}", log.display())))?;
        let log_start = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        // Development data can be loaded again: losing the last second at a power cut is acceptable, and no commit
        // waits for the disk.
        let server = cluster
            .start_anywhere(&[("synchronous_commit", "off")], &log)
            .map_err(|error| ClusterError::new(format!("{error} (its log: {})", log.display())))?;
        let database = database_at(server.port(), &password)?;
        log::info!("Started a private PostgreSQL on 127.0.0.1:{} in {}", server.port(), home.display());
        Ok(LocalPostgres { server: Some(server), database, home, log_start, _lock: Some(lock) })
    }

    /// Finds the server that another poolhouse runs or is starting.
    fn join(home: &Path, data: &Path) -> Result<LocalPostgres, ClusterError> {
        let deadline = Instant::now() + JOIN_TIMEOUT;
        let port = loop {
            if let Some(port) = Cluster::port_of_running(data) {
                break port;
            }
            if Instant::now() > deadline {
                return Err(ClusterError::new(format!(
                    "another poolhouse holds {}, and its PostgreSQL is not ready",
                    home.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        log::info!("Using the private PostgreSQL of the poolhouse that runs already, on 127.0.0.1:{port}");
        let database = database_at(port, &read_password(home)?)?;
        Ok(LocalPostgres { server: None, database, home: home.to_owned(), log_start: 0, _lock: None })
    }

    /// The server's first process; `None` if another poolhouse runs it.
    pub(crate) fn process(&self) -> Option<Pid> {
        self.server.as_ref().map(Server::pid)
    }

    /// The settings to connect to it.
    pub(crate) fn database(&self) -> DatabaseSettings {
        self.database.clone()
    }

    /// Advice for a refused login.
    pub(crate) fn login_advice(&self) -> String {
        format!(
            "It is the private PostgreSQL, and {} is not its password: put the right one there, or remove {} to \
             start anew",
            self.home.join(PASSWORD).display(),
            self.home.display()
        )
    }

    /// How the server ended by itself, with the last lines of its log; `None` while it runs, and if another poolhouse
    /// runs it. Rotates a long log.
    pub(crate) fn end(&mut self) -> Option<String> {
        let log = self.home.join(LOG);
        let status = self.server.as_mut()?.exit_status();
        if status.is_none() && rotate_when_long(&log).is_ok_and(|is_rotated| is_rotated) {
            self.log_start = 0;
        }
        let status = status?;
        let words = tail(&log, self.log_start);
        Some(format!("The private PostgreSQL has ended ({status}): {words} (its log: {})", log.display()))
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        let has_ended = self.end().is_some();
        if let Some(server) = self.server.take() {
            match server.stop(Shutdown::Fast, STOP_TIMEOUT) {
                Ok(_) if has_ended => {}
                Ok(status) if status.signal() == Some(Signal::SIGKILL as i32) => {
                    log::warn!(
                        "Killed the private PostgreSQL, which did not end: its next start repairs its files"
                    );
                }
                Ok(_) => log::info!("Stopped the private PostgreSQL"),
                Err(error) => log::error!("Cannot stop the private PostgreSQL: {error}"),
            }
        }
    }
}

/// Returns the directory of the server of `project`.
fn home_of(project: &Path) -> Result<PathBuf, ClusterError> {
    let project = project
        .canonicalize()
        .map_err(ClusterError::during(format!("find the current directory {}", project.display())))?;
    let usual = project.join(".poolhouse");
    match Account::for_server(&usual.join("data"))? {
        Some(account) if !account.can_enter(&project) => {
            let home = PathBuf::from("/var/lib/poolhouse").join(name_for(&project));
            log::info!(
                "The user that PostgreSQL runs as cannot enter {}: its data is in {}",
                project.display(),
                home.display()
            );
            Ok(home)
        }
        _ => Ok(usual),
    }
}

/// A directory name for `project`: readable, and unique for each path.
fn name_for(project: &Path) -> String {
    let hash = Sha256::digest(project.as_os_str().as_encoded_bytes());
    let hex: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let last = project.file_name().unwrap_or_default().to_string_lossy();
    format!("{}-{hex}", last.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_', "-"))
}

/// Creates the directory. Under root it must let the server's user pass through.
fn make_private_directory(home: &Path) -> Result<(), ClusterError> {
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(home);
    made.map_err(ClusterError::during(format!("make the directory {}", home.display())))
}

fn database_at(port: u16, password: &str) -> Result<DatabaseSettings, ClusterError> {
    let url = format!("postgres://{USER}:{password}@127.0.0.1:{port}/postgres?sslmode=disable");
    DatabaseSettings::parse(&url).map_err(ClusterError::during("describe the private PostgreSQL"))
}

/// Locks the directory; `None` if another process holds the lock.
fn lock(home: &Path) -> Result<Option<File>, ClusterError> {
    let path = home.join("lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = open.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => ClusterError::new(format!(
            "{} belongs to another user: run as that user, or remove it to start anew ({error})",
            home.display()
        )),
        _ => ClusterError::during(format!("write {}", path.display()))(error),
    })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(ClusterError::during(format!("lock {}", path.display()))(error))
        }
    }
}

/// Creates the server with a new password, and returns the password.
fn create(cluster: &Cluster, home: &Path) -> Result<String, ClusterError> {
    let password = new_password()?;
    let (file, written) = (home.join(PASSWORD), new_password_file(home));
    write_password(&written, &password)
        .map_err(ClusterError::during(format!("write {}", written.display())))?;
    // An old password file stays until the new server exists: `data` may have been moved away for a while.
    cluster.create(USER, &password).inspect_err(|_| {
        let _ = fs::remove_file(&written);
    })?;
    fs::rename(&written, &file).map_err(ClusterError::during(format!("write {}", file.display())))?;
    Ok(password)
}

fn new_password() -> Result<String, ClusterError> {
    let mut random = [0; 24];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .map_err(ClusterError::during("read /dev/urandom"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn new_password_file(home: &Path) -> PathBuf {
    home.join(PASSWORD).with_extension("new")
}

fn write_password(file: &Path, password: &str) -> io::Result<()> {
    // Left behind by an interrupted first run.
    let _ = fs::remove_file(file);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    writeln!(out, "{password}")
}

/// Reads the password of an existing server.
fn read_password(home: &Path) -> Result<String, ClusterError> {
    let file = home.join(PASSWORD);
    if !file.exists() {
        // A run may have ended after it created the server and before it renamed the file.
        let _ = fs::rename(new_password_file(home), &file);
    }
    let fault = match fs::read_to_string(&file) {
        Ok(text) => {
            let password = text.trim();
            if !password.is_empty() && password.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Ok(password.to_owned());
            }
            format!("{} holds no password", file.display())
        }
        Err(error) => format!("cannot read the password in {}: {error}", file.display()),
    };
    Err(or_start_anew(&ClusterError::new(fault), home))
}

/// Adds advice for damaged files.
fn or_start_anew(error: &ClusterError, home: &Path) -> ClusterError {
    ClusterError::new(format!("{error}; put back what was there, or remove {} to start anew", home.display()))
}

/// Stops a server that is no child of this process, with ever stronger signals.
fn end_left_behind(pid: Pid) -> Result<(), ClusterError> {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        match signal {
            Signal::SIGKILL => kill_all(pid),
            signal => {
                let _ = kill(pid, signal);
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if !is_running(pid) {
                return Ok(());
            }
            if signals::is_shutdown_requested() {
                return Err(ClusterError::new("interrupted"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Err(ClusterError::new(format!(
        "the PostgreSQL that an earlier run left behind (process {pid}) does not end"
    )))
}

/// Creates the log, readable by its owner only: it may contain statements and user data.
fn prepare_log(log: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    // A log of an earlier version may be readable by others.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    rotate_when_long(log).map(drop)
}

/// Rotates a log that is too long; returns whether it did. The server appends to the open file: lines written between
/// the copy and the truncation are lost.
fn rotate_when_long(log: &Path) -> io::Result<bool> {
    if fs::metadata(log)?.len() <= LOG_LIMIT {
        return Ok(false);
    }
    fs::copy(log, log.with_extension("log.1"))?;
    OpenOptions::new().write(true).open(log)?.set_len(0)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_project_has_a_name_of_its_own() {
        let name = name_for(Path::new("/home/you/my project"));
        assert!(name.starts_with("my-project-"), "{name}");
        assert_ne!(name, name_for(Path::new("/home/you/my-project")));
        assert_eq!(name_for(Path::new("/")).len(), "-".len() + 12);
    }
}
