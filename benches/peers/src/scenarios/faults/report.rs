//! The faults' table: a row for each figure, a column for each pool.

use super::callers::Log;
use super::peers::Kind;
use crate::measure::median;
use crate::report::{Table, title};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is measured, round by round.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
    /// How often, by row, contestant, and what was said.
    failures: BTreeMap<(usize, Kind, String), u64>,
}

struct Row {
    name: &'static str,
    unit: Unit,
    rounds: BTreeMap<Kind, Vec<f64>>,
}

#[derive(Clone, Copy)]
enum Unit {
    Count,
    Milliseconds,
}

impl Report {
    pub(super) fn count(&mut self, row: &'static str, kind: Kind, count: u64) {
        self.note(row, Unit::Count, kind, count as f64);
    }

    pub(super) fn time(&mut self, row: &'static str, kind: Kind, time: Duration) {
        self.note(row, Unit::Milliseconds, kind, time.as_secs_f64() * 1e3);
    }

    /// The calls that failed, and what was said.
    pub(super) fn failures(&mut self, row: &'static str, kind: Kind, log: &Log) {
        let number = self.note(row, Unit::Count, kind, log.failed() as f64);
        for (reason, count) in &log.failures {
            *self.failures.entry((number, kind, reason.clone())).or_default() += count;
        }
    }

    /// Returns the row's number.
    fn note(&mut self, name: &'static str, unit: Unit, kind: Kind, value: f64) -> usize {
        let found = self.rows.iter().position(|row| row.name == name);
        let number = found.unwrap_or_else(|| {
            self.rows.push(Row { name, unit, rounds: BTreeMap::new() });
            self.rows.len() - 1
        });
        self.rows[number].rounds.entry(kind).or_default().push(value);
        number
    }

    pub(super) fn print(&self) {
        title("faults: 16 callers on 8 connections, medians (lowest-highest)");
        let names = Kind::ALL.map(Kind::name);
        let mut table = Table::new(&[[""].as_slice(), &names].concat());
        for row in &self.rows {
            let cells = Kind::ALL.map(|kind| row.cell(kind));
            table.row([row.name.to_owned()].into_iter().chain(cells));
        }
        table.print();
        if self.failures.is_empty() {
            return;
        }
        let mut table = Table::new(&["what the failed calls of all rounds were told", "calls"]);
        for ((number, kind, reason), count) in &self.failures {
            let fault = self.rows[*number].name.trim().split(':').next().unwrap_or_default();
            table.row([format!("{fault}, {}: {reason}", kind.name()), count.to_string()]);
        }
        table.print();
    }
}

impl Row {
    fn cell(&self, kind: Kind) -> String {
        let Some(rounds) = self.rounds.get(&kind) else { return "-".to_owned() };
        let show = |value: f64| match self.unit {
            Unit::Milliseconds if value >= 2000.0 => format!("{:.2} s", value / 1e3),
            Unit::Milliseconds => format!("{value:.0} ms"),
            Unit::Count => format!("{value:.0}"),
        };
        let lowest = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = rounds.iter().copied().fold(0.0, f64::max);
        match rounds.len() {
            1 => show(lowest),
            _ if show(lowest) == show(highest) => show(lowest),
            _ => format!("{} ({}-{})", show(median(rounds.iter().copied())), show(lowest), show(highest)),
        }
    }
}
