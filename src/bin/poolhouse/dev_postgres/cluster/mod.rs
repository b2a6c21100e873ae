//! A PostgreSQL server: finds the programs, creates the data directory, starts and stops the server. It knows neither
//! which project the server is for nor where its directory is; the caller decides both.

mod account;
pub(crate) mod processes;
mod programs;
mod server;
mod watchdog;

pub(crate) use account::Account;
pub(crate) use programs::Programs;
pub(crate) use server::{Server, Shutdown};
pub(crate) use watchdog::Watchdog;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use processes::Process;
use server::LockFile;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often the state of a process is checked.
const POLL: Duration = Duration::from_millis(10);
/// How long a start may take; generous, because a crashed server recovers first.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The extension of a data directory that is being created; the id of the creating process follows.
const HALF_MADE: &str = "new-";
/// How many ports are tried: another program may take a free port before the server does.
const PORT_ATTEMPTS: usize = 5;
/// How long the fast shutdown of a server may take whose start was cancelled.
const CANCELLED_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a server could not be found, created, started or stopped, as text for the user.
#[derive(Debug)]
pub(crate) struct ClusterError(String);

impl ClusterError {
    pub(crate) fn new(text: impl Into<String>) -> ClusterError {
        ClusterError(text.into())
    }

    /// For `map_err`: the text is what was attempted, then the error.
    pub(crate) fn during<E: fmt::Display>(doing: impl fmt::Display) -> impl FnOnce(E) -> ClusterError {
        move |error| ClusterError(format!("cannot {doing}: {error}"))
    }
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A data directory, and how to run a server on it.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    programs: Programs,
    data: PathBuf,
    account: Option<Account>,
    is_cancelled: fn() -> bool,
}

impl Cluster {
    /// A cluster, which need not exist yet. `data` must be absolute, because the server changes its directory.
    pub(crate) fn new(programs: Programs, data: PathBuf, account: Option<Account>) -> Cluster {
        Cluster { programs, data, account, is_cancelled: || false }
    }

    /// Cancels creating and starting the server once `is_cancelled` returns true: they fail and leave nothing behind.
    pub(crate) fn unless(self, is_cancelled: fn() -> bool) -> Cluster {
        Cluster { is_cancelled, ..self }
    }

