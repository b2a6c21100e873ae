//! Reads variables by the table: parses them, resolves several spellings of one setting, and collects every problem and
//! every effective value.
//!
//! Knows the table and the tier. Which field a variable ends up in is the business of `database_reader`, `pool`, `http` and `documents`.

use crate::error::Problem;
use crate::settings::secret::MASK;
use crate::settings::tier::Tier;
use crate::settings::variables::{API_TOKENS, DATABASE_URL, DB_PASSWORD, VARIABLES, Variable};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Where an effective value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// It is not set, and has no default.
    NotSet,
    /// The default.
    Default,
    /// The file of this name.
    File(String),
    /// The process environment.
    Environment,
    /// Another variable that sets the same thing.
    Variable(&'static str),
}

impl Source {
    /// The precedence: the source with the higher rank wins.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Source::NotSet => 0,
            Source::Default => 1,
            Source::File(_) => 2,
            Source::Environment | Source::Variable(_) => 3,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::NotSet => f.write_str("not set"),
            Source::Default => f.write_str("default"),
            Source::File(name) => f.write_str(name),
            Source::Environment => f.write_str("environment"),
            Source::Variable(name) => f.write_str(name),
        }
    }
}

/// A variable with its effective value, safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EffectiveValue {
    /// The variable's name.
    pub variable: &'static str,
    /// Its value, secrets as `***`; empty if it is not set.
    pub value: String,
    /// Where the value came from.
    pub source: Source,
}

/// The text of a variable, trimmed and not empty.
#[derive(Clone)]
pub(super) struct RawValue {
    pub(super) text: String,
    pub(super) source: Source,
}

/// The parsed value of one variable, a candidate for a setting that several variables can set.
pub(super) struct Parsed<T> {
    /// The name of that variable.
    pub(super) variable: &'static str,
    pub(super) source: Source,
    /// The text it was parsed from, for error messages; [`MASK`] for a secret.
    pub(super) text: String,
    pub(super) value: T,
}

impl<T> Parsed<T> {
    /// Converts the value.
    pub(super) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Parsed<U> {
        Parsed { variable: self.variable, source: self.source, text: self.text, value: convert(self.value) }
    }
}

/// Reads settings from raw values.
pub(super) struct Reader {
    pub(super) tier: Tier,
    raw: BTreeMap<String, RawValue>,
    /// Each problem with the position in the table of its variable.
    problems: Vec<(usize, Problem)>,
    effective: BTreeMap<&'static str, (String, Source)>,
}

impl Reader {
    pub(super) fn new(tier: Tier, raw: BTreeMap<String, RawValue>) -> Reader {
        Reader { tier, raw, problems: Vec::new(), effective: BTreeMap::new() }
    }

    pub(super) fn raw(&self, variable: &Variable) -> Option<RawValue> {
        self.raw.get(variable.name).cloned()
    }

    /// Adds a problem of `variable`.
    pub(super) fn report(
        &mut self,
        variable: &Variable,
        value: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        self.report_as(variable, variable.name, value, allowed);
    }

    /// Adds a problem at the position of `variable` under another label, for a problem that concerns several variables.
    pub(super) fn report_as(
        &mut self,
        variable: &Variable,
        label: impl Into<String>,
        value: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        let problem = Problem { variable: label.into(), value: value.into(), allowed: allowed.into() };
        self.problems.push((table_position(variable.name), problem));
    }

    /// Whether one of these variables has a problem. Checks that build on such a variable are skipped: they would
    /// report the same mistake again.
    pub(super) fn has_problem(&self, variables: &[&Variable]) -> bool {
        let has_problem = |variable: &Variable| {
            self.problems.iter().any(|(position, _)| *position == table_position(variable.name))
        };
        variables.iter().any(|variable| has_problem(variable))
    }

    /// Reports that a required variable is not set, unless it has a problem already.
    pub(super) fn report_missing(&mut self, variable: &Variable) {
        if !self.has_problem(&[variable]) {
            self.report(variable, "not set", variable.allowed());
        }
    }

    /// The parsed value of `variable`; `None` if it is not set. A text that `parse` rejects is reported.
    pub(super) fn parse<T>(
        &mut self,
        variable: &Variable,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Parsed<T>> {
        let RawValue { text, source } = self.raw(variable)?;
        let value = parse(&text);
        let text = if is_secret(variable) { MASK.to_owned() } else { text };
        match value {
            Some(value) => Some(Parsed { variable: variable.name, source, text, value }),
            None => {
                self.report(variable, text, variable.allowed());
                None
            }
        }
    }

    /// The value of a setting: the winner of the candidates, else the default of `variable`, which the table alone
    /// defines.
    pub(super) fn resolve<T: PartialEq>(
        &mut self,
        variable: &'static Variable,
        candidates: impl IntoIterator<Item = Option<Parsed<T>>>,
        parse: impl FnOnce(&str) -> Option<T>,
        show: impl Fn(&T) -> String,
    ) -> T {
        match self.choose(variable, candidates, show) {
            Some(winner) => winner.value,
            None => self.default_of(variable, parse),
        }
    }

    /// As [`resolve`](Reader::resolve) for a variable without a default: `None` if there is no candidate.
    pub(super) fn resolve_optional<T: PartialEq>(
        &mut self,
        variable: &'static Variable,
        candidates: impl IntoIterator<Item = Option<Parsed<T>>>,
        show: impl Fn(&T) -> String,
    ) -> Option<Parsed<T>> {
        debug_assert!(self.default_text(variable).is_empty(), "bug: {} has a default", variable.name);
        self.choose(variable, candidates, show)
    }

    /// The default in this tier.
    pub(super) fn default_of<T>(&self, variable: &Variable, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(value) = parse(self.default_text(variable)) else {
            unreachable!("bug: {} does not allow its own default", variable.name)
        };
        value
    }

    /// Chooses between candidates and sets the effective values: the environment overrides the file, and candidates from
    /// the same source must agree.
    pub(super) fn choose<T: PartialEq>(
        &mut self,
        variable: &'static Variable,
        candidates: impl IntoIterator<Item = Option<Parsed<T>>>,
        show: impl Fn(&T) -> String,
    ) -> Option<Parsed<T>> {
        let candidates: Vec<Parsed<T>> = candidates.into_iter().flatten().collect();
        let top = candidates.iter().map(|candidate| candidate.source.rank()).max()?;
        let (strong, weak): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|candidate| candidate.source.rank() == top);
        let mut strong = strong.into_iter();
        let winner = strong.next()?;
        for other in strong.filter(|other| other.value != winner.value) {
            self.report_as(
                variable,
                format!("{} and {}", winner.variable, other.variable),
                format!("{} and {}", winner.text, other.text),
                "the same meaning in both, or only one of them",
            );
        }
        let shown = show(&winner.value);
        // A URL holds more than the one value that is overridden, so its own effective value stays.
        for overridden in weak.iter().filter(|candidate| candidate.variable != DATABASE_URL.name) {
            self.effective.insert(overridden.variable, (shown.clone(), Source::Variable(winner.variable)));
        }
        let source = match winner.variable == variable.name {
            true => winner.source.clone(),
            false => Source::Variable(winner.variable),
        };
        self.set_effective(variable, shown, source);
        Some(winner)
    }

