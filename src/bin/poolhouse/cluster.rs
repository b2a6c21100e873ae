//! A PostgreSQL server of our own: its programs found, its data directory made, the server started and
//! stopped. Whose server it is, and where it lives, is the caller's business.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a change of the server's state is looked for.
const POLL: Duration = Duration::from_millis(10);
/// A crashed server repairs itself before it is ready, so that this is generous.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Other programs take ports too; losing this race five times in a row is not bad luck any more.
const PORT_ATTEMPTS: usize = 5;

/// Why a server could not be found, made, started or stopped, in words for its user.
#[derive(Debug)]
pub(crate) struct ClusterError(String);

impl ClusterError {
    pub(crate) fn new(text: impl Into<String>) -> ClusterError {
        ClusterError(text.into())
    }

    /// For `map_err`: what was being done, then the operating system's words.
    pub(crate) fn during<E: fmt::Display>(doing: impl fmt::Display) -> impl FnOnce(E) -> ClusterError {
        move |error| ClusterError(format!("cannot {doing}: {error}"))
    }
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory with `initdb` and `postgres`, and their major version.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    bin: PathBuf,
    pub(crate) major: u32,
}

impl Programs {
    /// Finds the server programs: of the version `wanted`, else the newest.
    pub(crate) fn find(wanted: Option<u32>) -> Result<Programs, ClusterError> {
        let mut found = Vec::new();
        for bin in candidate_directories() {
            if let Some(major) = server_version(&bin)
                && bin.join("initdb").is_file()
            {
                found.push(Programs { bin, major });
            }
        }
        let newest = found.iter().max_by_key(|programs| programs.major).cloned();
        match (wanted, newest) {
            (_, None) => Err(ClusterError::new(format!(
                "no PostgreSQL server programs found (looked through pg_config --bindir, /usr/lib/postgresql/*/bin \
                 and PATH): install them with `{}`, or set DATABASE_URL to a server that runs already",
                install_command()
            ))),
            (None, Some(newest)) => Ok(newest),
            (Some(wanted), Some(newest)) => {
                found.into_iter().find(|programs| programs.major == wanted).ok_or_else(|| {
                    ClusterError::new(format!(
                        "the data was made by PostgreSQL {wanted}, the programs found are of PostgreSQL {}: \
                         install PostgreSQL {wanted}",
                        newest.major
                    ))
                })
            }
        }
    }
}

fn candidate_directories() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    // Debian's pg_config belongs to the client library and may name a version whose server is not installed;
    // the caller checks each directory for the server itself.
    if let Ok(output) = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output() {
        directories.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        directories.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    if let Some(path) = std::env::var_os("PATH") {
        directories.extend(std::env::split_paths(&path));
    }
    directories
}

/// The major version in `postgres (PostgreSQL) 15.14 (Debian …)`.
fn server_version(bin: &Path) -> Option<u32> {
    let program = bin.join("postgres");
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn install_command() -> &'static str {
    if cfg!(target_os = "macos") { "brew install postgresql" } else { "apt-get install postgresql" }
}

/// The user a server runs as, where that is not ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// `None` for an ordinary user, who runs the server as themselves. PostgreSQL refuses to run as root, so
    /// that root needs somebody else: whoever owns `data` already, or the user `postgres`.
    pub(crate) fn for_server(data: &Path) -> Result<Option<Account>, ClusterError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        if let Ok(metadata) = fs::metadata(data)
            && metadata.uid() != 0
        {
            return Ok(Some(Account { uid: metadata.uid(), gid: metadata.gid() }));
        }
        match User::from_name("postgres") {
            Ok(Some(user)) => Ok(Some(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() })),
            _ => Err(ClusterError::new(
                "PostgreSQL does not run as root and there is no user \"postgres\": run this as an ordinary user",
            )),
        }
    }

    /// Whether this user can enter `directory`, asked of the operating system so that every rule counts.
    pub(crate) fn can_enter(&self, directory: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd -- \"$1\"", "sh"]).arg(directory).current_dir("/");
        command.uid(self.uid).gid(self.gid).stdin(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// A data directory, and what is needed to run a server on it.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    programs: Programs,
    data: PathBuf,
    account: Option<Account>,
}

