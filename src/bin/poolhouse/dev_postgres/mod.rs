//! The private PostgreSQL of the dev tier: a developer who has configured no database gets one, in `.poolhouse/`
//! of the current directory, kept between runs.
//!
//! ```text
//! .poolhouse/lock           held while a poolhouse uses this directory
//! .poolhouse/password       of the server's only user, readable by us alone
//! .poolhouse/password.new   the same, while the server is being made
//! .poolhouse/postgres.log   what the server says, readable by us alone
//! .poolhouse/postgres.log.1 the part before, once that was above 10 MiB
//! .poolhouse/data/          the server's data directory
//! ```
//!
//! Where the server's user cannot enter the current directory (root's home, say), all of this is in a
//! directory of its own below `/var/lib/poolhouse` instead.

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
/// How long a server may take to end in order; then it is ended at once, and if need be killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long the other poolhouse may take to start the server that we want to use too.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);
/// A log that is longer becomes the old one, in the place of the one before.
const LOG_LIMIT: u64 = 10 * 1024 * 1024;

/// What to do where another poolhouse runs the private server already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Use that server; it ends when the other does.
    Join,
    /// Fail.
    Refuse,
}

/// A running private server. Where it is ours, it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct LocalPostgres {
    /// `None` where it is another poolhouse's, and while being dropped.
    server: Option<Server>,
    database: DatabaseSettings,
    home: PathBuf,
    /// Where in the log this run begins.
    log_start: u64,
    /// Keeps a second poolhouse out of the directory; the operating system lets go of it when we die.
    _lock: Option<File>,
}

impl LocalPostgres {
    /// Starts the private server of `project`, after making it where this is the first time.
    ///
    /// # Blocking
    ///
    /// Half a second, on the first time a few; after a crash until the server has repaired its files, at
    /// most a minute. It ends with an error, and leaves nothing running or half made, once the program is asked to
    /// end.
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
        // Before anything is written: what is there may still be repaired.
        let made_by = Cluster::version_of(&data).map_err(|error| or_start_anew(&error, &home))?;
        let programs = Programs::find(made_by).map_err(|error| match made_by {
            Some(_) => ClusterError::new(format!("{error} (or remove {} to start anew)", home.display())),
            None => error,
        })?;
        let cluster = Cluster::new(programs.clone(), data, account).unless(signals::is_asked);
        let password = match made_by {
            Some(_) => read_password(&home)?,
            None => {
                log::info!("Creating a private PostgreSQL {} in {}", programs.major, home.display());
                create(&cluster, &home)?
            }
        };
        // Asked again after its end: where it was killed and is not buried, its lock file is in the way.
        while let Some(pid) = cluster.left_behind()? {
            log::warn!("Stopping the private PostgreSQL that an earlier run left behind (process {pid})");
            end_left_behind(pid)?;
        }
        let log = home.join(LOG);
        prepare_log(&log).map_err(ClusterError::during(format!("write {}", log.display())))?;
        let log_start = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        // What a developer keeps here can be loaded again: a lost last second after a power cut is no loss,
        // and every commit is spared a wait for the disk.
        let server = cluster
            .start_anywhere(&[("synchronous_commit", "off")], &log)
            .map_err(|error| ClusterError::new(format!("{error} (its log: {})", log.display())))?;
        let database = database_at(server.port(), &password)?;
        log::info!("Started a private PostgreSQL on 127.0.0.1:{} in {}", server.port(), home.display());
        Ok(LocalPostgres { server: Some(server), database, home, log_start, _lock: Some(lock) })
    }

    /// Finds the server that another poolhouse runs, or is about to.
    fn join(home: &Path, data: &Path) -> Result<LocalPostgres, ClusterError> {
        let deadline = Instant::now() + JOIN_PATIENCE;
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

    /// The server's first process; `None` where it is another poolhouse's.
    pub(crate) fn process(&self) -> Option<Pid> {
        self.server.as_ref().map(Server::pid)
    }

    /// How to reach it.
    pub(crate) fn database(&self) -> DatabaseSettings {
        self.database.clone()
    }

    /// What to do where the server refuses our login.
    pub(crate) fn login_advice(&self) -> String {
        format!(
            "It is the private PostgreSQL, and {} is not its password: put the right one there, or remove {} to \
             start anew",
            self.home.join(PASSWORD).display(),
            self.home.display()
        )
    }

    /// How the server ended by itself, with its last words; `None` while it runs, and where it is another
    /// poolhouse's.
    pub(crate) fn end(&mut self) -> Option<String> {
        let log = self.home.join(LOG);
        let status = self.server.as_mut()?.exit_status();
        if status.is_none() && begin_anew_when_long(&log).is_ok_and(|is_anew| is_anew) {
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
            match server.stop(Shutdown::Fast, STOP_PATIENCE) {
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

/// The directory for the server of `project`.
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

/// A directory name for `project`: readable, and different for every path.
fn name_for(project: &Path) -> String {
    let hash = Sha256::digest(project.as_os_str().as_encoded_bytes());
    let hex: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let last = project.file_name().unwrap_or_default().to_string_lossy();
    format!("{}-{hex}", last.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_', "-"))
}

/// Ours; as root it must let the server's user pass through.
fn make_private_directory(home: &Path) -> Result<(), ClusterError> {
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(home);
    made.map_err(ClusterError::during(format!("make the directory {}", home.display())))
}

fn database_at(port: u16, password: &str) -> Result<DatabaseSettings, ClusterError> {
    let url = format!("postgres://{USER}:{password}@127.0.0.1:{port}/postgres?sslmode=disable");
    DatabaseSettings::parse(&url).map_err(ClusterError::during("describe the private PostgreSQL"))
}

/// `None` where another process has it.
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

/// Makes the server with a new password, and returns that.
fn create(cluster: &Cluster, home: &Path) -> Result<String, ClusterError> {
    let password = new_password()?;
    let (file, written) = (home.join(PASSWORD), new_password_file(home));
    write_password(&written, &password)
        .map_err(ClusterError::during(format!("write {}", written.display())))?;
    // An old password stays until there is no use for it: `data` may have been moved away for a while.
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
    // One that an interrupted first run has left is of no use to anybody.
    let _ = fs::remove_file(file);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    writeln!(out, "{password}")
}

/// The password of a server that has been made.
fn read_password(home: &Path) -> Result<String, ClusterError> {
    let file = home.join(PASSWORD);
    if !file.exists() {
        // Where we died between the making of the server and that of this file.
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

/// The way out of damaged files.
fn or_start_anew(error: &ClusterError, home: &Path) -> ClusterError {
    ClusterError::new(format!("{error}; put back what was there, or remove {} to start anew", home.display()))
}

/// Ends a server that is no child of ours: asks, insists, kills.
fn end_left_behind(pid: Pid) -> Result<(), ClusterError> {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        match signal {
            Signal::SIGKILL => kill_all(pid),
            signal => {
                let _ = kill(pid, signal);
            }
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            if !is_running(pid) {
                return Ok(());
            }
            if signals::is_asked() {
                return Err(ClusterError::new("interrupted"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Err(ClusterError::new(format!(
        "the PostgreSQL that an earlier run left behind (process {pid}) does not end"
    )))
}

/// Makes the log, for us alone to read: it may hold statements, and with them what its users store.
fn prepare_log(log: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    // One of an earlier version is not.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    begin_anew_when_long(log).map(drop)
}

/// Puts a log that is long aside; returns whether it was. The server has it open and goes on at its end, wherever that
/// is: what it writes between the copy and the cut is lost.
fn begin_anew_when_long(log: &Path) -> io::Result<bool> {
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
