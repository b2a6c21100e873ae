//! Who asks: wrk, with ids over the whole table in an order of its own for each round.

use crate::contestants::MOVIES;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use tempfile::NamedTempFile;

/// wrk keeping so many connections busy.
pub(crate) struct Wrk {
    connections: u32,
    script: NamedTempFile,
}

/// What wrk saw; times in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) answers: f64,
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    /// Answers that are none of 2xx and 3xx, connects that failed, reads and writes that failed, timeouts.
    pub(crate) errors: u64,
}

/// A round is the same for everybody: its number makes the order of ids. Requests are made beforehand; one
/// thread of wrk asks for far more than any service here answers.
const SCRIPT: &str = r#"
local requests = {}
function init(args)
    math.randomseed(tonumber(args[1]))
    for id = 1, MOVIES do requests[id] = wrk.format("GET", "/api/movies/" .. id) end
end
function request() return requests[math.random(MOVIES)] end
function done(summary, latency)
    local e = summary.errors
    io.write(string.format("figures %d %d %d %d %d %d\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), latency.max,
        e.status + e.connect + e.read + e.write + e.timeout))
end
"#;

impl Wrk {
    pub(crate) fn new(connections: u32) -> Wrk {
        let mut script = tempfile::Builder::new().suffix(".lua").tempfile().expect("a file");
        let text = SCRIPT.replace("MOVIES", &MOVIES.to_string());
        script.write_all(text.as_bytes()).expect("wrk's script");
        Wrk { connections, script }
    }

    pub(crate) fn run(&self, address: SocketAddr, seconds: u32, round: usize) -> Asked {
        let mut command = Command::new("wrk");
        command
            .args(["--threads", "1", "--timeout", "30s", "--connections", &self.connections.to_string()])
            .args(["--duration", &format!("{seconds}s"), "--script"])
            .arg(self.script.path())
            .args([&format!("http://{address}"), "--", &(round + 1).to_string()]);
        let output =
            command.stdin(Stdio::null()).output().expect("wrk runs: sh config/install-deps.sh bench-http");
        let text = String::from_utf8_lossy(&output.stdout);
        let figures: Option<Vec<f64>> = text
            .lines()
            .find_map(|line| line.strip_prefix("figures "))
            .and_then(|figures| figures.split(' ').map(|figure| figure.parse().ok()).collect());
        let Some(&[answers, micros, p50, p99, max, errors]) = figures.as_deref() else {
            panic!("{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        };
        Asked {
            answers,
            per_second: answers / (micros / 1e6),
            p50: p50 / 1e6,
            p99: p99 / 1e6,
            max: max / 1e6,
            errors: errors as u64,
        }
    }
}
