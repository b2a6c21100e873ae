//! `poolhouse ingest`: what it loads, what it leaves out, and what it says about that.

use super::folder::{Folder, said};
use crate::support::app::poolhouse;
use crate::support::postgres;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

fn counts(summary: &Value) -> [&Value; 6] {
    ["added", "replaced", "unchanged", "skipped", "vanished", "pruned"].map(|name| &summary[name])
}

#[test]
fn a_folder_is_loaded_and_again_only_what_has_changed() {
    let folder = Folder::new();
    folder.write("notes.txt", "One. ".repeat(100));
    folder.write("deep/er/readme.md", "Intro\n# The title\n\nText with `code`.");
    folder.write("page.HTML", "<html><title>Page &amp; more</title><h1>Head</h1><p>Some <i>text</i>.");
    folder.write("no ending", "\u{feff}Ünïcödé 👩‍🚀 text.\r\nSecond line.");
    folder.write(".hidden/a.txt", "Not read.");
    let summary = folder.summary(0, &[]);
    assert_eq!(counts(&summary), [4, 0, 0, 0, 0, 0]);
    assert_eq!((&summary["files"], &summary["is_complete"]), (&json!(4), &json!(true)));
    let titles: Vec<String> = folder
        .database
        .client()
        .query("SELECT title || '|' || media_type FROM documents ORDER BY source", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        titles,
        ["The title|text/markdown", "no ending|text/plain", "notes.txt|text/plain", "Page & more|text/html"]
    );
    let rows = folder.rows();
    assert!(rows.iter().any(|row| row.contains("|Ünïcödé 👩‍🚀 text.\r\nSecond line.|")), "{rows:?}");
    assert!(rows.iter().any(|row| row.contains("|Head\n\nSome text.|")), "{rows:?}");
    let chunks = folder.count("SELECT count(*) FROM chunks");
    assert_eq!((&summary["chunks"], chunks > 6), (&json!(chunks), true));

    assert_eq!(counts(&folder.summary(0, &[])), [0, 0, 4, 0, 0, 0]);
    assert_eq!(folder.rows(), rows);

    let id = "SELECT document_id FROM documents WHERE title = 'notes.txt'";
    let before = folder.count(id);
    folder.write("notes.txt", "Two.");
    fs::remove_file(folder.path("page.HTML")).unwrap();
    let summary = folder.summary(0, &[]);
    assert_eq!(counts(&summary), [0, 1, 2, 0, 1, 0]);
    assert_eq!(summary["vanished_sources"], json!([folder.path("page.HTML")]));
    assert_eq!(folder.count(id), before);
    assert_eq!(folder.rows().iter().filter(|row| row.contains("notes.txt")).count(), 1);

    // Other sizes split everything again.
    assert_eq!(counts(&folder.summary(0, &["--only", "txt,.MD", "--prune"])), [0, 0, 2, 0, 1, 1]);
    let output = poolhouse(Path::new("/"))
        .arg("ingest")
        .arg(folder.path(""))
        .env("DATABASE_URL", folder.database.url())
        .output();
    let said = said(&output.unwrap());
    for line in ["Looked at 3 files", "replaced   3", "unchanged  0", "vanished   0\n"] {
        assert!(said.contains(line), "{line:?} is missing in: {said}");
    }
}

#[test]
fn documents_of_elsewhere_are_left_alone() {
    let folder = Folder::new();
    folder.write("a.txt", "Here.");
    let others = format!(
        "INSERT INTO documents (source, title, media_type, sha256, byte_length, chunk_bytes, overlap_bytes)
         SELECT source, 'x', 'text/plain', sha256('x'), 1, 200, 50
         FROM unnest(ARRAY['https://example.org/', '{0}-too/gone.txt', '{0}', '/gone.txt']) source",
        folder.path("").display().to_string().trim_end_matches('/')
    );
    folder.database.client().batch_execute(&others).unwrap();
    assert_eq!(counts(&folder.summary(0, &["--prune"])), [1, 0, 0, 0, 0, 0]);
    assert_eq!(folder.count("SELECT count(*) FROM documents"), 5);
}

