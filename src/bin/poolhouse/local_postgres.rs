//! The private PostgreSQL of the dev tier: a developer who has configured no database gets one, in `.poolhouse/`
//! of the current directory, kept between runs.
//!
//! ```text
//! .poolhouse/lock           held while a poolhouse uses this directory
//! .poolhouse/password       of the server's only user, readable by us alone
//! .poolhouse/postgres.log   what the server says
//! .poolhouse/data/          the server's data directory
//! ```
//!
//! Where the server's user cannot enter the current directory (root's home, say), all of this is in a
//! directory of its own below `/var/lib/poolhouse` instead.

use crate::cluster::{Account, Cluster, ClusterError, Programs, Server, Shutdown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use poolhouse::settings::DatabaseSettings;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const USER: &str = "poolhouse";
/// How long each step of ending a server may take: asking, insisting, killing.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long the other poolhouse may take to start the server that we want to use too.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);
/// The log of earlier runs is kept up to here.
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
    /// Keeps a second poolhouse out of the directory; the operating system lets go of it when we die.
    _lock: Option<File>,
}

impl LocalPostgres {
    /// Starts the private server of `project`, after making it where this is the first time.
    ///
    /// # Blocking
    ///
    /// Half a second, on the first time a few; after a crash until the server has repaired its files, at
    /// most a minute.
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
        let made_by = Cluster::version_of(&data);
        let programs = Programs::find(made_by).map_err(|error| match made_by {
            Some(_) => ClusterError::new(format!("{error} (or remove {} to start anew)", home.display())),
            None => error,
        })?;
        let cluster = Cluster::new(programs.clone(), data, account);
        let password = password(&home.join("password"), made_by.is_none())?;
        if made_by.is_none() {
            log::info!("Creating a private PostgreSQL {} in {}", programs.major, home.display());
            cluster.create(USER, &password)?;
        }
        if let Some(pid) = cluster.left_behind() {
            log::warn!("Stopping the private PostgreSQL that an earlier run left behind (process {pid})");
            end_left_behind(pid)?;
        }
        let log = home.join("postgres.log");
        begin_anew_when_long(&log);
        // What a developer keeps here can be loaded again: a lost last second after a power cut is no loss,
        // and every commit is spared a wait for the disk.
        let server = cluster
            .start_anywhere(&[("synchronous_commit", "off")], &log)
            .map_err(|error| ClusterError::new(format!("{error} (its log: {})", log.display())))?;
        let database = database_at(server.port(), &password)?;
        log::info!("Started a private PostgreSQL on 127.0.0.1:{} in {}", server.port(), home.display());
        Ok(LocalPostgres { server: Some(server), database, _lock: Some(lock) })
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
        let database = database_at(port, &password(&home.join("password"), false)?)?;
        Ok(LocalPostgres { server: None, database, _lock: None })
    }

    /// How to reach it.
    pub(crate) fn database(&self) -> DatabaseSettings {
        self.database.clone()
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            match server.stop(Shutdown::Fast, STOP_PATIENCE) {
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

/// The server's password; a new one where the server is yet to be made.
fn password(path: &Path, is_new: bool) -> Result<String, ClusterError> {
    if !is_new {
        let text =
            fs::read_to_string(path).map_err(ClusterError::during(format!("read {}", path.display())))?;
        return Ok(text.trim().to_owned());
    }
    let mut random = [0; 24];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .map_err(ClusterError::during("read /dev/urandom"))?;
    let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // One that an interrupted first run has left is of no use to anybody.
    let _ = fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{password}"))
        .map_err(ClusterError::during(format!("write {}", path.display())))?;
    Ok(password)
}

/// Ends a server that is no child of ours: asks, insists, kills.
fn end_left_behind(pid: Pid) -> Result<(), ClusterError> {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        if kill(pid, signal).is_err() {
            return Ok(());
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            if kill(pid, None).is_err() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Err(ClusterError::new(format!(
        "the PostgreSQL that an earlier run left behind (process {pid}) does not end"
    )))
}

fn begin_anew_when_long(log: &Path) {
    if fs::metadata(log).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        let _ = fs::remove_file(log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_project_has_a_name_of_its_own() {
        let name = name_for(Path::new("/root/my project"));
        assert!(name.starts_with("my-project-"), "{name}");
        assert_ne!(name, name_for(Path::new("/root/my-project")));
        assert_eq!(name_for(Path::new("/")).len(), "-".len() + 12);
    }
}
