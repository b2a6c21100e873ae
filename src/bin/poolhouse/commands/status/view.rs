//! The service's answer as text for people. It knows nothing of HTTP and of terminals, but for the colours.

use crate::log_lines::escaped;
use serde::Deserialize;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The width of the bar.
const BAR: usize = 25;

/// What is shown of the answer.
#[derive(Debug, Deserialize)]
pub(super) struct View {
    report: Report,
    connections: Connections,
}

#[derive(Debug, Deserialize)]
struct Report {
    status: Verdict,
    pool_stats: PoolStats,
    warnings: Vec<String>,
    recommendations: Recommendations,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Healthy,
    Warning,
    Error,
}

#[derive(Debug, Deserialize)]
struct PoolStats {
    min_connections: u32,
    max_connections: u32,
    in_use: u32,
    waiting: u32,
    max_waiting: u32,
    peak_in_use: u32,
    usage_percent: f64,
}

#[derive(Debug, Deserialize)]
struct Recommendations {
    advice: Vec<String>,
    basis: String,
}

#[derive(Debug, Deserialize)]
struct Connections {
    idle: u32,
    connecting: u32,
    resetting: u32,
    in_use: u32,
    held: Vec<Held>,
}

#[derive(Debug, Deserialize)]
struct Held {
    acquired_at: String,
    held_ms: f64,
}

impl View {
    pub(super) fn of(answer: &Value) -> Result<View, serde_json::Error> {
        View::deserialize(answer)
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.report.status
    }

    pub(super) fn text(&self, url: &str, has_colours: bool) -> String {
        let View { report, connections, .. } = self;
        let PoolStats { min_connections: min, max_connections: max, in_use, waiting, .. } = report.pool_stats;
        let mut text = format!("{url}  {}\n", report.status.word(has_colours));
        let percent = report.pool_stats.usage_percent;
        let bar = bar(in_use, max);
        let _ = writeln!(
            text,
            "  in use   {in_use} of {max} ({percent:.0}%)  {bar}  peak {}",
            report.pool_stats.peak_in_use
        );
        let Connections { idle, connecting, resetting, .. } = connections;
        let _ = writeln!(
            text,
            "  idle     {idle}, {connecting} connecting, {resetting} resetting; minimum {min}"
        );
        let _ = write!(text, "  waiting  {waiting} of at most {} callers", report.pool_stats.max_waiting);
        section(&mut text, "Warnings", report.warnings.iter().map(|line| escaped(line)));
        section(&mut text, "Advice", report.recommendations.advice.iter().map(|line| escaped(line)));
        let _ = write!(text, "\nBasis of the advice\n  {}", escaped(&report.recommendations.basis));
        section(
            &mut text,
            "Held connections, by the line that acquired them",
            connections.by_line().into_iter(),
        );
        text
    }
}

impl Verdict {
    fn word(self, has_colours: bool) -> String {
        let (word, colour) = match self {
            Verdict::Healthy => ("healthy", 32),
            Verdict::Warning => ("warning", 33),
            Verdict::Error => ("error", 31),
        };
        if has_colours { format!("\u{1b}[1;{colour}m{word}\u{1b}[0m") } else { word.to_owned() }
    }
}

impl Connections {
    /// Each line of code with its connections, the one that has held one for longest first.
    fn by_line(&self) -> Vec<String> {
        let mut lines: BTreeMap<&str, (u32, f64)> = BTreeMap::new();
        for held in &self.held {
            let (count, longest) = lines.entry(&held.acquired_at).or_default();
            *count += 1;
            *longest = longest.max(held.held_ms);
        }
        let mut lines: Vec<_> = lines.into_iter().collect();
        lines.sort_by_key(|(_, (_, longest))| Reverse((longest * 1000.0) as u64));
        let mut shown: Vec<_> = lines
            .into_iter()
            .map(|(line, (count, ms))| {
                format!("{count} at {}, for up to {:.1} s", escaped(line), ms / 1000.0)
            })
            .collect();
        // The service lists a bounded number.
        let listed = self.held.len();
        if let Some(more) = (self.in_use as usize).checked_sub(listed).filter(|more| *more > 0) {
            shown.push(format!("{more} more"));
        }
        shown
    }
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = write!(text, "\n{title}");
    }
    for line in lines {
        let _ = write!(text, "\n  {line}");
    }
}

fn bar(in_use: u32, max: u32) -> String {
    let share = f64::from(in_use) / f64::from(max.max(1));
    let full = ((share * BAR as f64).ceil() as usize).min(BAR);
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hostile_text_cannot_control_the_terminal() {
        let hostile = "first\u{1b}[2J\nsecond";
        let answer = json!({
            "report": {
                "status": "warning",
                "pool_stats": {"min_connections": 2, "max_connections": 0, "in_use": 9, "waiting": 0, "max_waiting": 0,
                    "peak_in_use": 9, "usage_percent": 100.0},
                "warnings": [hostile],
                "recommendations": {"advice": [hostile], "basis": hostile},
            },
            "connections": {"idle": 0, "connecting": 0, "resetting": 0, "in_use": 5,
                "held": [{"acquired_at": hostile, "held_ms": 1e300}, {"acquired_at": "b.rs:1:1", "held_ms": 1.0}]},
        });
        let text = View::of(&answer).unwrap().text("http://x", false);
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.contains("[#########################]") && text.contains("\n  3 more"), "{text}");
        assert!(View::of(&json!({"report": 1})).is_err());
    }
}