#[test]
fn bad_files_are_named_and_left_out_and_the_others_are_loaded() {
    let folder = Folder::new();
    folder.fill(5);
    folder.write("binary.bin", b"\x7fELF\x02\x01\x01\0\0");
    folder.write("empty.txt", "");
    folder.write("blank.txt", " \n\t\n");
    folder.write("latin1.txt", b"caf\xe9 cr\xe8me");
    folder.write("utf16.txt", b"\xff\xfeh\0i\0");
    folder.write("nothing.html", "<script>only()</script>");
    fs::File::create(folder.path("huge.txt")).unwrap().set_len(1 << 30).unwrap();
    mkfifo(&folder.path("fifo.txt"), Mode::S_IRWXU).unwrap();
    symlink("loop.txt", folder.path("loop.txt")).unwrap();
    symlink(".", folder.path("round")).unwrap();
    symlink("missing", folder.path("dangling.txt")).unwrap();
    symlink("/dev/zero", folder.path("device.txt")).unwrap();
    symlink("/proc/self/mem", folder.path("unreadable.txt")).unwrap();
    let reasons = [
        ("binary.bin", "is binary: byte 7 is NUL"),
        ("blank.txt", "has no text"),
        ("dangling.txt", "cannot be read: No such file"),
        ("device.txt", "is a device"),
        ("empty.txt", "is empty"),
        ("fifo.txt", "is a FIFO"),
        ("huge.txt", "is larger than 4194304 bytes (DOCUMENT_MAX_BYTES)"),
        ("latin1.txt", "is not UTF-8: byte 3"),
        ("loop.txt", "cannot be read: Too many levels of symbolic links"),
        ("nothing.html", "has no text"),
        ("round", "is a loop of symbolic links: it leads back to"),
        ("unreadable.txt", "cannot be read: Input/output error"),
        ("utf16.txt", "is UTF-16"),
    ];
    let output = folder.ingest(&[]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for (name, reason) in reasons {
        let line = format!("Left out: {} {reason}", folder.path(name).display());
        assert!(said.contains(&line), "{line:?} is missing in: {said}");
    }
    assert!(said.contains("poolhouse: files left out: 13, as named above"), "{said}");

    let summary = folder.summary(3, &[]);
    assert_eq!(counts(&summary), [0, 0, 5, 13, 0, 0]);
    let mut named: Vec<_> =
        summary["skipped_files"].as_array().unwrap().iter().map(|file| file["path"].clone()).collect();
    named.sort_by_key(Value::to_string);
    assert_eq!(named, reasons.map(|(name, _)| json!(folder.path(name))));
    assert_eq!(folder.count("SELECT count(*) FROM documents"), 5);
    assert_eq!(
        folder.count(
            "SELECT count(*) FROM documents WHERE document_id NOT IN (SELECT document_id FROM chunks)"
        ),
        0
    );
}

/// Two links on each level lead to the next one: 2^14 paths to one file.
#[test]
fn links_do_not_multiply_what_they_lead_to() {
    const LEVELS: usize = 14;
    let folder = Folder::new();
    folder.write(&format!("{LEVELS}/a.txt"), "Here.");
    for level in 0..LEVELS {
        fs::create_dir(folder.path(&level.to_string())).unwrap();
        for name in ["a", "b"] {
            symlink(format!("../{}", level + 1), folder.path(&format!("{level}/{name}"))).unwrap();
        }
    }
    let summary = folder.summary(3, &[]);
    // The file itself, and by the first link to its folder.
    assert_eq!(counts(&summary)[..3], [2, 0, 0]);
    let left_out = &summary["skipped_files"][0];
    assert_eq!(left_out["reason"], "is a link to a folder that is read by another link already");
}

#[test]
fn files_and_folders_without_permission_are_left_out_and_are_not_gone() {
    let folder = Folder::new();
    folder.fill(2);
    folder.write("closed/a.txt", "Closed.");
    assert_eq!(counts(&folder.summary(0, &[])), [3, 0, 0, 0, 0, 0]);
    for path in ["01.txt", "closed"] {
        fs::set_permissions(folder.path(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let mut command = folder.command(&["--json", "--prune"]);
    // Everything is permitted to root, so that another user runs a program that this user can reach.
    let place = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    if geteuid().is_root() {
        let program = place.path().join("poolhouse");
        fs::copy(env!("CARGO_BIN_EXE_poolhouse"), &program).unwrap();
        let path = folder.path("");
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        command = std::process::Command::new(program);
        command.env_clear().arg("ingest").arg(path).args(["--chunk-bytes", "200", "--overlap-bytes", "50"]);
        command.args(["--json", "--prune"]).env("DATABASE_URL", folder.database.url()).current_dir("/");
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    fs::set_permissions(folder.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for path in ["01.txt", "closed"] {
        let line = format!("{} cannot be read: Permission denied", folder.path(path).display());
        assert!(said.contains(&line), "{line:?} is missing in: {said}");
    }
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counts(&summary), [0, 0, 1, 2, 0, 0]);
    assert_eq!(folder.count("SELECT count(*) FROM documents"), 3);
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_loaded() {
    let folder = Folder::new();
    folder.fill(1);
    for (arguments, code, words) in [
        (
            &["missing", "also missing"][..],
            1,
            &["cannot read missing: No such file", "cannot read also missing"][..],
        ),
        (
            &["--chunk-bytes", "0"],
            2,
            &["DOCUMENT_CHUNK_BYTES: 0 (allowed: a whole number from 64 to 131072)"],
        ),
        (&["--chunk-bytes=-1"], 2, &["--chunk-bytes"]),
        (
            &["--overlap-bytes", "200"],
            2,
            &["DOCUMENT_OVERLAP_BYTES: 200 (allowed: at most 100, half of DOCUMENT_CHUNK"],
        ),
        (&["--workers", "0"], 2, &["--workers"]),
        (&["--wait-s", "x"], 2, &["--wait-s"]),
    ] {
        let mut command = poolhouse(folder.path("..").as_path());
        command.args(["ingest", "files"]).env("DATABASE_URL", folder.database.url()).args(arguments);
        let is_chunk = arguments.contains(&"--overlap-bytes");
        let output =
            if is_chunk { command.args(["--chunk-bytes", "200"]) } else { &mut command }.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        for word in words {
            assert!(said(&output).contains(word), "{word:?} is missing in: {}", said(&output));
        }
    }
    let mut command = folder.command(&["--chunk-bytes", "128"]);
    let output = command.env("DOCUMENT_MAX_BYTES", "100").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let mut command = poolhouse(folder.path("..").as_path());
    command.args(["ingest", "files"]).env("DATABASE_URL", folder.database.url());
    let output = command.env("DOCUMENT_MAX_BYTES", "100").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let words = "DOCUMENT_CHUNK_BYTES: 2000 (allowed: at most 100, the value of DOCUMENT_MAX_BYTES)";
    assert!(said(&output).contains(words), "{}", said(&output));
    assert_eq!(folder.count("SELECT count(*) FROM documents"), 0);

    let without_tables = postgres::fresh_database();
    let mut command = folder.command(&[]);
    let output = command.env("DATABASE_URL", without_tables.url()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("lacks tables of this version"), "{}", said(&output));
}

#[test]
fn a_full_disk_at_the_server_ends_the_run_with_whole_documents_only() {
    let folder = Folder::new();
    folder.fill(12);
    // The server raises what a full disk raises, in the middle of a document's chunks.
    let full = "
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
        END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON chunks FOR EACH ROW
            WHEN (NEW.text LIKE '%number 6%' AND NEW.ordinal = 3) EXECUTE FUNCTION full_disk()";
    folder.database.client().batch_execute(full).unwrap();
    let output = folder.ingest(&["--workers", "2"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("poolhouse: the disk of the database 127.0.0.1:"), "{}", said(&output));
    folder.database.client().batch_execute("DROP TRIGGER full_disk ON chunks").unwrap();
    let loaded = folder.count("SELECT count(*) FROM documents");
    assert!((1..12).contains(&loaded), "{loaded}");

    let whole = Folder::new();
    whole.fill(12);
    folder.summary(0, &[]);
    whole.summary(0, &[]);
    let place = |folder: &Folder| folder.path("").display().to_string();
    let expected: Vec<_> =
        whole.rows().iter().map(|row| row.replace(&place(&whole), &place(&folder))).collect();
    assert_eq!(folder.rows(), expected);
}
