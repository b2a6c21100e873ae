//! A simulation of callers, connections and connectors in virtual time, with the growth rule of the gate. It is compared with a
//! pool that has its maximum from the beginning, and with perfect foresight: the best of all sizes, requested when the first
//! caller arrives.

use crate::pool::gate::growth::tests::{Growth, MS};
use fastrand::Rng;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

const MIN: u32 = 2;
const MAX: u32 = 10;
const CONNECTOR_THREADS: u32 = 4;
/// The time between a release and the next request of the same caller.
const THINK: Duration = Duration::from_micros(20);

/// The policy that requests connections.
#[derive(Clone, Copy, PartialEq)]
enum Policy {
    /// The growth rule.
    Rule,
    /// Connections up to this size are requested when the first caller arrives.
    Foresight(u32),
    /// This many connections are open from the beginning, and no other is requested.
    Warm(u32),
}

/// The callers.
#[derive(Clone)]
enum Load {
    /// `count` callers that call again as soon as they are served, during `on` of every `on` + `off`.
    Callers { count: usize, on: Duration, off: Duration },
    /// One caller at each of these times.
    Arrivals(Vec<Duration>),
}

#[derive(Clone)]
struct Scene {
    load: Load,
    connect: Duration,
    hold: Duration,
    /// Results are counted between these times; no caller arrives after the second.
    counted_from: Duration,
    ends: Duration,
    min: u32,
    max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    /// This caller returns the connection that it has held since this time.
    Done(usize, Duration),
    Connected,
    /// A waiter wakes up because growth may be due.
    Wake,
}

/// The results.
#[derive(Debug, Default)]
struct Outcome {
    served: u32,
    waits: Waits,
    /// The time during which the queue was not empty.
    pressed: Duration,
    opened: u32,
}

#[derive(Default)]
struct Waits(Vec<Duration>);

// Thousands of values do not help in a message.
impl std::fmt::Debug for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} waits", self.0.len())
    }
}

impl Outcome {
    fn p99(&mut self) -> Duration {
        self.waits.0.sort_unstable();
        self.waits.0.get(self.waits.0.len() * 99 / 100).copied().unwrap_or_default()
    }

    fn longest(&self) -> Duration {
        self.waits.0.iter().max().copied().unwrap_or_default()
    }

    /// The time during which the queue was not empty, plus a connect time for each connection opened.
    fn cost(&self, scene: &Scene) -> Duration {
        self.pressed + scene.connect * self.opened
    }
}

struct World<'a> {
    scene: &'a Scene,
    policy: Policy,
    start: Instant,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    count: u64,
    growth: Growth,
    random: Vec<Rng>,
    queue: VecDeque<(usize, Duration)>,
    idle: u32,
    in_use: u32,
    requested: u32,
    connecting: u32,
    /// Whether a `Wake` is among the events.
    has_wake: bool,
    outcome: Outcome,
}

fn run(scene: &Scene, policy: Policy, seed: u64) -> Outcome {
    let callers = match &scene.load {
        Load::Callers { count, .. } => *count,
        Load::Arrivals(times) => times.len(),
    };
    let mut world = World {
        scene,
        policy,
        start: Instant::now(),
        now: Duration::ZERO,
        events: BinaryHeap::new(),
        count: 0,
        growth: Growth::default(),
        // The hold times of a caller are the same under every policy.
        random: (0..callers as u64).map(|caller| Rng::with_seed(seed << 32 | caller)).collect(),
        queue: VecDeque::new(),
        idle: if let Policy::Warm(size) = policy { size } else { scene.min },
        in_use: 0,
        requested: 0,
        connecting: 0,
        has_wake: false,
        outcome: Outcome::default(),
    };
    // As learnt while the minimum was opened, and from earlier calls.
    world.growth.note_connect(scene.connect);
    world.growth.note_use(scene.hold);
    for caller in 0..callers {
        let at = if let Load::Arrivals(times) = &scene.load { times[caller] } else { Duration::ZERO };
        world.at(at, Event::Arrive(caller));
    }
    world.run();
    world.outcome
}

