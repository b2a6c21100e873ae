//! The account that a gate is held against, and the threads that use it.

use super::*;
use crate::pool::gate::tests::histories::tally::Tally;
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};

const MOMENT: Duration = Duration::from_millis(2);
const MAX_WAITING: u32 = 3;
const CONNECTOR_THREADS: usize = 2;

/// What a thread tells the main one.
enum Report {
    Caller(usize, Result<Permit, Refusal>),
    /// This connector has an order in hand.
    Maker(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Borrower {
    Main,
    Other,
    /// It is being cleaned.
    Nobody,
}

/// The account, and the threads.
pub(super) struct World {
    pub(super) gate: Arc<Gate>,
    reports: Receiver<Report>,
    reporter: Sender<Report>,
    verdicts: Vec<Sender<()>>,
    /// Makers with an order in hand.
    in_hand: Vec<usize>,
    phase: PoolState,
    max: u32,
    idle: u32,
    checking: u32,
    lent: Vec<(Permit, Borrower)>,
    callers: usize,
    /// The patient ones, in the order in which they came.
    queue: VecDeque<usize>,
    outage: Option<Refusal>,
    tally: Tally,
}

impl World {
    pub(super) fn new(min: u32) -> World {
        let outage_grace = AGES;
        let gate = Arc::new(Gate::new(Limits { max_waiting: MAX_WAITING, outage_grace, ..limits(min, MAX) }));
        let (reporter, reports) = channel();
        let verdicts = (0..CONNECTOR_THREADS).map(|name| {
            let (verdict, verdicts) = channel();
            let (gate, reporter) = (gate.clone(), reporter.clone());
            std::thread::spawn(move || {
                while let ConnectRequest::Connect(_) = gate.next_connect_request() {
                    if reporter.send(Report::Maker(name)).is_err() || verdicts.recv().is_err() {
                        return;
                    }
                }
            });
            verdict
        });
        let verdicts = verdicts.collect();
        World {
            gate,
            reports,
            reporter,
            verdicts,
            in_hand: Vec::new(),
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

    /// What somebody who finds nothing is told before waiting.
    fn refusal(&self, waits: bool, is_main: bool, is_again: bool) -> Option<Refusal> {
        let requested = self.gate.lock().requested;
        let all_lent = requested == 0 && self.lent.len() as u32 >= self.max;
        let has = |wanted| self.lent.iter().any(|(_, borrower)| *borrower == wanted);
        if self.phase == PoolState::Closed {
            Some(Refusal::Closed)
        } else if self.live() == 0 && self.outage == Some(Refusal::Login) {
            Some(Refusal::Login)
        } else if !waits && self.checking == 0 {
            Some(self.time_is_up(is_again))
        } else if is_main && all_lent && has(Borrower::Main) && !has(Borrower::Nobody) {
            Some(Refusal::SelfDeadlock)
        } else if self.queue.len() >= MAX_WAITING as usize && !is_again {
            Some(Refusal::Saturated)
        } else {
            None
        }
    }

    fn time_is_up(&self, is_again: bool) -> Refusal {
        if self.phase == PoolState::Suspended {
            return Refusal::Suspended;
        }
        let no_answer = (is_again || self.gate.lock().counts.connects == 0).then_some(Refusal::Down);
        let is_served = !self.lent.is_empty() || (self.live() > 0 && !is_again);
        self.outage.or(no_answer).filter(|_| !is_served).unwrap_or(Refusal::TimedOut)
    }

    /// Somebody patient comes.
    fn come(&mut self) {
        let name = self.callers;
        self.callers += 1;
        self.tally.requests += 1;
        let (gate, reporter) = (self.gate.clone(), self.reporter.clone());
        let expected = if self.is_free() { None } else { self.refusal(true, false, false) };
        std::thread::spawn(move || {
            let _ = reporter.send(Report::Caller(name, gate.acquire_here(AGES)));
        });
        if let Some(refusal) = expected {
            self.hear(BTreeSet::new(), BTreeSet::from([name]), refusal);
            self.tally.waits -= 1;
        } else {
            self.queue.push_back(name);
            let gate = self.gate.clone();
            let has_come = |world: &World| world.is_free() || gate.lock().queue.len() == world.queue.len();
            self.until("the caller is in the queue", has_come);
        }
    }

    /// Asks from the main thread, and holds the answer against the account.
    fn ask(&mut self, timeout: Duration, again: Option<Permit>) {
        let is_again = again.is_some();
        let at_once = self.refusal(!timeout.is_zero(), true, is_again);
        let expected = (!self.is_free()).then(|| at_once.unwrap_or(self.time_is_up(is_again)));
        // Its first wait is not counted any more.
        self.tally.waits +=
            u64::from(expected.is_none() || at_once.is_none() || is_again) - u64::from(is_again);
        // Where an attempt has been in hand for long, because this test was held up.
        let may_hang = self.live() == 0 && !self.in_hand.is_empty();
        let started = now();
        let outcome = match again {
            None => {
                self.tally.requests += 1;
                self.gate.acquire(started, started + timeout, Location::caller())
            }
            Some(dead) => self.gate.acquire_again(dead, started, started + timeout, Location::caller()),
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
                let account = (self.lent.len(), self.idle + self.checking, self.queue.len(), self.max);
                assert_eq!(shown, account, "{refusal:?}");
                self.tally.count(refusal);
            }
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }

    /// Those who must be told of a refused login, now that nothing is left.
    fn tell_of_login(&mut self) {
        if self.live() == 0 && self.outage == Some(Refusal::Login) {
            self.turn_away(Refusal::Login);
        }
    }

    fn turn_away(&mut self, refusal: Refusal) {
        let everybody = std::mem::take(&mut self.queue).into_iter().collect();
        self.hear(BTreeSet::new(), everybody, refusal);
    }

    /// Hears from those who must have been served, from the head of the queue on.
    fn serve(&mut self) {
        let mut served = BTreeSet::new();
        while self.is_free() {
            let Some(name) = self.queue.pop_front() else { break };
            self.idle -= 1;
            served.insert(name);
        }
        self.hear(served, BTreeSet::new(), Refusal::Closed);
    }

    /// Waits for these callers' reports, and accepts no other's.
    fn hear(&mut self, mut served: BTreeSet<usize>, mut refused: BTreeSet<usize>, refusal: Refusal) {
        while !served.is_empty() || !refused.is_empty() {
            let report = self.reports.recv_timeout(AGES / 6);
            match report.unwrap_or_else(|_| panic!("{served:?} not served, {refused:?} not refused")) {
                Report::Maker(name) => self.in_hand.push(name),
                Report::Caller(name, Ok(permit)) => {
                    assert!(served.remove(&name), "{name} is served before {served:?}, {:?}", self.queue);
                    self.tally.waits += 1;
                    self.lent.push((permit, Borrower::Other));
                }
                Report::Caller(name, Err(other)) => {
                    assert!(refused.remove(&name), "{name} is told {other:?}");
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
            assert!(Instant::now() < end, "this never came true: {what}; {:?}", self.gate.lock());
            std::thread::sleep(Duration::from_micros(20));
            self.hear_connectors();
        }
    }

    fn hear_connectors(&mut self) {
        for report in self.reports.try_iter() {
            match report {
                Report::Maker(name) => self.in_hand.push(name),
                Report::Caller(name, outcome) => panic!("nothing was due to {name}: {outcome:?}"),
            }
        }
    }

    /// Lets things come to rest, and compares the gate with the account.
    pub(super) fn settle(&mut self) {
        self.serve();
        let gate = self.gate.clone();
        self.until("the connectors have what is ordered", |world| {
            let state = gate.lock();
            let is_hand_free = world.in_hand.len() < CONNECTOR_THREADS;
            let heard = state.connecting as usize == world.in_hand.len();
            heard && (state.requested == state.connecting || !is_hand_free || state.backoff.is_down())
        });
        let state = gate.lock();
        state.check_bounded();
        let shown = (state.idle, state.checking, state.in_use as usize, state.queue.len(), state.phase);
        let account = (self.idle, self.checking, self.lent.len(), self.queue.len(), self.phase);
        assert_eq!(shown, account);
        assert_eq!(state.backoff.is_down(), self.outage.is_some());
        if self.phase == PoolState::Open && !self.queue.is_empty() {
            assert!(state.total() > 0, "they wait for nothing: {state:?}");
        }
    }

    fn take_lent(&mut self, number: usize) -> Option<Permit> {
        if self.lent.is_empty() {
            return None;
        }
        let number = number % self.lent.len();
        Some(self.lent.swap_remove(number).0)
    }

    pub(super) fn live_through(&mut self, event: &Event) {
        let is_open = self.phase != PoolState::Closed;
        match *event {
            Event::Come => self.come(),
            Event::Try => self.ask(Duration::ZERO, None),
            Event::Ask => self.ask(MOMENT, None),
            Event::AskAgain(number) => {
                if let Some(dead) = self.take_lent(number) {
                    let told = self.live() == 0 && self.outage == Some(Refusal::Login);
                    let queue = if told { std::mem::take(&mut self.queue) } else { VecDeque::new() };
                    self.ask(MOMENT, Some(dead));
                    self.hear(BTreeSet::new(), queue.into_iter().collect(), Refusal::Login);
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
                    self.tell_of_login();
                }
            }
            Event::Detach(number) => {
                let count = self.lent.len().max(1);
                if let Some((permit, borrower)) = self.lent.get_mut(number % count) {
                    self.gate.detach(permit);
                    *borrower = Borrower::Nobody;
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
                self.tell_of_login();
            }
            Event::EndCheck | Event::EndCheckClosed => {}
            Event::Made { took } => {
                if let Some(connector) = self.in_hand.pop() {
                    self.add_idle();
                    self.outage = None;
                    self.gate.connected(took);
                    self.verdicts[connector].send(()).unwrap();
                }
            }
            Event::Failed { is_login } => {
                if let Some(connector) = self.in_hand.pop() {
                    self.outage = Some(if is_login { Refusal::Login } else { Refusal::Down });
                    self.gate.connect_failed("refused".to_owned(), is_login);
                    self.verdicts[connector].send(()).unwrap();
                    self.tell_of_login();
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
                self.turn_away(Refusal::Closed);
            }
        }
        self.settle();
    }

    /// Closes the gate, brings everything back, and shows that nothing is left and everything was counted.
    pub(super) fn end(mut self) {
        self.live_through(&Event::Close);
        while !self.lent.is_empty() || self.checking > 0 || !self.in_hand.is_empty() {
            self.live_through(&Event::Release(0));
            self.live_through(&Event::EndCheckClosed);
            self.live_through(&Event::Made { took: Duration::ZERO });
        }
        assert_eq!(self.gate.wait_until_idle(now() + AGES), 0);
        let state = self.gate.lock();
        assert_eq!(state.total(), 0, "{state:?}");
        assert_eq!(Tally::shown(&state.counts), self.tally);
    }
}
