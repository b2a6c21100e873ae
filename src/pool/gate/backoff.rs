//! The memory of failed connects: since when, why, and when to try again.

use crate::error::ConnectFailure;
use crate::pool::gate::Refusal;
use std::time::{Duration, Instant};

/// The shortest pause after a failed attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause while the server cannot be reached: short, because a refused attempt costs next to
/// nothing and every pause is time lost after the server is back.
const LONGEST_PAUSE: Duration = Duration::from_millis(320);
/// The longest pause while the login is refused: longer, because servers log and may punish failed logins.
const LONGEST_LOGIN_PAUSE: Duration = Duration::from_secs(5);
/// What part of its age so far an outage is left alone for: short ones should end with the server's absence, and long
/// ones cost little.
const SHARE_OF_AGE: u32 = 10;
/// Silence for so many times the usual connect time means that nobody will answer: an attempt that hangs hides
/// that the server is back, and only one is made at a time.
const SILENCE: u32 = 20;
/// But no time shorter than this means anything.
const LEAST_SILENCE: Duration = Duration::from_millis(500);
/// For a server that has become slow: after an attempt that was cut short the next one gets so many times that time,
/// and the third all that the settings give. The fourth is cut short again.
const MORE_PATIENCE: u32 = 4;
/// So often an outage may begin anew by being about the login, or about it no more.
const MOST_CHANGES: u32 = 4;
/// A failing outage is logged at most this often.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// When the next attempt to connect may start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Now,
    At(Instant),
    /// Not before the attempt in flight has ended.
    Never,
}

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    text: String,
    login: bool,
    /// Since when it is about the login, or is not.
    changed: Instant,
    changes: u32,
    attempts: u32,
    next_at: Instant,
    line_at: Instant,
}

impl Backoff {
    pub(crate) fn is_down(&self) -> bool {
        self.failing.is_some()
    }

    /// What to tell a caller whose time is up.
    pub(crate) fn refusal(&self) -> Refusal {
        match &self.failing {
            None => Refusal::TimedOut,
            Some(failing) if failing.login => Refusal::Login,
            Some(_) => Refusal::Down,
        }
    }

    pub(crate) fn grace_ends(&self, grace: Duration) -> Option<Instant> {
        let failing = self.failing.as_ref()?;
        // A refused login does not pass by waiting.
        Some(if failing.login { failing.since } else { failing.since + grace })
    }

    pub(crate) fn has_outlasted(&self, grace: Duration, now: Instant) -> bool {
        self.grace_ends(grace).is_some_and(|ends| ends <= now)
    }

    /// Remembers a failure. Returns whether it is worth a log line: the first, another reason, or one in a while.
    pub(crate) fn note(&mut self, now: Instant, text: String, login: bool) -> bool {
        let Some(failing) = &mut self.failing else {
            self.failing = Some(Failing {
                since: now,
                last: now,
                text,
                login,
                changed: now,
                changes: 0,
                attempts: 1,
                next_at: now + pause(Duration::ZERO, login),
                line_at: now + LINE_INTERVAL,
            });
            return true;
        };
        // Two servers may take turns, one of which is down and the other refuses the login: that is no news for long.
        let changed = failing.login != login && failing.changes < MOST_CHANGES;
        let worth_a_line = changed || now >= failing.line_at;
        if changed {
            (failing.attempts, failing.changed) = (0, now);
            failing.changes += 1;
        }
        failing.next_at = now + pause(now.saturating_duration_since(failing.changed), login);
        failing.attempts = failing.attempts.saturating_add(1);
        (failing.last, failing.text, failing.login) = (now, text, login);
        if worth_a_line {
            failing.line_at = now + LINE_INTERVAL;
        }
        worth_a_line
    }

    /// A connect succeeded. Returns how long they had failed.
    pub(crate) fn end(&mut self, now: Instant) -> Option<Duration> {
        self.failing.take().map(|failing| now.saturating_duration_since(failing.since))
    }

    pub(crate) fn next_attempt(&self, now: Instant, in_flight: bool) -> Attempt {
        match &self.failing {
            None => Attempt::Now,
            Some(_) if in_flight => Attempt::Never,
            Some(failing) if failing.next_at <= now => Attempt::Now,
            Some(failing) => Attempt::At(failing.next_at),
        }
    }

