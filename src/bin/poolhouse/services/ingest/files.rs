//! The files to load: which there are, and their bytes. It knows nothing of documents in the database.

use poolhouse::settings::DocumentSettings;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::iter;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// A path of a walk.
#[derive(Debug)]
pub(super) enum Found {
    /// It may be loaded; what it is shows when it is read.
    File(PathBuf),
    /// It cannot be looked at, for this reason.
    Bad(PathBuf, String),
}

/// The files and folders to load.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    paths: Vec<PathBuf>,
    /// Files below a folder count only with one of these endings; with any, if there is none.
    endings: Vec<String>,
}

impl Roots {
    /// Finds the paths, in the one form by which documents are known: absolute, without symbolic links. One that is below
    /// another is left out.
    ///
    /// # Errors
    ///
    /// Every path that does not exist, cannot be reached or is not UTF-8, with the reason.
    pub(crate) fn find(given: &[PathBuf], endings: &[String]) -> Result<Roots, Vec<String>> {
        let (mut paths, mut problems) = (Vec::new(), Vec::new());
        for path in given {
            match fs::canonicalize(path) {
                Err(error) => problems.push(format!("cannot read {}: {error}", path.display())),
                Ok(path) if path.to_str().is_none() => {
                    problems.push(format!("cannot read {}: its path is not UTF-8", path.display()));
                }
                Ok(path) => paths.push(path),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        paths.sort();
        // Of paths in this order, one that is below another comes after it.
        paths.dedup_by(|path, earlier| path.starts_with(&*earlier));
        let endings = endings.iter().map(|ending| ending.trim_start_matches('.').to_lowercase()).collect();
        Ok(Roots { paths, endings })
    }

    /// The folders, without a slash at the end.
    pub(super) fn folders(&self) -> impl Iterator<Item = &str> {
        let folders = self.paths.iter().filter(|path| path.is_dir());
        folders.filter_map(|path| Some(path.to_str()?.trim_end_matches('/')))
    }

    /// Every file, in the order of the names. Symbolic links are followed, of those to the same folder the first one: folders with
    /// two links to the next would otherwise have twice as many files on each level. Hidden files and folders are left out, unless
    /// they are named themselves.
    pub(super) fn walk(&self) -> impl Iterator<Item = Found> + '_ {
        self.paths.iter().flat_map(move |root| {
            let entries = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
            let mut shown = entries.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name()));
            let mut linked = HashSet::new();
            iter::from_fn(move || {
                loop {
                    match shown.next()? {
                        Ok(entry) if !entry.file_type().is_dir() => {
                            if self.is_wanted(&entry) {
                                return Some(Found::File(entry.into_path()));
                            }
                        }
                        Ok(entry) if entry.path_is_symlink() && !linked.insert(identity(&entry)) => {
                            shown.skip_current_dir();
                            let reason =
                                "is a link to a folder that is read by another link already".to_owned();
                            return Some(Found::Bad(entry.into_path(), reason));
                        }
                        Ok(_) => {}
                        Err(error) => {
                            let path = error.path().unwrap_or(root).to_owned();
                            return Some(Found::Bad(path, walk_problem(&error)));
                        }
                    }
                }
            })
        })
    }

    fn is_wanted(&self, entry: &DirEntry) -> bool {
        let is_named_itself = entry.depth() == 0;
        is_named_itself || self.endings.is_empty() || self.endings.contains(&ending(entry.path()))
    }

    /// How many files there are, and the bytes of those that are not too large: what a run is compared with to show its
    /// progress. Stops when `is_stopped` says so.
    pub(super) fn measure(&self, limit: u64, is_stopped: impl Fn() -> bool) -> (u64, u64) {
        let (mut files, mut bytes) = (0, 0);
        for found in self.walk().take_while(|_| !is_stopped()) {
            files += 1;
            if let Found::File(path) = found {
                let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
                bytes += if length <= limit { length } else { 0 };
            }
        }
        (files, bytes)
    }
}

/// The device and the number of a file; of one that is gone in the meantime, none.
fn identity(entry: &DirEntry) -> Option<(u64, u64)> {
    entry.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok()
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn walk_problem(error: &walkdir::Error) -> String {
    match (error.loop_ancestor(), error.io_error()) {
        (Some(ancestor), _) => {
            format!("is a loop of symbolic links: it leads back to {}", ancestor.display())
        }
        (None, Some(error)) => format!("cannot be read: {error}"),
        (None, None) => format!("cannot be read: {error}"),
    }
}

/// The media type of a file, by its ending. What is neither HTML nor Markdown is plain text.
pub(super) fn media_type(path: &Path) -> &'static str {
    match ending(path).as_str() {
        "html" | "htm" | "xhtml" => "text/html",
        "md" | "markdown" | "mkd" => "text/markdown",
        _ => "text/plain",
    }
}

/// Reads a file of at most `DOCUMENT_MAX_BYTES`. Never waits for a writer, as reading a FIFO would.
///
/// # Errors
///
/// Why it cannot be loaded.
pub(super) fn read(path: &Path, settings: &DocumentSettings) -> Result<Vec<u8>, String> {
    let limit = u64::from(settings.max_bytes);
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    // Before it is opened, because opening a device may do something.
    check(&fs::metadata(path).map_err(unreadable)?, limit)?;
    let not_waiting = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(not_waiting).open(path).map_err(unreadable)?;
    // It may be another file by now.
    let metadata = file.metadata().map_err(unreadable)?;
    check(&metadata, limit)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    // It may grow while it is read, and files of /proc have no length.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    check_length(bytes.len() as u64, limit)?;
    Ok(bytes)
}

fn check(metadata: &Metadata, limit: u64) -> Result<(), String> {
    let kind = metadata.file_type();
    match kind {
        _ if kind.is_file() => check_length(metadata.len(), limit),
        _ if kind.is_fifo() => Err("is a FIFO, not a file".to_owned()),
        _ if kind.is_socket() => Err("is a socket, not a file".to_owned()),
        _ if kind.is_dir() => Err("is a folder, not a file".to_owned()),
        _ => Err("is a device, not a file".to_owned()),
    }
}

fn check_length(length: u64, limit: u64) -> Result<(), String> {
    match length > limit {
        true => Err(format!("is larger than {limit} bytes (DOCUMENT_MAX_BYTES)")),
        false => Ok(()),
    }
}

/// Whether a file is gone. One that cannot be looked at for another reason may still be there.
pub(super) fn is_gone(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is below a folder begins with its name and a slash.
    #[test]
    fn the_root_is_a_folder_like_others() {
        let roots = Roots::find(&["/".into()], &[]).unwrap();
        assert_eq!(roots.folders().collect::<Vec<_>>(), [""]);
        let roots = Roots::find(&["/proc/self/../self".into(), "/".into()], &[]).unwrap();
        assert_eq!(roots.paths, [Path::new("/")]);
    }
}