impl World<'_> {
    fn at(&mut self, when: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count, event)));
    }

    fn run(&mut self) {
        let mut has_begun = false;
        while let Some(Reverse((when, _, event))) = self.events.pop() {
            if !self.queue.is_empty() {
                self.outcome.pressed += when - self.now;
            }
            self.now = when;
            match event {
                Event::Arrive(caller) => {
                    if let (Policy::Foresight(size), false) = (self.policy, has_begun) {
                        self.requested = size - self.scene.min;
                        self.start_connects();
                    }
                    has_begun = true;
                    self.queue.push_back((caller, self.now));
                    self.serve();
                    self.request();
                }
                Event::Done(caller, since) => {
                    self.growth.note_use(self.now - since);
                    self.in_use -= 1;
                    self.idle += 1;
                    self.outcome.served += u32::from(self.is_counted());
                    self.come_again(caller);
                    self.serve();
                }
                Event::Connected => {
                    self.connecting -= 1;
                    self.idle += 1;
                    self.outcome.opened += 1;
                    self.growth.note_connect(self.scene.connect);
                    self.serve();
                    self.request();
                    self.start_connects();
                }
                Event::Wake => {
                    self.has_wake = false;
                    self.request();
                }
            }
            let total = self.idle + self.in_use + self.requested + self.connecting;
            assert!(total <= self.scene.max, "{total} connections");
        }
        assert!(self.queue.is_empty() && self.in_use == 0, "every caller is served in the end");
    }

    fn is_counted(&self) -> bool {
        self.now >= self.scene.counted_from && self.now < self.scene.ends
    }

    fn come_again(&mut self, caller: usize) {
        let Load::Callers { on, off, .. } = self.scene.load else { return };
        let mut next = self.now + THINK;
        let into = Duration::from_nanos((next.as_nanos() % (on + off).as_nanos()) as u64);
        if into >= on {
            next += on + off - into;
        }
        if next < self.scene.ends {
            self.at(next, Event::Arrive(caller));
        }
    }

    fn serve(&mut self) {
        while self.idle > 0 {
            let Some((caller, since)) = self.queue.pop_front() else { break };
            self.idle -= 1;
            self.in_use += 1;
            let waited = self.now - since;
            if self.is_counted() {
                self.outcome.waits.0.push(waited);
            }
            let hold = self.scene.hold.mul_f64(0.5 + self.random[caller].f64());
            self.at(self.now + hold, Event::Done(caller, self.now));
        }
        self.note_demand();
    }

    fn unserved(&self) -> usize {
        self.queue.len().saturating_sub((self.requested + self.connecting) as usize)
    }

    fn note_demand(&mut self) {
        self.growth.note_demand(self.start + self.now, self.unserved());
    }

    /// Requests connects as the gate does for its waiters.
    fn request(&mut self) {
        let total = self.idle + self.in_use + self.requested + self.connecting;
        if self.policy != Policy::Rule || total == self.scene.max || self.queue.is_empty() {
            return;
        }
        let now = self.start + self.now;
        let wanted =
            self.growth.connects_wanted(now, self.in_use, 0, self.unserved()).min(self.scene.max - total);
        self.requested += wanted;
        self.note_demand();
        self.start_connects();
        if let Some(due) = self.growth.due().filter(|due| *due > now)
            && !self.has_wake
        {
            self.has_wake = true;
            self.at(due - self.start, Event::Wake);
        }
    }

    /// Starts attempts as the connectors do: a request that no caller waits for any more is dropped.
    fn start_connects(&mut self) {
        while self.requested > 0 && self.connecting < CONNECTOR_THREADS {
            self.requested -= 1;
            if self.policy == Policy::Rule && self.queue.len() <= self.connecting as usize {
                continue;
            }
            self.connecting += 1;
            self.at(self.now + self.scene.connect, Event::Connected);
        }
    }
}

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// Connect times × hold times × numbers of callers.
fn rows() -> impl Iterator<Item = (Duration, Duration, usize)> {
    [micros(500), 3 * MS, 10 * MS, 30 * MS, 100 * MS].into_iter().flat_map(|connect| {
        [micros(200), 2 * MS, 20 * MS].into_iter().flat_map(move |hold| {
            [1, 4, 8, 10, 11, 64].into_iter().map(move |callers| (connect, hold, callers))
        })
    })
}

fn scene(connect: Duration, hold: Duration, load: Load, counted_from: Duration, lasts: Duration) -> Scene {
    Scene { load, connect, hold, counted_from, ends: counted_from + lasts, min: MIN, max: MAX }
}

const ALWAYS: Duration = Duration::from_secs(1000);

#[test]
fn lasting_demand_has_the_throughput_and_the_latency_of_the_maximum_after_ten_connects() {
    for (connect, hold, count) in rows() {
        let load = Load::Callers { count, on: ALWAYS, off: Duration::ZERO };
        let scene = scene(connect, hold, load, 10 * connect, 100 * hold.max(MS));
        let mut ours = run(&scene, Policy::Rule, 1);
        let mut full = run(&scene, Policy::Warm(MAX), 1);
        let ratio = f64::from(ours.served) / f64::from(full.served);
        let row = format!("connect {connect:?}, hold {hold:?}, {count} callers: {ours:?}");
        assert!(ratio >= 0.95, "{ratio:.3} of the throughput, {row}");
        let (p99, full_p99) = (ours.p99() + hold, full.p99() + hold);
        assert!(p99 <= full_p99.mul_f64(1.5), "p99 {p99:?} for {full_p99:?}, {row}");
        let most = (count as u32).clamp(MIN, MAX) - MIN;
        assert!(ours.opened <= most, "{} opened, {row}", ours.opened);
    }
}