    /// How long the next attempt may take; `None` for as long as the settings allow. `usual` is how long connecting
    /// has taken so far.
    pub(crate) fn patience(&self, usual: Option<Duration>) -> Option<Duration> {
        let attempts = self.failing.as_ref().map_or(0, |failing| failing.attempts);
        let short = usual.map(|usual| (usual * SILENCE).max(LEAST_SILENCE));
        match attempts % 3 {
            0 => short,
            1 => short.map(|short| short * MORE_PATIENCE),
            _ => None,
        }
    }

    pub(crate) fn failure(&self) -> Option<ConnectFailure> {
        self.failing.as_ref().map(|failing| {
            ConnectFailure::new(failing.last.elapsed(), failing.since.elapsed(), failing.text.clone())
        })
    }
}

/// A tenth of the outage's age, all of it where the login is refused; bounded, and spread over ±20 % so that many pools
/// do not knock together.
fn pause(age: Duration, login: bool) -> Duration {
    let pause = match login {
        true => age.min(LONGEST_LOGIN_PAUSE),
        false => (age / SHARE_OF_AGE).min(LONGEST_PAUSE),
    };
    pause.max(FIRST_PAUSE).mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_outage_and_stay_bounded() {
        let ms = Duration::from_millis;
        for (age, outage, login) in [(0, 20, 20), (200, 20, 200), (1000, 100, 1000), (60_000, 320, 5000)] {
            for (pause, about) in [(pause(ms(age), false), ms(outage)), (pause(ms(age), true), ms(login))] {
                assert!(
                    pause >= about.mul_f64(0.79) && pause <= about.mul_f64(1.21),
                    "{pause:?} after {age} ms"
                );
            }
        }
    }

    #[test]
    fn attempts_are_cut_short_once_the_usual_time_is_known_and_never_three_in_a_row() {
        let (now, usual) = (Instant::now(), Some(Duration::from_millis(40)));
        let mut outage = Backoff::default();
        assert_eq!(outage.patience(None), None);
        assert_eq!(outage.patience(Some(Duration::from_millis(2))), Some(LEAST_SILENCE));
        let mut next = || {
            let patience = outage.patience(usual);
            outage.note(now, "silence".into(), false);
            patience
        };
        for _ in 0..3 {
            assert_eq!(next(), Some(Duration::from_millis(800)));
            assert_eq!(next(), Some(Duration::from_millis(3200)));
            assert_eq!(next(), None);
        }
    }

    #[test]
    fn one_attempt_at_a_time_while_down() {
        let now = Instant::now();
        let mut outage = Backoff::default();
        assert_eq!(outage.next_attempt(now, true), Attempt::Now);
        assert!(outage.note(now, "refused".into(), false));
        assert_eq!(outage.next_attempt(now + Duration::from_secs(1), true), Attempt::Never);
        assert_eq!(outage.next_attempt(now + Duration::from_secs(1), false), Attempt::Now);
        assert!(matches!(outage.next_attempt(now, false), Attempt::At(_)));
    }

    #[test]
    fn two_servers_that_fail_in_turns_for_other_reasons_are_an_outage_like_any_other() {
        let mut now = Instant::now();
        let mut outage = Backoff::default();
        let lines = (0..100).filter(|attempt| {
            let is_line = outage.note(now, "refused".into(), attempt % 2 == 0);
            if let Attempt::At(next) = outage.next_attempt(now, false) {
                now = next;
            }
            is_line
        });
        assert!(lines.count() < 20, "the log is filled");
        assert!(
            now.elapsed() == Duration::ZERO && now > Instant::now() + Duration::from_secs(20),
            "it never rests"
        );
    }

    /// #25: one line where r2d2 writes one for each failure.
    #[test]
    fn a_standing_outage_is_logged_rarely() {
        let mut now = Instant::now();
        let mut outage = Backoff::default();
        let mut lines = 0;
        for _ in 0..100 {
            lines += u32::from(outage.note(now, "refused".into(), false));
            now += Duration::from_millis(300);
        }
        assert_eq!(lines, 1);
        assert!(outage.note(now, "password".into(), true), "another kind of failure is news");
    }
}
