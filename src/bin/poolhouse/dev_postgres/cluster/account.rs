//! The user a server runs as: PostgreSQL refuses to run as root.

use super::ClusterError;
use nix::unistd::{User, geteuid};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The user a server runs as, if not the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// Returns `None` for an ordinary user, who runs the server. Root needs another user, because PostgreSQL refuses
    /// to run as root: the owner of `data`, or the user `postgres`.
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

    /// Whether this user can enter `directory`. A shell tries it as that user, so that every rule of the system
    /// counts.
    pub(crate) fn can_enter(&self, directory: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd -- \"$1\"", "sh"]).arg(directory).current_dir("/");
        command.uid(self.uid).gid(self.gid).stdin(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}
