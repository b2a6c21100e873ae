//! A simple model of the gate, which the gate is compared with, and the threads that use the gate.

use super::*;
use crate::pool::gate::tests::histories::tally::Tally;
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};

const MOMENT: Duration = Duration::from_millis(2);
const MAX_WAITING: u32 = 3;
const CONNECTOR_THREADS: usize = 2;

/// What a thread reports to the main one.
enum Report {
    Caller(usize, Result<Permit, Refusal>),
    /// This connector has taken a request.
    Connector(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Borrower {
    Main,
    Other,
    /// The connection is being cleaned.
    Detached,
}

/// The model, and the threads.
pub(super) struct World {
    pub(super) gate: Arc<Gate>,
    reports: Receiver<Report>,
    reporter: Sender<Report>,
    results: Vec<Sender<()>>,
    /// Connectors with an attempt in progress.
    connecting: Vec<usize>,
    phase: PoolState,
    max: u32,
    idle: u32,
    checking: u32,
    lent: Vec<(Permit, Borrower)>,
    callers: usize,
    /// The waiting callers, in order of arrival.
    queue: VecDeque<usize>,
    outage: Option<Refusal>,
    tally: Tally,
}

impl World {
    pub(super) fn new(min: u32) -> World {
        let outage_grace = AGES;
        let gate = Arc::new(Gate::new(Limits { max_waiting: MAX_WAITING, outage_grace, ..limits(min, MAX) }));
        let (reporter, reports) = channel();
        let results = (0..CONNECTOR_THREADS).map(|name| {
            let (result, results) = channel();
            let (gate, reporter) = (gate.clone(), reporter.clone());
            std::thread::spawn(move || {
                while let ConnectRequest::Connect(_) = gate.next_connect_request() {
                    if reporter.send(Report::Connector(name)).is_err() || results.recv().is_err() {
                        return;
                    }
                }
            });
            result
        });
        let results = results.collect();
        World {
            gate,
            reports,
            reporter,
            results,
            connecting: Vec::new(),
            phase: PoolState::Open,
            max: MAX,
            idle: 0,
            checking: 0,
            lent: Vec::new(),
            callers: 0,
            queue: VecDeque::new(),
            outage: None,
            tally: Tally::default(),
        }
    }

    fn live(&self) -> u32 {
        self.idle + self.checking + self.lent.len() as u32
    }

    fn is_free(&self) -> bool {
        self.idle > 0 && self.phase == PoolState::Open
    }

    fn add_idle(&mut self) {
        if self.phase != PoolState::Closed {
            self.idle += 1;
        }
    }

    /// The refusal of a caller that finds no idle connection, before it waits.
    fn refusal(&self, waits: bool, is_main: bool, is_again: bool) -> Option<Refusal> {
        let requested = self.gate.lock().requested;
        let all_lent = requested == 0 && self.lent.len() as u32 >= self.max;
        let has = |wanted| self.lent.iter().any(|(_, borrower)| *borrower == wanted);
        if self.phase == PoolState::Closed {
            Some(Refusal::Closed)
        } else if self.live() == 0 && self.outage == Some(Refusal::Login) {
            Some(Refusal::Login)
        } else if !waits && self.checking == 0 {
            Some(self.timeout_refusal(is_again))
        } else if is_main && all_lent && has(Borrower::Main) && !has(Borrower::Detached) {
            Some(Refusal::SelfDeadlock)
        } else if self.queue.len() >= MAX_WAITING as usize && !is_again {
            Some(Refusal::Saturated)
        } else {
            None
        }
    }

    fn timeout_refusal(&self, is_again: bool) -> Refusal {
        if self.phase == PoolState::Suspended {
            return Refusal::Suspended;
        }
        let no_answer = (is_again || self.gate.lock().counts.connects == 0).then_some(Refusal::Down);
        let is_served = !self.lent.is_empty() || (self.live() > 0 && !is_again);
        self.outage.or(no_answer).filter(|_| !is_served).unwrap_or(Refusal::TimedOut)
    }

    /// A caller with a long timeout arrives.
    fn arrive(&mut self) {
        let name = self.callers;
        self.callers += 1;
        self.tally.requests += 1;
        let (gate, reporter) = (self.gate.clone(), self.reporter.clone());
        let expected = if self.is_free() { None } else { self.refusal(true, false, false) };
        std::thread::spawn(move || {
            let _ = reporter.send(Report::Caller(name, gate.acquire_here(AGES)));
        });
        if let Some(refusal) = expected {
            self.expect(BTreeSet::new(), BTreeSet::from([name]), refusal);
            self.tally.waits -= 1;
        } else {
            self.queue.push_back(name);
            let gate = self.gate.clone();
            let has_arrived = |world: &World| world.is_free() || gate.lock().queue.len() == world.queue.len();
            self.until("the caller is in the queue", has_arrived);
        }
    }

    /// Acquires in the main thread, and compares the result with the model.
    fn acquire(&mut self, timeout: Duration, again: Option<Permit>) {
        let is_again = again.is_some();
        let at_once = self.refusal(!timeout.is_zero(), true, is_again);
        let expected = (!self.is_free()).then(|| at_once.unwrap_or(self.timeout_refusal(is_again)));
        // The wait for the dead connection is no longer counted.
        self.tally.waits +=
            u64::from(expected.is_none() || at_once.is_none() || is_again) - u64::from(is_again);
        // An attempt may have been in progress for long because this test was delayed.
        let may_hang = self.live() == 0 && !self.connecting.is_empty();
        let started = now();
        let outcome = match again {
            None => {
                self.tally.requests += 1;
                self.gate.acquire(started, started + timeout)
            }
            Some(dead) => self.gate.acquire_again(Some(dead), started, started + timeout),
        };
        let waited = started.elapsed();
        match (outcome, expected) {
            (Ok(permit), None) => {
                self.idle -= 1;
                self.lent.push((permit, Borrower::Main));
            }
            (Err((refusal, numbers)), Some(expected)) => {
                let hangs = may_hang && (refusal, expected) == (Refusal::Down, Refusal::TimedOut);
                assert!(refusal == expected || hangs, "{refusal:?} in place of {expected:?}");
                let is_in_time = refusal != Refusal::TimedOut || waited >= timeout;
                assert!(is_in_time && waited < AGES / 10, "{refusal:?} after {waited:?}");
                let shown = (numbers.in_use as usize, numbers.idle, numbers.waiting as usize, numbers.max);
                let model = (self.lent.len(), self.idle + self.checking, self.queue.len(), self.max);
                assert_eq!(shown, model, "{refusal:?}");
                self.tally.count(refusal);
            }
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }

    /// Expects every waiter to be refused if the login is refused and no connection is left.
    fn expect_login_refusals(&mut self) {
        if self.live() == 0 && self.outage == Some(Refusal::Login) {
            self.expect_all_refused(Refusal::Login);
        }
    }

    fn expect_all_refused(&mut self, refusal: Refusal) {
        let all = std::mem::take(&mut self.queue).into_iter().collect();
        self.expect(BTreeSet::new(), all, refusal);
    }

    /// Expects the head of the queue to be served while connections are idle.
    fn expect_served(&mut self) {
        let mut served = BTreeSet::new();
        while self.is_free() {
            let Some(name) = self.queue.pop_front() else { break };
            self.idle -= 1;
            served.insert(name);
        }
        self.expect(served, BTreeSet::new(), Refusal::Closed);
    }

    /// Waits for the reports of these callers, and accepts no other.
    fn expect(&mut self, mut served: BTreeSet<usize>, mut refused: BTreeSet<usize>, refusal: Refusal) {
        while !served.is_empty() || !refused.is_empty() {
            let report = self.reports.recv_timeout(AGES / 6);
            match report.unwrap_or_else(|_| panic!("{served:?} not served, {refused:?} not refused")) {
                Report::Connector(name) => self.connecting.push(name),
                Report::Caller(name, Ok(permit)) => {
                    assert!(served.remove(&name), "{name} is served before {served:?}, {:?}", self.queue);
                    self.tally.waits += 1;
                    self.lent.push((permit, Borrower::Other));
                }
                Report::Caller(name, Err(other)) => {
                    assert!(refused.remove(&name), "{name} is refused with {other:?}");
                    assert_eq!(other, refusal);
                    self.tally.waits += 1;
                    self.tally.count(other);
                }
            }
        }
    }

    /// Lets the threads work until `condition` holds.
    fn until(&mut self, what: &str, condition: impl Fn(&World) -> bool) {
        let end = Instant::now() + AGES / 6;
        while !condition(self) {
            assert!(Instant::now() < end, "the condition never became true: {what}; {:?}", self.gate.lock());
            std::thread::sleep(Duration::from_micros(20));
            self.receive_connectors();
        }
    }

    fn receive_connectors(&mut self) {
        for report in self.reports.try_iter() {
            match report {
                Report::Connector(name) => self.connecting.push(name),
                Report::Caller(name, outcome) => panic!("unexpected outcome of {name}: {outcome:?}"),
            }
        }
    }

    /// Waits until the gate is at rest, and compares it with the model.
    pub(super) fn settle(&mut self) {
        self.expect_served();
        let gate = self.gate.clone();
        self.until("the connectors have taken the requests", |world| {
            let state = gate.lock();
            let has_free_connector = world.connecting.len() < CONNECTOR_THREADS;
            let are_known = state.connecting as usize == world.connecting.len();
            are_known
                && (state.requested == state.connecting || !has_free_connector || state.backoff.is_down())
        });
        let state = gate.lock();
        state.check_at_rest();
        state.check_bounded();
        let shown = (state.idle, state.checking, state.in_use as usize, state.queue.len(), state.phase);
        let model = (self.idle, self.checking, self.lent.len(), self.queue.len(), self.phase);
        assert_eq!(shown, model);
        assert_eq!(state.backoff.is_down(), self.outage.is_some());
        if self.phase == PoolState::Open && !self.queue.is_empty() {
            assert!(state.total() > 0, "callers wait and no connection is open or requested: {state:?}");
        }
    }

    fn take_lent(&mut self, number: usize) -> Option<Permit> {
        if self.lent.is_empty() {
            return None;
        }
        let number = number % self.lent.len();
        Some(self.lent.swap_remove(number).0)
    }

    pub(super) fn apply(&mut self, event: &Event) {
        let is_open = self.phase != PoolState::Closed;
        match *event {
            Event::Arrive => self.arrive(),
            Event::Try => self.acquire(Duration::ZERO, None),
            Event::Acquire => self.acquire(MOMENT, None),
            Event::AcquireAgain(number) => {
                if let Some(dead) = self.take_lent(number) {
                    let are_refused = self.live() == 0 && self.outage == Some(Refusal::Login);
                    let queue = if are_refused { std::mem::take(&mut self.queue) } else { VecDeque::new() };
                    self.acquire(MOMENT, Some(dead));
                    self.expect(BTreeSet::new(), queue.into_iter().collect(), Refusal::Login);
                }
            }
            Event::Release(number) => {
                if let Some(permit) = self.take_lent(number) {
                    self.tally.used += 1;
                    self.add_idle();
                    self.gate.release(permit, now());
                }
            }
            Event::Discard(number) => {
                if let Some(permit) = self.take_lent(number) {
                    self.tally.used += 1;
                    self.gate.discard(permit);
                    self.expect_login_refusals();
                }
            }
            Event::Detach(number) => {
                let count = self.lent.len().max(1);
                if let Some((permit, borrower)) = self.lent.get_mut(number % count) {
                    self.gate.detach(permit);
                    *borrower = Borrower::Detached;
                }
            }
            Event::BeginCheck(most) => {
                let expected = if self.queue.is_empty() { self.idle.min(most) } else { 0 };
                assert_eq!(self.gate.begin_check(most), expected);
                self.idle -= expected;
                self.checking += expected;
            }
            Event::EndCheck if self.checking > 0 => {
                self.checking -= 1;
                self.add_idle();
                self.gate.end_check();
            }
            Event::EndCheckClosed if self.checking > 0 => {
                self.checking -= 1;
                self.gate.end_check_closed();
                self.expect_login_refusals();
            }
            Event::EndCheck | Event::EndCheckClosed => {}
            Event::Connected { took } => {
                if let Some(connector) = self.connecting.pop() {
                    self.add_idle();
                    self.outage = None;
                    self.gate.connected(took);
                    self.results[connector].send(()).unwrap();
                }
            }
            Event::ConnectFailed { is_login } => {
                if let Some(connector) = self.connecting.pop() {
                    self.outage = Some(if is_login { Refusal::Login } else { Refusal::Down });
                    self.gate.connect_failed("refused".to_owned(), is_login);
                    self.results[connector].send(()).unwrap();
                    self.expect_login_refusals();
                }
            }
            Event::Resize(min, max) => {
                let max = max.max(self.max);
                assert_eq!(self.gate.resize(min, max), is_open);
                self.max = if is_open { max } else { self.max };
            }
            Event::Suspend => {
                assert_eq!(self.gate.suspend(), is_open);
                self.phase = if is_open { PoolState::Suspended } else { self.phase };
            }
            Event::Resume => {
                assert_eq!(self.gate.resume(), is_open);
                self.phase = if is_open { PoolState::Open } else { self.phase };
            }
            Event::Close => {
                self.phase = PoolState::Closed;
                self.idle = 0;
                self.gate.close();
                self.expect_all_refused(Refusal::Closed);
            }
        }
        self.settle();
    }

    /// Closes the gate, returns every connection, and asserts that none is left and that the counters are right.
    pub(super) fn end(mut self) {
        self.apply(&Event::Close);
        while !self.lent.is_empty() || self.checking > 0 || !self.connecting.is_empty() {
            self.apply(&Event::Release(0));
            self.apply(&Event::EndCheckClosed);
            self.apply(&Event::Connected { took: Duration::ZERO });
        }
        assert_eq!(self.gate.wait_until_idle(now() + AGES), 0);
        assert_eq!(self.gate.lock().total(), 0, "{:?}", self.gate);
        assert_eq!(Tally::shown(&self.gate.snapshot()), self.tally);
    }
}
