//! Reads variables by the table: parses, weighs the spellings of one setting against each other, and keeps
//! every problem and every effective value on the way.

use crate::error::Problem;
use crate::settings::secret::MASK;
use crate::settings::tier::Tier;
use crate::settings::variables::{API_TOKENS, Allowed, DATABASE_URL, DB_PASSWORD, VARIABLES, Variable};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Where an effective value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Nothing sets it, and it has no default.
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
    /// Of two sources, the one with the higher rank wins.
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

/// A variable with the value that is in force, fit to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EffectiveValue {
    /// The variable's name.
    pub variable: &'static str,
    /// Its value, secrets as `***`; empty where it is not set.
    pub value: String,
    /// Where the value came from.
    pub source: Source,
}

/// The text of a variable, trimmed and not empty.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) source: Source,
}

/// What one variable says about a setting, understood.
pub(super) struct Said<T> {
    pub(super) by: &'static str,
    pub(super) source: Source,
    /// As given, for error texts; [`MASK`] for a secret.
    pub(super) text: String,
    pub(super) value: T,
}

impl<T> Said<T> {
    /// The same statement with another meaning.
    pub(super) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Said<U> {
        Said { by: self.by, source: self.source, text: self.text, value: convert(self.value) }
    }
}

/// Reads settings out of the given variables.
pub(super) struct Reader {
    pub(super) tier: Tier,
    given: BTreeMap<String, Given>,
    /// With the place in the table of the variable at fault.
    problems: Vec<(usize, Problem)>,
    rows: BTreeMap<&'static str, (String, Source)>,
}

impl Reader {
    pub(super) fn new(tier: Tier, given: BTreeMap<String, Given>) -> Reader {
        Reader { tier, given, problems: Vec::new(), rows: BTreeMap::new() }
    }

    pub(super) fn given(&self, variable: &Variable) -> Option<Given> {
        self.given.get(variable.name).cloned()
    }

    /// Notes a problem of `variable`.
    pub(super) fn fault(
        &mut self,
        variable: &Variable,
        value: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        self.fault_as(variable, variable.name, value, allowed);
    }

    /// Notes a problem in the place of `variable` that concerns more than it alone.
    pub(super) fn fault_as(
        &mut self,
        variable: &Variable,
        label: impl Into<String>,
        value: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        let problem = Problem { variable: label.into(), value: value.into(), allowed: allowed.into() };
        self.problems.push((place(variable.name), problem));
    }

    /// Whether a problem has been noted in the place of one of these variables. What builds on them is then
    /// not judged: it would be a second complaint about the same mistake.
    pub(super) fn is_faulty(&self, variables: &[&Variable]) -> bool {
        variables.iter().any(|variable| self.problems.iter().any(|(at, _)| *at == place(variable.name)))
    }

    /// Notes that a variable must be set and is not, unless it is known to be at fault already.
    pub(super) fn require(&mut self, variable: &Variable) {
        if !self.is_faulty(&[variable]) {
            self.fault(variable, "not set", variable.allowed());
        }
    }

