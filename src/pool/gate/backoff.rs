//! Backoff: what the gate remembers of failed connects, and when the next attempt may start.
//!
//! Pure but for the age of a failure and the jitter of a pause: the gate gives it the time of every event.

use crate::error::ConnectFailure;
use crate::pool::gate::Refusal;
use std::time::{Duration, Instant};

/// The shortest pause after a failed attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause while the server cannot be reached. It is short because a refused attempt costs next to nothing, while a
/// pause delays the recovery after the server is back.
const LONGEST_PAUSE: Duration = Duration::from_millis(320);
/// The longest pause while the login is refused. It is longer because servers log failed logins and may punish them.
const LONGEST_LOGIN_PAUSE: Duration = Duration::from_secs(5);
/// A pause is the age of the outage divided by this: a short outage ends soon after the server is back, and a long one costs few
/// attempts.
const PAUSE_DIVISOR: u32 = 10;
/// An attempt is cut short after this many times the usual connect time. Only one attempt is made at a time, so one that hangs
/// would hide that the server is back.
const SHORT_FACTOR: u32 = 20;
/// The lower bound of a short attempt.
const MIN_SHORT: Duration = Duration::from_millis(500);
/// The second attempt may take this many times as long as the short one, and the third as long as the settings allow, so that a
/// server that has become slow is reached. The fourth is short again.
const LONGER_FACTOR: u32 = 4;
/// How often an outage may restart its pauses because the kind of failure (login refused or not) has changed.
const MAX_KIND_CHANGES: u32 = 4;
/// The shortest time between two log lines about the same outage.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// When the next attempt to connect may start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Now,
    At(Instant),
    /// When the attempt in progress has ended.
    AfterCurrent,
}

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    outage: Option<Outage>,
}

/// Connects that fail, without a success in between.
#[derive(Debug)]
struct Outage {
    since: Instant,
    last_failure: Instant,
    text: String,
    is_login: bool,
    /// The last change of `is_login`; the pauses grow from here.
    kind_since: Instant,
    kind_changes: u32,
    /// Failed attempts since `kind_since`.
    attempts: u32,
    next_attempt: Instant,
    next_log: Instant,
}

impl Backoff {
    pub(crate) fn is_down(&self) -> bool {
        self.outage.is_some()
    }

    /// The refusal of a caller whose time is up.
    pub(crate) fn refusal(&self) -> Refusal {
        match &self.outage {
            None => Refusal::TimedOut,
            Some(outage) if outage.is_login => Refusal::Login,
            Some(_) => Refusal::Down,
        }
    }

    /// The end of the outage's grace; `None` without an outage.
    pub(crate) fn grace_ends(&self, grace: Duration) -> Option<Instant> {
        let outage = self.outage.as_ref()?;
        // Without grace for a refused login: waiting does not change it.
        Some(if outage.is_login { outage.since } else { outage.since + grace })
    }

    pub(crate) fn has_outlasted(&self, grace: Duration, now: Instant) -> bool {
        self.grace_ends(grace).is_some_and(|ends| ends <= now)
    }

    /// Notes a failed attempt. Returns whether it is worth a log line: it is the first one, another kind of failure, or the last
    /// line is [`LOG_INTERVAL`] old.
    pub(crate) fn note_failure(&mut self, now: Instant, text: String, is_login: bool) -> bool {
        let Some(outage) = &mut self.outage else {
            self.outage = Some(Outage {
                since: now,
                last_failure: now,
                text,
                is_login,
                kind_since: now,
                kind_changes: 0,
                attempts: 1,
                next_attempt: now + pause(Duration::ZERO, is_login),
                next_log: now + LOG_INTERVAL,
            });
            return true;
        };
        // Two servers, one down and one that refuses the login, may answer in turns: after a few changes this is no news.
        let has_changed = outage.is_login != is_login && outage.kind_changes < MAX_KIND_CHANGES;
        let should_log = has_changed || now >= outage.next_log;
        if has_changed {
            (outage.attempts, outage.kind_since) = (0, now);
            outage.kind_changes += 1;
        }
        outage.next_attempt = now + pause(now.saturating_duration_since(outage.kind_since), is_login);
        outage.attempts = outage.attempts.saturating_add(1);
        (outage.last_failure, outage.text, outage.is_login) = (now, text, is_login);
        if should_log {
            outage.next_log = now + LOG_INTERVAL;
        }
        should_log
    }

