//! What came out, in words and figures.

use super::clock::{Bound, Clock, Worst};
use super::faults::Fault;
use super::tally::{Counts, DONE, Deed, Outcome as Ending, is_failure};
use super::workers::HEALING;
use super::{Episode, Outcome};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// More findings than this are not shown: they are seldom about something else.
const SHOWN: usize = 12;

/// One line for a fault that was thrown.
pub(crate) fn line(episode: &Episode) -> String {
    let Episode { fault, at, lasted, well_after, .. } = episode;
    let [straight, proxied] = well_after.map(|after| after.as_secs_f64());
    format!(
        "{:7.1} s  {fault:20} for {:4.2} s, pools well after {straight:.3} s and {proxied:.3} s",
        at.as_secs_f64(),
        lasted.as_secs_f64()
    )
}

/// What the figures show that must not be.
pub(crate) fn broken_promises(episodes: &[Episode], clock: &Clock, leniency: Duration) -> Vec<String> {
    let mut findings = Vec::new();
    for episode in episodes {
        if episode.well_after.iter().any(|after| *after > HEALING + leniency + episode.machine_was_late_by) {
            let late = ms(episode.machine_was_late_by);
            findings
                .push(format!("not well within {HEALING:?} (machine late by {late} ms): {}", line(episode)));
        }
    }
    for missed in clock.missed() {
        if missed.by.saturating_sub(missed.machine_was_late_by) > missed.bound.tolerance() + leniency {
            findings.push(format!("a deadline missed: {missed:?}"));
        }
    }
    findings
}

fn failed_reads(counts: &Counts) -> u64 {
    sum(counts, |fault, deed, outcome| {
        fault == Some(Fault::FastRestart) && deed == Deed::Read && is_failure(outcome)
    })
}

fn sum(counts: &Counts, wanted: impl Fn(Option<Fault>, Deed, Ending) -> bool) -> u64 {
    counts
        .iter()
        .filter(|((fault, deed, outcome), _)| wanted(*fault, *deed, outcome))
        .map(|(_, count)| count)
        .sum()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_faults(f)?;
        self.write_operations(f)?;
        self.write_ledger(f)?;
        self.write_deadlines(f)?;
        if let Some((before, after)) = self.resources {
            writeln!(
                f,
                "Held before and after: threads {} and {}, descriptors {} and {}, memory {} and {} KiB.",
                before.threads,
                after.threads,
                before.descriptors,
                after.descriptors,
                before.memory,
                after.memory
            )?;
        }
        if self.findings.is_empty() {
            return write!(f, "All is well.");
        }
        writeln!(f, "\n{} findings:", self.findings.len())?;
        self.findings.iter().take(SHOWN).try_for_each(|finding| writeln!(f, "  {finding}"))?;
        let (minutes, seed) = (self.plan.time.as_secs_f64() / 60.0, self.plan.seed);
        match self.plan.is_alone {
            true => write!(f, "The same again: make chaos MINUTES={minutes} SEED={seed}"),
            false => write!(f, "The same again: CHAOS_SEED={seed}"),
        }
    }
}

impl Outcome {
    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut thrown: BTreeMap<Fault, (usize, Duration)> = BTreeMap::new();
        for episode in &self.episodes {
            let (count, worst) = thrown.entry(episode.fault).or_default();
            *count += 1;
            *worst = episode.well_after.into_iter().fold(*worst, Duration::max);
        }
        writeln!(
            f,
            "\n{:22} {:>6} {:>12} {:>14} {:>13}",
            "fault", "thrown", "well after", "failed reads", "failed writes"
        )?;
        for (fault, (count, worst)) in thrown {
            let failed = |writes: bool| {
                sum(&self.counts, |during, deed, outcome| {
                    let is_asked = if writes { Deed::WRITES.contains(&deed) } else { deed == Deed::Read };
                    during == Some(fault) && is_asked && is_failure(outcome)
                })
            };
            let worst = format!("{:.0} ms", ms(worst));
            writeln!(f, "{fault:22} {count:>6} {worst:>12} {:>14} {:>13}", failed(false), failed(true))?;
        }
        Ok(())
    }

    fn write_operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        let mut deeds: BTreeMap<Deed, BTreeMap<&str, u64>> = BTreeMap::new();
        for ((_, deed, outcome), count) in &self.counts {
            *deeds.entry(*deed).or_default().entry(outcome).or_default() += count;
        }
        for (deed, outcomes) in deeds {
            let outcomes: Vec<_> =
                outcomes.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
            writeln!(f, "{:34} {}", deed.name(), outcomes.join(", "))?;
        }
        Ok(())
    }

    fn write_ledger(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        writeln!(
            f,
            "\nLedger: {} entries, {} lost, {} duplicated, {} denied, {} strange; sum {}, wrong balances {}.",
            verdict.entries,
            verdict.lost.len(),
            verdict.duplicated.len(),
            verdict.denied.len(),
            verdict.strange.len(),
            if verdict.sum == super::ledger::SUM { "unchanged" } else { "changed" },
            verdict.wrong_balances
        )?;
        let dirty = self.findings.iter().filter(|finding| finding.starts_with("a dirty session")).count();
        let traces = sum(&self.counts, |_, deed, outcome| deed == Deed::Trace && outcome == DONE);
        writeln!(f, "Dirty sessions: {dirty}, of {traces} left dirty by their borrowers.")?;
        let reads =
            sum(&self.counts, |fault, deed, _| fault == Some(Fault::FastRestart) && deed == Deed::Read);
        writeln!(f, "Failed reads during a fast restart: {} of {reads}.", failed_reads(&self.counts))?;
        for deed in Deed::WRITES {
            let failed = sum(&self.counts, |_, of, outcome| of == deed && is_failure(outcome));
            let unknown = sum(&self.counts, |_, of, outcome| of == deed && outcome == "OutcomeUnknown");
            let share = 100.0 * unknown as f64 / failed.max(1) as f64;
            let name = deed.name();
            writeln!(f, "Outcome unknown of failed writes, {name}: {unknown} of {failed} ({share:.1} %).")?;
        }
        writeln!(f, "Of {} whose outcome was unknown, {} were done.", self.unknown, verdict.unknown_but_done)
    }

    fn write_deadlines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (late, times) = self.clock.woken_late();
        for bound in Bound::ALL {
            let Worst { by, net, count } = self.clock.worst(bound);
            writeln!(
                f,
                "Worst overshoot, {:8} {:6.1} ms, {:6.1} ms without the time the thread could not run (tolerated {} \
                 ms, {count} measured)",
                format!("{bound:?}:"),
                ms(by),
                ms(net),
                ms(bound.tolerance())
            )?;
        }
        let excused = self.clock.missed().len();
        writeln!(
            f,
            "The machine woke a thread late by up to {:.1} ms ({times} times by over 2 ms); deadlines missed by more \
             than is tolerated, the machine's share included: {excused}.",
            ms(late)
        )
    }
}