    /// The major version of the data directory `data`; `None` if there is none, or an empty one.
    ///
    /// # Errors
    ///
    /// The directory has files and no readable version: it is damaged, or half a backup.
    pub(crate) fn version_of(data: &Path) -> Result<Option<u32>, ClusterError> {
        let file = data.join("PG_VERSION");
        let fault = match fs::read_to_string(&file) {
            Ok(text) => match text.trim().split('.').next().unwrap_or_default().parse() {
                Ok(version) => return Ok(Some(version)),
                Err(_) => format!("{} holds no version", file.display()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound && is_vacant(data) => return Ok(None),
            Err(error) => format!("cannot read {}: {error}", file.display()),
        };
        Err(ClusterError(format!("{} is not the data of a PostgreSQL server: {fault}", data.display())))
    }

    /// Creates the data directory, with the superuser `user`, and a password for every login.
    ///
    /// It gets its name only when complete, so that an interrupted attempt can be repeated.
    pub(crate) fn create(&self, user: &str, password: &str) -> Result<(), ClusterError> {
        self.remove_half_made();
        // With the process id in the name, because processes of an interrupted attempt may still be writing.
        let half_made = self.data.with_extension(format!("{HALF_MADE}{}", std::process::id()));
        self.make_directory(&half_made)
            .map_err(ClusterError::during(format!("make the directory {}", half_made.display())))?;
        let password_file = self.data.with_extension("password");
        self.write_private(&password_file, password)
            .map_err(ClusterError::during(format!("write {}", password_file.display())))?;
        // C.UTF-8 folds the case of every script, but not every system has it.
        let made = self
            .initdb(&half_made, &password_file, user, "C.UTF-8")
            .or_else(|_| self.initdb(&half_made, &password_file, user, "C"));
        let _ = fs::remove_file(&password_file);
        let named = made.and_then(|()| {
            fs::rename(&half_made, &self.data)
                .map_err(ClusterError::during(format!("rename {}", half_made.display())))
        });
        if named.is_err() {
            let _ = fs::remove_dir_all(&half_made);
        }
        named
    }

    /// Removes what interrupted attempts have left, as far as possible.
    fn remove_half_made(&self) {
        let Some(siblings) = self.data.parent().and_then(|home| fs::read_dir(home).ok()) else { return };
        for path in siblings.flatten().map(|entry| entry.path()) {
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            if path.file_stem() == self.data.file_name() && extension.starts_with(HALF_MADE) {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }

    fn initdb(
        &self,
        data: &Path,
        password_file: &Path,
        user: &str,
        locale: &str,
    ) -> Result<(), ClusterError> {
        let mut command = self.command("initdb");
        command.arg("--pgdata").arg(data).arg("--username").arg(user).arg("--pwfile").arg(password_file);
        command.args(["--auth=scram-sha-256", "--encoding=UTF8"]);
        command.arg(format!("--locale={locale}"));
        // In a process group of its own, which the watchdog kills: left alone, it would go on writing during the next
        // run.
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
        self.check_cancelled()?;
        let child = command.spawn().map_err(ClusterError::during("run initdb"))?;
        let watchdog = Watchdog::over_group(child.id()).ok();
        let outcome = self.wait_for_initdb(child);
        if let Some(watchdog) = watchdog {
            watchdog.dismiss();
        }
        outcome
    }

    fn wait_for_initdb(&self, mut child: Child) -> Result<(), ClusterError> {
        let stderr = child.stderr.take();
        // Read in another thread: with a full pipe initdb would block.
        let words = std::thread::spawn(move || {
            let mut words = Vec::new();
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut words));
            words
        });
        let status = loop {
            if let Some(status) = child.try_wait().map_err(ClusterError::during("run initdb"))? {
                break status;
            }
            if let Err(cancelled) = self.check_cancelled() {
                let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
                let _ = child.wait();
                return Err(cancelled);
            }
            std::thread::sleep(POLL);
        };
        if status.success() {
            return Ok(());
        }
        let words = words.join().unwrap_or_default();
        Err(ClusterError::new(format!("initdb failed: {}", String::from_utf8_lossy(&words).trim())))
    }

    fn check_cancelled(&self) -> Result<(), ClusterError> {
        if (self.is_cancelled)() { Err(ClusterError::new("interrupted")) } else { Ok(()) }
    }

    /// Starts a server as [`start`](Cluster::start) does, on any free port.
    pub(crate) fn start_anywhere(
        &self,
        options: &[(&str, &str)],
        log: &Path,
    ) -> Result<Server, ClusterError> {
        let mut attempt = 1;
        loop {
            let port = free_port().map_err(ClusterError::during("find a free port on 127.0.0.1"))?;
            match self.start(port, options, log) {
                // Another program took the port first.
                Err(error) if attempt < PORT_ATTEMPTS && error.0.contains("could not bind") => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Starts a server on `port` of 127.0.0.1 and waits until it accepts connections. Its output is appended to
    /// `log`.
    pub(crate) fn start(
        &self,
        port: u16,
        options: &[(&str, &str)],
        log: &Path,
    ) -> Result<Server, ClusterError> {
        let log_file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(ClusterError::during(format!("write {}", log.display())))?;
        let log_start = log_file.metadata().map_or(0, |metadata| metadata.len());
        let stderr = log_file.try_clone().map_err(ClusterError::during("share the log file"))?;

        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data).arg("-p").arg(port.to_string());
        // TCP on 127.0.0.1 only: a socket file has a path-length limit and must be cleaned up.
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        for (name, value) in options {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // In a process group of its own, so that Ctrl-C does not end it while connections are in use.
        command.process_group(0).stdout(log_file).stderr(stderr);
        let child = command.spawn().map_err(ClusterError::during("start the PostgreSQL server"))?;
        let mut server = Server::new(child, port, &self.data);

        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if server.is_ready() {
                return Ok(server);
            }
            if let Some(status) = server.exit_status() {
                let words = tail(log, log_start);
                return Err(ClusterError::new(format!("the PostgreSQL server ended ({status}): {words}")));
            }
            if let Err(cancelled) = self.check_cancelled() {
                let _ = server.stop(Shutdown::Fast, CANCELLED_STOP_TIMEOUT);
                return Err(cancelled);
            }
            if Instant::now() > deadline {
                let words = tail(log, log_start);
                return Err(ClusterError::new(format!(
                    "the PostgreSQL server is not ready after {} s: {words}",
                    START_TIMEOUT.as_secs()
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Finds a server that an earlier process left running on this data directory.
    ///
    /// Removes a `postmaster.pid` whose process is no server of this directory: after a reboot another process may
    /// have that id, and the server would refuse to start. The same holds for an empty or garbled file after a power
    /// cut.
    ///
    /// # Errors
    ///
    /// The system does not list its processes; nothing is removed then.
    pub(crate) fn left_behind(&self) -> Result<Option<Pid>, ClusterError> {
        let lock = LockFile::read(&self.data);
        // The process has ended: the server detects that itself, and uses the file to check for orphaned backends.
        if lock.as_ref().is_some_and(|lock| kill(lock.pid, None).is_err()) {
            return Ok(None);
        }
        let data = self.data.to_string_lossy();
        // As `start` writes it. The watchdog's command line contains the directory too.
        let option = format!(" -D {data} ");
        let is_ours = |process: &Process| match &lock {
            _ if process.has_ended() => false,
            Some(lock) => process.pid == lock.pid && process.command.contains(&*data),
            None => process.command.contains(&option),
        };
        let table = processes::table()
            .map_err(ClusterError::during(format!("find out whether a server runs on {data}")))?;
        let running = table.into_iter().find(is_ours).map(|process| process.pid);
        if running.is_none() {
            let _ = fs::remove_file(self.data.join("postmaster.pid"));
        }
        Ok(running)
    }

    /// The port of the server that accepts connections on the data directory `data`, whichever process started it.
    pub(crate) fn port_of_running(data: &Path) -> Option<u16> {
        LockFile::read(data).filter(|file| file.is_ready && kill(file.pid, None) != Err(Errno::ESRCH))?.port
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.bin.join(program));
        for (name, _) in std::env::vars_os() {
            // PGDATA, PGPORT, PGOPTIONS and the like are about another server. NOTIFY_SOCKET is for this process
            // only.
            if name.to_string_lossy().starts_with("PG") || name == "NOTIFY_SOCKET" {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Creates a directory that only the server's user can read.
    pub(crate) fn make_directory(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        self.give(directory)
    }

    /// Writes a file that only the server's user can read.
    fn write_private(&self, file: &Path, text: &str) -> io::Result<()> {
        let _ = fs::remove_file(file);
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        out.write_all(text.as_bytes())?;
        self.give(file)
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match &self.account {
            Some(account) => chown(path, Some(account.uid), Some(account.gid)),
            None => Ok(()),
        }
    }
}

/// Finds a port of 127.0.0.1 on which nothing listens. It lies outside the range for outgoing connections: otherwise
/// a server that restarts on the same port would sometimes find it taken by one.
pub(crate) fn free_port() -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..100 {
        let port = fastrand::u16(20_000..32_000);
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether `data` can be created: it is missing, or an empty directory.
fn is_vacant(data: &Path) -> bool {
    match fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// The last five lines of `log` after the byte `start`, as one line.
pub(crate) fn tail(log: &Path, start: u64) -> String {
    let text = fs::read(log).unwrap_or_default();
    let new = text.get(usize::try_from(start).unwrap_or(0)..).unwrap_or_default();
    let lines: Vec<_> = String::from_utf8_lossy(new).lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