    /// Notes a successful connect. Returns how long connects had failed, if they had.
    pub(crate) fn note_success(&mut self, now: Instant) -> Option<Duration> {
        self.outage.take().map(|outage| now.saturating_duration_since(outage.since))
    }

    pub(crate) fn next_attempt(&self, now: Instant, is_connecting: bool) -> Attempt {
        match &self.outage {
            None => Attempt::Now,
            Some(_) if is_connecting => Attempt::AfterCurrent,
            Some(outage) if outage.next_attempt <= now => Attempt::Now,
            Some(outage) => Attempt::At(outage.next_attempt),
        }
    }

    /// How long the next attempt may take; `None` for as long as the settings allow. `usual` is the usual connect time.
    pub(crate) fn attempt_limit(&self, usual: Option<Duration>) -> Option<Duration> {
        let attempts = self.outage.as_ref().map_or(0, |outage| outage.attempts);
        let short = usual.map(|usual| (usual * SHORT_FACTOR).max(MIN_SHORT));
        match attempts % 3 {
            0 => short,
            1 => short.map(|short| short * LONGER_FACTOR),
            _ => None,
        }
    }

    pub(crate) fn failure(&self) -> Option<ConnectFailure> {
        self.outage.as_ref().map(|outage| {
            ConnectFailure::new(outage.last_failure.elapsed(), outage.since.elapsed(), outage.text.clone())
        })
    }
}

/// A share of the outage's age, or all of it where the login is refused; bounded, and jittered by ±20 % so that many pools do not
/// connect at the same moment.
fn pause(age: Duration, is_login: bool) -> Duration {
    let pause = match is_login {
        true => age.min(LONGEST_LOGIN_PAUSE),
        false => (age / PAUSE_DIVISOR).min(LONGEST_PAUSE),
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
    fn of_three_attempts_two_are_limited_once_the_usual_time_is_known() {
        let (now, usual) = (Instant::now(), Some(Duration::from_millis(40)));
        let mut backoff = Backoff::default();
        assert_eq!(backoff.attempt_limit(None), None);
        assert_eq!(backoff.attempt_limit(Some(Duration::from_millis(2))), Some(MIN_SHORT));
        let mut next = || {
            let limit = backoff.attempt_limit(usual);
            backoff.note_failure(now, "silence".into(), false);
            limit
        };
        for _ in 0..3 {
            assert_eq!(next(), Some(Duration::from_millis(800)));
            assert_eq!(next(), Some(Duration::from_millis(3200)));
            assert_eq!(next(), None);
        }
    }

    #[test]
    fn while_down_one_attempt_is_made_at_a_time() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_attempt(now, true), Attempt::Now);
        assert!(backoff.note_failure(now, "refused".into(), false));
        assert_eq!(backoff.next_attempt(now + Duration::from_secs(1), true), Attempt::AfterCurrent);
        assert_eq!(backoff.next_attempt(now + Duration::from_secs(1), false), Attempt::Now);
        assert!(matches!(backoff.next_attempt(now, false), Attempt::At(_)));
    }

    #[test]
    fn failures_of_two_kinds_in_turns_are_paced_and_logged_like_one_outage() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        let lines = (0..100).filter(|attempt| {
            let is_logged = backoff.note_failure(now, "refused".into(), attempt % 2 == 0);
            if let Attempt::At(next) = backoff.next_attempt(now, false) {
                now = next;
            }
            is_logged
        });
        assert!(lines.count() < 20, "too many log lines");
        assert!(
            now.elapsed() == Duration::ZERO && now > Instant::now() + Duration::from_secs(20),
            "the pauses do not grow"
        );
    }

    /// r2d2 writes a line for each failed attempt.
    #[test]
    fn a_long_outage_is_logged_once_per_interval() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        let mut lines = 0;
        for _ in 0..100 {
            lines += u32::from(backoff.note_failure(now, "refused".into(), false));
            now += Duration::from_millis(300);
        }
        assert_eq!(lines, 1);
        assert!(backoff.note_failure(now, "password".into(), true), "another kind of failure is logged");
    }
}