    /// Sets the effective value of a variable.
    pub(super) fn set_effective(&mut self, variable: &Variable, value: impl Into<String>, source: Source) {
        self.effective.insert(variable.name, (value.into(), source));
    }

    /// A whole number with one spelling.
    pub(super) fn count(&mut self, variable: &'static Variable) -> u32 {
        let parse = |text: &str| variable.allowed.count(text);
        let own = self.parse(variable, parse);
        self.resolve(variable, [own], parse, u32::to_string)
    }

    /// One of the variable's words, with another candidate besides the variable itself.
    pub(super) fn word_or<T: FromStr + PartialEq + ToString>(
        &mut self,
        variable: &'static Variable,
        other: Option<Parsed<T>>,
    ) -> T {
        let own = self.parse(variable, |text| variable.word(text));
        self.resolve(variable, [own, other], |text| variable.word(text), T::to_string)
    }

    /// One of the variable's words.
    pub(super) fn word<T: FromStr + PartialEq + ToString>(&mut self, variable: &'static Variable) -> T {
        self.word_or(variable, None)
    }

    /// `on` or `off`.
    pub(super) fn switch(&mut self, variable: &'static Variable) -> bool {
        let parse = |text: &str| variable.allowed.word(text).map(|word| word == "on");
        let show = |is_on: &bool| if *is_on { "on".to_owned() } else { "off".to_owned() };
        let own = self.parse(variable, parse);
        self.resolve(variable, [own], parse, show)
    }

    /// A duration. `second` is another spelling, with a range of its own.
    pub(super) fn duration(
        &mut self,
        variable: &'static Variable,
        second: Option<&'static Variable>,
    ) -> Duration {
        let second = second.and_then(|second| self.parse(second, |text| second.allowed.duration(text)));
        self.duration_or(variable, second)
    }

    /// As [`duration`](Reader::duration); `None` for the value that means *never*.
    pub(super) fn optional_duration(
        &mut self,
        variable: &'static Variable,
        second: Option<&'static Variable>,
    ) -> Option<Duration> {
        Some(self.duration(variable, second)).filter(|duration| !duration.is_zero())
    }

    /// A duration, with another candidate besides the variable itself.
    pub(super) fn duration_or(
        &mut self,
        variable: &'static Variable,
        other: Option<Parsed<Duration>>,
    ) -> Duration {
        let parse = |text: &str| variable.allowed.duration(text);
        let own = self.parse(variable, parse);
        let show = |duration: &Duration| variable.allowed.show_duration(*duration);
        self.resolve(variable, [own, other], parse, show)
    }

    /// The text of the default in this tier.
    pub(super) fn default_text(&self, variable: &Variable) -> &'static str {
        variable.default_in(self.tier)
    }

    /// Returns every effective value and every problem, both in the order of the table.
    pub(super) fn finish(mut self) -> (Vec<EffectiveValue>, Vec<Problem>) {
        let effective = VARIABLES.iter().map(|variable| self.effective_value(variable)).collect();
        // The sort is stable: problems of one variable stay in the order in which they were found.
        self.problems.sort_by_key(|(position, _)| *position);
        (effective, self.problems.into_iter().map(|(_, problem)| problem).collect())
    }

    fn effective_value(&self, variable: &Variable) -> EffectiveValue {
        let (value, source) = match (self.effective.get(variable.name), self.raw.get(variable.name)) {
            (Some(effective), _) => effective.clone(),
            (None, Some(raw)) => {
                let value = if is_secret(variable) { MASK } else { &raw.text };
                (value.to_owned(), raw.source.clone())
            }
            (None, None) => match self.default_text(variable) {
                "" => (String::new(), Source::NotSet),
                text => (text.to_owned(), Source::Default),
            },
        };
        EffectiveValue { variable: variable.name, value, source }
    }
}

/// Whether the value must never be shown.
fn is_secret(variable: &Variable) -> bool {
    [DATABASE_URL.name, DB_PASSWORD.name, API_TOKENS.name].contains(&variable.name)
}

fn table_position(name: &str) -> usize {
    VARIABLES.iter().position(|variable| variable.name == name).unwrap_or(VARIABLES.len())
}
