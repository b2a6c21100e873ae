//! Finds the server's programs and their version.

use super::ClusterError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory with `initdb` and `postgres`, and their major version.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) bin: PathBuf,
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
        // Of several directories with the same version, the first.
        let newest = found.iter().rev().max_by_key(|programs| programs.major).cloned();
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
    // Homebrew links only one version into PATH.
    for prefix in ["/opt/homebrew/opt", "/usr/local/opt"] {
        let kegs = fs::read_dir(prefix).into_iter().flatten().flatten();
        let of_server = kegs.filter(|keg| keg.file_name().to_string_lossy().starts_with("postgresql"));
        directories.extend(of_server.map(|keg| keg.path().join("bin")));
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