#[test]
fn a_spike_opens_next_to_nothing() {
    // 50 callers on 5 connections, 2 ms each, with a connect time of 150 ms; and a spike that lasts as long as a connect.
    for (count, most) in [(50, 0), (360, 2)] {
        let load = Load::Arrivals(vec![Duration::ZERO; count]);
        let mut scene = scene(150 * MS, 2 * MS, load, Duration::ZERO, ALWAYS);
        (scene.min, scene.max) = (5, 50);
        for seed in 0..20 {
            let outcome = run(&scene, Policy::Rule, seed);
            assert!(outcome.opened <= most, "{count} at once: {outcome:?}");
        }
    }
}

#[test]
fn load_in_pulses_opens_its_connections_once() {
    for (connect, hold, count) in rows().filter(|(connect, _, count)| *connect < 100 * MS && *count > 1) {
        // Six pulses and six more, each too short to bring the pool to its size alone.
        let (on, off) = (3 * connect, 10 * connect);
        let load = Load::Callers { count, on, off };
        let early = scene(connect, hold, load, Duration::ZERO, 6 * (on + off));
        let late = Scene { counted_from: 6 * (on + off), ends: 12 * (on + off), ..early.clone() };
        let row = format!("connect {connect:?}, hold {hold:?}, {count} callers");
        let (first, all) = (run(&early, Policy::Rule, 1), run(&late, Policy::Rule, 1));
        assert!(all.opened <= (count as u32).clamp(MIN, MAX) - MIN, "{row}: {all:?}");
        let full = run(&late, Policy::Warm(MAX), 1);
        assert!(
            f64::from(all.served) >= 0.9 * f64::from(full.served),
            "{row}: {} of {}",
            all.served,
            full.served
        );
        assert!(all.opened - first.opened <= 1, "{row}: {} then {}", first.opened, all.opened);
    }
}

/// Random arrivals: a rate that changes, with spikes in between.
fn random_arrivals(random: &mut Rng, hold: Duration, lasts: Duration) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut now = Duration::ZERO;
    while now < lasts {
        // The number of busy connections that this phase needs.
        let load = [0.2, 0.8, 1.5, 3.0, 6.0][random.usize(0..5)];
        let phase_ends = now + lasts.mul_f64(0.02 + 0.2 * random.f64());
        if random.u8(0..4) == 0 {
            times.extend(std::iter::repeat_n(now, random.usize(1..60)));
        }
        while now < phase_ends {
            now += hold.mul_f64(-(1.0 - random.f64()).ln() / load);
            times.push(now);
        }
    }
    times
}

/// Regret in cost ([`Outcome::cost`]), in the longest wait, and in the number of connections opened.
#[test]
fn against_perfect_foresight_the_regret_is_bounded() {
    let (mut opened, mut best_opened, mut ratios) = (0, 0, 0.0);
    const SCENES: u32 = 64;
    for seed in 0..u64::from(SCENES) {
        let random = &mut Rng::with_seed(seed);
        let connect = [3 * MS, 10 * MS, 30 * MS, 100 * MS][random.usize(0..4)];
        let hold = [micros(200), 2 * MS, 20 * MS][random.usize(0..3)];
        let lasts = (hold * 400).max(20 * connect).min(hold * 1000);
        let arrivals = random_arrivals(random, hold, lasts);
        let scene = scene(connect, hold, Load::Arrivals(arrivals), Duration::ZERO, ALWAYS);
        let ours = run(&scene, Policy::Rule, seed);
        let best = (MIN..=MAX)
            .map(|size| run(&scene, Policy::Foresight(size), seed))
            .min_by_key(|outcome| outcome.cost(&scene))
            .expect("sizes");
        // A rule without foresight needs a connect time more before its first connection.
        let ratio = ours.cost(&scene).as_secs_f64() / (best.cost(&scene) + connect).as_secs_f64();
        let row = format!("seed {seed}, connect {connect:?}, hold {hold:?}: {ours:?}, at best {best:?}");
        assert!(ratio <= 3.0, "{ratio:.2} times the cost, {row}");
        assert!(ours.longest() <= best.longest() + connect.mul_f64(1.5), "the longest wait, {row}");
        ratios += ratio;
        opened += ours.opened;
        best_opened += best.opened;
    }
    assert!(ratios / f64::from(SCENES) <= 1.5, "{:.2} times the cost on average", ratios / f64::from(SCENES));
    assert!(4 * opened <= 5 * best_opened, "{opened} opened in place of {best_opened}");
}