    /// What `variable` says, if it is set and `parse` understands it. What it does not is noted.
    pub(super) fn said<T>(
        &mut self,
        variable: &Variable,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Said<T>> {
        let Given { text, source } = self.given(variable)?;
        let value = parse(&text);
        let text = if is_secret(variable) { MASK.to_owned() } else { text };
        match value {
            Some(value) => Some(Said { by: variable.name, source, text, value }),
            None => {
                self.fault(variable, text, variable.allowed());
                None
            }
        }
    }

    /// Decides what holds for `variable` of all that is said about it in any spelling; where nothing is said, its
    /// default, of which the table is the only source.
    pub(super) fn settle<T: PartialEq>(
        &mut self,
        variable: &'static Variable,
        said: impl IntoIterator<Item = Option<Said<T>>>,
        parse: impl FnOnce(&str) -> Option<T>,
        show: impl Fn(&T) -> String,
    ) -> T {
        match self.weigh(variable, said, show) {
            Some(said) => said.value,
            None => self.default_of(variable, parse),
        }
    }

    /// The same for a variable without a default: `None` where nothing is said.
    pub(super) fn settle_unset<T: PartialEq>(
        &mut self,
        variable: &'static Variable,
        said: impl IntoIterator<Item = Option<Said<T>>>,
        show: impl Fn(&T) -> String,
    ) -> Option<Said<T>> {
        debug_assert!(self.preset(variable).is_empty(), "bug: {} has a default in the table", variable.name);
        self.weigh(variable, said, show)
    }

    /// The default in this tier.
    pub(super) fn default_of<T>(&self, variable: &Variable, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(value) = parse(self.preset(variable)) else {
            unreachable!("bug: {} does not allow its own default", variable.name)
        };
        value
    }

    /// Decides between what is said: the environment wins over the file, and within one of them all must agree.
    pub(super) fn weigh<T: PartialEq>(
        &mut self,
        variable: &'static Variable,
        said: impl IntoIterator<Item = Option<Said<T>>>,
        show: impl Fn(&T) -> String,
    ) -> Option<Said<T>> {
        let said: Vec<Said<T>> = said.into_iter().flatten().collect();
        let top = said.iter().map(|said| said.source.rank()).max()?;
        let (strong, weak): (Vec<_>, Vec<_>) = said.into_iter().partition(|said| said.source.rank() == top);
        let mut strong = strong.into_iter();
        let winner = strong.next()?;
        for other in strong.filter(|other| other.value != winner.value) {
            self.fault_as(
                variable,
                format!("{} and {}", winner.by, other.by),
                format!("{} and {}", winner.text, other.text),
                "the same meaning in both, or only one of them",
            );
        }
        let shown = show(&winner.value);
        for overruled in weak.iter().filter(|said| said.by != DATABASE_URL.name) {
            self.rows.insert(overruled.by, (shown.clone(), Source::Variable(winner.by)));
        }
        let source =
            if winner.by == variable.name { winner.source.clone() } else { Source::Variable(winner.by) };
        self.row(variable, shown, source);
        Some(winner)
    }

    /// Keeps the effective value of a variable.
    pub(super) fn row(&mut self, variable: &Variable, value: impl Into<String>, source: Source) {
        self.rows.insert(variable.name, (value.into(), source));
    }

    /// A whole number that has one spelling.
    pub(super) fn count(&mut self, variable: &'static Variable) -> u32 {
        let parse = |text: &str| variable.allowed.count(text);
        let said = self.said(variable, parse);
        self.settle(variable, [said], parse, u32::to_string)
    }

    /// A time, whose second spelling has a range of its own.
    pub(super) fn span(
        &mut self,
        variable: &'static Variable,
        second: Option<&'static Variable>,
    ) -> Duration {
        let second = second.and_then(|second| self.said(second, |text| second.allowed.span(text)));
        self.span_or(variable, second)
    }

    /// A time, about which something else may speak too.
    pub(super) fn span_or(&mut self, variable: &'static Variable, other: Option<Said<Duration>>) -> Duration {
        let parse = |text: &str| variable.allowed.span(text);
        let said = self.said(variable, parse);
        self.settle(variable, [said, other], parse, |span| variable.allowed.show_span(*span))
    }

    /// The default's text in this tier.
    pub(super) fn preset(&self, variable: &Variable) -> &'static str {
        variable.preset_in(self.tier)
    }

    /// Every effective value and every problem, both in the order of the table.
    pub(super) fn finish(mut self) -> (Vec<EffectiveValue>, Vec<Problem>) {
        let effective = VARIABLES
            .iter()
            .map(|variable| {
                let (value, source) = match (self.rows.remove(variable.name), self.given.get(variable.name)) {
                    (Some(row), _) => row,
                    (None, Some(given)) => {
                        let value = if is_secret(variable) { MASK } else { &given.text };
                        (value.to_owned(), given.source.clone())
                    }
                    (None, None) => match self.preset(variable) {
                        "" => (String::new(), Source::NotSet),
                        text => (text.to_owned(), Source::Default),
                    },
                };
                EffectiveValue { variable: variable.name, value, source }
            })
            .collect();
        // Stable: problems of one variable stay in the order in which they were found.
        self.problems.sort_by_key(|(at, _)| *at);
        (effective, self.problems.into_iter().map(|(_, problem)| problem).collect())
    }
}

/// Whether a value must never be shown as it was given.
fn is_secret(variable: &Variable) -> bool {
    [DATABASE_URL.name, DB_PASSWORD.name, API_TOKENS.name].contains(&variable.name)
}

fn place(name: &str) -> usize {
    VARIABLES.iter().position(|variable| variable.name == name).unwrap_or(VARIABLES.len())
}

/// Reads one of a variable's words into what it stands for, through the `as_str` of a fieldless enum.
pub(super) fn one_of<T: Copy>(
    allowed: &Allowed,
    text: &str,
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> Option<T> {
    let word = allowed.word(text)?;
    all.iter().copied().find(|value| as_str(*value) == word)
}