impl Cluster {
    /// A cluster that may or may not exist yet. `data` must be absolute: the server changes into it.
    pub(crate) fn new(programs: Programs, data: PathBuf, account: Option<Account>) -> Cluster {
        Cluster { programs, data, account }
    }

    /// The version that made the data directory `data`; `None` where there is none.
    pub(crate) fn version_of(data: &Path) -> Option<u32> {
        fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().split('.').next()?.parse().ok()
    }

    /// Makes the data directory: superuser `user`, every login by `password`.
    ///
    /// It appears under its name only when complete, so that an interrupted attempt is simply repeated.
    pub(crate) fn create(&self, user: &str, password: &str) -> Result<(), ClusterError> {
        let half_made = self.data.with_extension("new");
        remove_directory(&half_made)
            .map_err(ClusterError::during(format!("remove {}", half_made.display())))?;
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
        made?;
        fs::rename(&half_made, &self.data)
            .map_err(ClusterError::during(format!("rename {}", half_made.display())))
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
        command.args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "--no-instructions"]);
        command.arg(format!("--locale={locale}"));
        let output = command.output().map_err(ClusterError::during("run initdb"))?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(ClusterError::new(format!("initdb failed: {}", words.trim())))
    }

    /// Starts a server on any free port of `ports`.
    pub(crate) fn start_anywhere(
        &self,
        options: &[(&str, &str)],
        log: &Path,
    ) -> Result<Server, ClusterError> {
        let mut attempt = 1;
        loop {
            let port = free_port().map_err(ClusterError::during("find a free port on 127.0.0.1"))?;
            match self.start(port, options, log) {
                // Somebody else took the port between our look and the server's.
                Err(error) if attempt < PORT_ATTEMPTS && error.0.contains("could not bind") => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Starts a server on `port` of 127.0.0.1 and waits until it answers. Its words go to the end of `log`.
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
        // TCP on this machine only; a socket file would bring a path-length limit and a place to clean up.
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        for (name, value) in options {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // In a process group of its own, a Ctrl-C meant for us does not end it while connections are in use.
        command.process_group(0).stdout(log_file).stderr(stderr);
        let child = command.spawn().map_err(ClusterError::during("start the PostgreSQL server"))?;
        // Before anything else: from here on our death must be its end.
        let watchdog = Watchdog::over(child.id(), &self.data).ok();
        let mut server = Server { child, port, data: self.data.clone(), watchdog };

        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if server.is_ready() {
                return Ok(server);
            }
            if let Some(status) = server.exit_status() {
                let words = tail(log, log_start);
                return Err(ClusterError::new(format!("the PostgreSQL server ended ({status}): {words}")));
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

    /// Whether a server runs on this data directory that an earlier process of ours left behind, and which.
    ///
    /// A `postmaster.pid` whose process is no server of this directory is removed: after a restart of the
    /// machine that number may be anybody's, and the server would refuse to start because of it.
    pub(crate) fn left_behind(&self) -> Option<Pid> {
        let file = self.data.join("postmaster.pid");
        let pid = Pid::from_raw(fs::read_to_string(&file).ok()?.lines().next()?.trim().parse().ok()?);
        // Dead: the server itself sees that, and checks for orphaned backends by what the file says.
        if kill(pid, None).is_err() {
            return None;
        }
        if command_line(pid).is_some_and(|line| line.contains(&*self.data.to_string_lossy())) {
            return Some(pid);
        }
        let _ = fs::remove_file(&file);
        None
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.bin.join(program));
        for (name, _) in std::env::vars_os() {
            // PGDATA, PGPORT, PGOPTIONS and the like are about another server.
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Makes a directory that only the server's user can read.
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

/// A running server, a child of ours. It ends when this is dropped, or when we die; [`stop`](Server::stop)
/// waits for that.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    data: PathBuf,
    watchdog: Option<Watchdog>,
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// Ends every session, writes everything out.
    Fast,
    /// Ends at once; the next start repairs.
    Immediate,
    /// `kill -9`: not even its own processes are told.
    Crash,
}

impl Shutdown {
    fn signal(self) -> Signal {
        match self {
            Shutdown::Fast => Signal::SIGINT,
            Shutdown::Immediate => Signal::SIGQUIT,
            Shutdown::Crash => Signal::SIGKILL,
        }
    }
}

impl Server {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// How the server ended; `None` while it runs.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends the server and waits for it, ever less gently: each step gets `patience`.
    pub(crate) fn stop(mut self, first: Shutdown, patience: Duration) -> io::Result<ExitStatus> {
        let status = self.end(first, patience)?;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        Ok(status)
    }

    fn end(&mut self, first: Shutdown, patience: Duration) -> io::Result<ExitStatus> {
        let gentler = |step: &Shutdown| *step as u8 >= first as u8;
        for step in [Shutdown::Fast, Shutdown::Immediate, Shutdown::Crash].into_iter().filter(gentler) {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            let _ = kill(self.pid(), step.signal());
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if let Some(status) = self.exit_status() {
                    return Ok(status);
                }
                std::thread::sleep(POLL);
            }
        }
        self.child.wait()
    }

    /// The server writes its state into the eighth line of its lock file.
    fn is_ready(&self) -> bool {
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else { return false };
        let mut lines = text.lines();
        lines.next().is_some_and(|pid| pid.trim() == self.child.id().to_string())
            && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }
}

/// A shell that ends a server when we die without having done so: by `kill -9`, by an abort.
///
/// It waits on a pipe whose other end is ours: the operating system closes that end whatever we die of.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Runs `script` with `arguments` as `$1`…, when this process ends before [`dismiss`](Watchdog::dismiss).
    pub(crate) fn new<A: AsRef<OsStr>>(
        script: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> io::Result<Watchdog> {
        // A line read is our leave to go; the end of the pipe is our death.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("read -r leave && exit 0\n{script}"), "poolhouse-watchdog"]);
        command.args(arguments).current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.spawn()?;
        let pipe = shell.stdin.take();
        Ok(Watchdog { shell, pipe })
    }

    /// Ends the server `pid` on the data directory `data` fast, and after ten seconds at once.
    fn over(server: u32, data: &Path) -> io::Result<Watchdog> {
        // The lock file says whether this process number is still that server.
        const SCRIPT: &str = r#"
            ours() { [ "$(head -n 1 "$2/postmaster.pid" 2>/dev/null)" = "$1" ] && kill -0 "$1" 2>/dev/null; }
            ours "$@" && kill -INT "$1"
            tenths=0
            while ours "$@" && [ $tenths -lt 100 ]; do sleep 0.1; tenths=$((tenths + 1)); done
            ours "$@" && kill -QUIT "$1""#;
        Watchdog::new(SCRIPT, [OsStr::new(&server.to_string()), data.as_os_str()])
    }

    /// Sends the shell home: the server has ended, or is somebody else's concern now.
    pub(crate) fn dismiss(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"leave\n");
        }
        let _ = self.shell.wait();
    }
}

/// A port of 127.0.0.1 that nobody listens on. Not one the operating system hands to outgoing connections:
/// a server that is restarted on the same port would now and then find it taken by one.
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

fn command_line(pid: Pid) -> Option<String> {
    if let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) {
        return Some(String::from_utf8_lossy(&bytes).replace('\0', " "));
    }
    let output = Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What was written to `log` since `start`, in one line.
fn tail(log: &Path, start: u64) -> String {
    let text = fs::read(log).unwrap_or_default();
    let new = text.get(usize::try_from(start).unwrap_or(0)..).unwrap_or_default();
    let lines: Vec<_> = String::from_utf8_lossy(new).lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
