//! A real full disk at the server: a small file system in memory, where this process may mount one.

use crate::folder::{Folder, said};
use crate::support::{Postgres, postgres};
use nix::unistd::{chown, geteuid};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a few megabytes; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where it cannot be mounted.
    fn mount(megabytes: u32) -> Option<SmallDisk> {
        let place = tempfile::tempdir().unwrap().keep();
        let disk = SmallDisk(place);
        (geteuid().is_root() && disk.has_size(&["-t", "tmpfs", "tmpfs"], megabytes)).then_some(disk)
    }

    fn grow(&self, megabytes: u32) {
        assert!(self.has_size(&["-o", "remount"], megabytes));
    }

    fn has_size(&self, how: &[&str], megabytes: u32) -> bool {
        let mut mount = Command::new("mount");
        mount.args(how).args(["-o", &format!("size={megabytes}m")]).arg(&self.0);
        mount.status().is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// Fills the disk of a server in the middle of a run, and makes room again; returns what is not as promised.
pub(crate) fn fill() -> Vec<String> {
    let Some(disk) = SmallDisk::mount(24) else {
        println!("full disk: left out, it takes root and the right to mount");
        return Vec::new();
    };
    // Dropped before the disk: it holds files there.
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    move_to(&disk.0, &server, &database.settings().name);
    let folder = Folder::on(database);
    for number in 0..150 {
        let text: String = (0..4000).map(|word| format!("word{number}x{word} ")).collect();
        folder.write(&format!("{number}.txt"), text);
    }
    let mut findings = Vec::new();
    let output = folder.ingest(&[]);
    let words = said(&output);
    if output.status.code() != Some(1) || !words.contains("poolhouse: the disk of the database 127.0.0.1:") {
        findings.push(format!("a full disk is not reported as one: {words}"));
    }
    let loaded = folder.count("SELECT count(*) FROM documents");
    println!("full disk: {loaded} of 150 documents were loaded before it");
    let half = "SELECT count(*) FROM documents WHERE document_id NOT IN (SELECT document_id FROM chunks)";
    if folder.count(half) > 0 || !(1..150).contains(&loaded) {
        findings.push(format!("documents without chunks on a full disk, or not {loaded} of 150"));
    }
    disk.grow(200);
    folder.summary(0, &[]);
    let whole = postgres::fresh_database().with_schema();
    let output = folder.start_on(&whole.url(), &[]).output();
    assert!(output.status.success(), "{}", said(&output));
    if folder.rows() != Folder::rows_of(&whole) {
        findings.push("a run after a full disk leaves other rows than an uninterrupted one".to_owned());
    }
    drop(folder);
    drop(server);
    findings
}

/// Moves a database of the server to a folder of the server's user.
fn move_to(folder: &Path, server: &Postgres, database: &str) {
    let directory = server.client().query_one("SHOW data_directory", &[]).unwrap().get::<_, String>(0);
    let owner = fs::metadata(directory).unwrap();
    chown(folder, Some(owner.uid().into()), Some(owner.gid().into())).unwrap();
    let mut client = server.client();
    client.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", folder.display())).unwrap();
    client.batch_execute(&format!("ALTER DATABASE {database} SET TABLESPACE small")).unwrap();
}
