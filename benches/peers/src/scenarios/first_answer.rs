//! From the start of `poolhouse serve` to the first 200, with its private server made anew and kept.

use super::Stage;
use crate::measure::median;
use crate::report::{Table, time, title};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(stage: &Stage) {
    if !stage.program.is_file() {
        println!("first answer: skipped; no program at {}\n", stage.program.display());
        return;
    }
    let (mut new, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let directory = tempfile::tempdir().expect("a directory");
        // The server's user has to pass through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        new.push(first_answer(&stage.program, directory.path()));
        kept.push(first_answer(&stage.program, directory.path()));
    }
    title("from the start of `poolhouse serve` to the first 200 of /api/health, private server included");
    let mut table = Table::new(&["", "took"]);
    table.row(["nothing there yet: server made, schema applied, sample loaded".into(), time(median(new))]);
    table.row(["everything kept from the run before".into(), time(median(kept))]);
    table.print();
}

fn first_answer(program: &Path, directory: &Path) -> f64 {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let mut command = Command::new(program);
    command.arg("serve").current_dir(directory).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    super::without_settings(&mut command).env("HTTP_BIND", format!("127.0.0.1:{port}"));
    let begun = Instant::now();
    let mut service = command.spawn().expect("the program starts");
    while !answers(port) {
        assert!(begun.elapsed() < PATIENCE, "no 200 within {PATIENCE:?}");
        assert!(service.try_wait().expect("the program's state").is_none(), "the program has ended");
        thread::sleep(Duration::from_millis(2));
    }
    let took = begun.elapsed().as_secs_f64();
    kill(Pid::from_raw(service.id().cast_signed()), Signal::SIGTERM).expect("the program is told to end");
    service.wait().expect("the program ends");
    took
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
