//! The course of a history: a queue of events in the world's time, agents that take them, and the laws, asked after
//! each. While nothing changes, time is skipped.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt::Write as _;
use std::sync::Arc;

use dr_agent::config::Config;
use dr_agent::health::cause::{Cause, Status};
use dr_agent::replace::plan::ReplacePolicy;

use super::agent::{self, Agent, Clocks, Disk};
use super::cloud::{Cloud, Lifecycle};
use super::deeds::Mark;
use super::history::{Act, History};
use super::laws::Laws;
use super::queue::{Event, Queued};
use super::random::Random;
use super::replacer;
use super::site;
use super::world::{HOUR, Index, MINUTE, Ms, SECOND, SITE, World, hangs, seconds};

/// Everything was as it is for so long: then time may be skipped. Longer than anything takes to be noticed.
const STEADY: Ms = 20 * SECOND;

/// Nothing is skipped so close to what happens next.
const MARGIN: Ms = 5 * SECOND;

/// Skipped at once at most: what the windows of ten minutes forget is noticed so late.
const LEAP: Ms = 10 * MINUTE;

/// What a history came to.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub events: u64,
    pub skipped: Ms,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.skipped += other.skipped;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

pub struct Course {
    pub now: Ms,
    pub world: World,
    pub agents: BTreeMap<Index, Agent>,
    pub tally: Tally,
    /// What was decided, if somebody wants to read it.
    pub trace: Option<String>,
    disks: BTreeMap<Index, Disk>,
    pub cloud: Cloud,
    pub cloud_next: Option<Ms>,
    pub policy: ReplacePolicy,
    pub zones: u8,
    pub lives: Vec<u32>,
    pub on_hold: BTreeSet<Index>,
    /// The name of each one's newest plan, and when it waits for.
    pub plans: BTreeMap<Index, String>,
    pub waits: BTreeMap<Index, Ms>,
    /// When what the last repair of each brought is known.
    pub rungs: BTreeMap<Index, Ms>,
    pub marks: Vec<Mark>,
    /// The decisions for which a call was made.
    pub calls: Vec<String>,
    clocks: Vec<Clocks>,
    acts: Vec<(Ms, Act)>,
    edges: Vec<Ms>,
    end: Ms,
    queue: BinaryHeap<Queued>,
    sequence: u64,
    pub rounds: u64,
    pub random: Random,
    config: Arc<Config>,
    signatures: BTreeMap<Index, u64>,
    pub changed: Ms,
    /// Who was judged since the laws were asked last.
    pub judged: Vec<Index>,
    /// When the newest attempt of each probe that passed began, of all that ever were.
    pub passed: BTreeMap<Index, [Ms; SITE.len()]>,
    /// When each one's instance verdict was 200 last.
    pub serving: BTreeMap<Index, Ms>,
    /// When an agent ended last: what it saw is no longer heard.
    pub departed: Ms,
}

impl Course {
    pub fn new(history: &History, traced: bool) -> Self {
        let mut course = Self {
            now: 0,
            world: history.world.clone(),
            agents: BTreeMap::new(),
            tally: Tally::default(),
            trace: traced.then(String::new),
            disks: BTreeMap::new(),
            cloud: Cloud::new(history.size, history.launch_before),
            cloud_next: None,
            policy: ReplacePolicy { enforce: history.enforce, ..site::config().replace },
            zones: history.zones,
            lives: Vec::new(),
            on_hold: BTreeSet::new(),
            plans: BTreeMap::new(),
            waits: BTreeMap::new(),
            rungs: BTreeMap::new(),
            marks: Vec::new(),
            calls: Vec::new(),
            clocks: Vec::new(),
            acts: history.acts.clone(),
            edges: Vec::new(),
            end: history.end,
            queue: BinaryHeap::new(),
            sequence: 0,
            rounds: 0,
            random: history.course.clone(),
            config: Arc::new(site::config()),
            signatures: BTreeMap::new(),
            changed: 0,
            judged: Vec::new(),
            passed: BTreeMap::new(),
            serving: BTreeMap::new(),
            departed: 0,
        };
        course.edges.extend(history.world.faults.iter().flat_map(|fault| [fault.from, fault.to]));
        course.edges.extend(history.acts.iter().map(|(at, _)| *at));
        course.edges.push(history.end);
        course.edges.sort_unstable();
        for (number, (at, _)) in history.acts.iter().enumerate() {
            course.push(*at, Event::Act(number));
        }
        for _ in 0..history.size {
            let zone = u8::try_from(course.lives.len() % usize::from(history.zones)).expect("few zones");
            let index = course.launch(zone);
            course.cloud.add(Lifecycle::InService, None, 0);
            course.push(0, Event::Start { index });
        }
        course.cloud.remember(0);
        course
    }

    /// A new instance; its agent is not there yet.
    pub fn launch(&mut self, zone: u8) -> Index {
        let index = self.lives.len();
        self.world.zones.push(zone);
        self.lives.push(0);
        let signed = |time: Ms| i64::try_from(time).expect("days");
        // Those that are there at the beginning have been for long.
        let up = if self.now == 0 { self.random.within(HOUR..=40 * 24 * HOUR) } else { 0 };
        let wall_offset = signed(self.random.within(0..=4 * SECOND)) - signed(2 * SECOND);
        self.clocks.push(Clocks { boot_offset: signed(up) - signed(self.now), wall_offset });
        index
    }

    /// To the end, or to the first law that is broken.
    pub fn run(&mut self, laws: &mut Laws) -> Result<(), String> {
        while let Some(Queued { at, event, .. }) = self.queue.pop() {
            if at > self.end {
                break;
            }
            if self.edges.partition_point(|edge| *edge <= self.now) != self.edges.partition_point(|edge| *edge <= at) {
                self.changed = at;
            }
            self.now = at;
            self.tally.events += 1;
            self.take(event);
            laws.check(self)?;
            self.skip();
        }
        Laws::finish(self)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Act(number) => {
                let act = self.acts[number].1.clone();
                self.note(|| format!("{act:?}"));
                self.act(&act);
            }
            Event::Start { index } => self.start(index),
            Event::Attempt { index, life, slot } => self.attempt(index, life, slot),
            Event::Ended { index, life, slot, began } => {
                if self.lives(index, life) {
                    let hung = self.world.cause(index, &SITE[slot], began);
                    let recovered = self.world.cause(index, &SITE[slot], self.now).is_none();
                    // What recovered meanwhile may or may not have answered in time.
                    let cause = if recovered && self.random.chance(50) { None } else { hung };
                    self.observed(index, slot, began, self.now - began, cause);
                    let next = self.pace(index, slot, began);
                    self.push(next, Event::Attempt { index, life, slot });
                }
            }
            Event::Tick { index, life } => {
                if self.lives(index, life) {
                    // Where all is well nothing comes due, and the next round of questions judges.
                    if !self.agents[&index].is_calm() {
                        self.judge(index);
                    }
                    self.decide(index, life);
                    self.push(self.now + SECOND, Event::Tick { index, life });
                }
            }
            Event::Ask { index, life } => {
                if self.lives(index, life) {
                    self.ask(index, life);
                }
            }
            Event::Arrives { by, life, at, round, sent } => {
                if self.lives(by, life) {
                    self.arrives(by, at, round, sent);
                }
            }
            Event::RoundOver { index, life, round } => {
                if self.lives(index, life) {
                    self.round_over(index, round);
                }
            }
            Event::Repaired { index, slot, attempt } => {
                if self.world.repair(index, &SITE[slot], attempt, self.now) {
                    self.changed = self.now;
                    self.tally.count("repair helped");
                    self.note(|| format!("{} is repaired", agent::name(index)));
                }
            }
            Event::Looked { index, life, began } if self.lives(index, life) => self.looked(index, life, began),
            Event::Grant { by, life, to, record } => self.grant(by, life, to, &record),
            Event::Replied { by, life, from, id, reply } if self.lives(by, life) => {
                self.replied(by, life, from, &id, reply);
            }
            Event::Returned { to, id } => {
                if let Some(agent) = self.agents.get_mut(&to) {
                    replacer::take_back(agent, &id);
                }
            }
            Event::Call { index, life, began, calls } if self.lives(index, life) => {
                self.call(index, life, began, calls);
            }
            Event::Marked { index, decision, slot } => self.marked(index, decision, slot),
            Event::Answered { index, life, taken } if self.lives(index, life) => self.answered(index, life, taken),
            Event::Cloud => self.step_cloud(),
            Event::Looked { .. } | Event::Replied { .. } | Event::Call { .. } | Event::Answered { .. } => {}
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Restart { index, away, forgets } => {
                let Some(agent) = self.agents.remove(&index) else { return };
                let disk = if forgets { Disk { is_empty: true, ..Disk::default() } } else { agent.leave() };
                self.disks.insert(index, disk);
                self.lives[index] += 1;
                (self.changed, self.departed) = (self.now, self.now);
                self.push(self.now + away, Event::Start { index });
            }
            Act::Desired(desired) => {
                self.cloud.desired = desired;
                self.step_cloud();
            }
            Act::Terminate(index) => {
                if self.cloud.instances[index].lifecycle == Lifecycle::InService {
                    self.cloud.terminate(index, self.now);
                    self.step_cloud();
                }
            }
            Act::Hold { index, on } => _ = if on { self.on_hold.insert(index) } else { self.on_hold.remove(&index) },
            Act::Clock { index, step } => {
                self.clocks[index].wall_offset += step;
                if let Some(agent) = self.agents.get_mut(&index) {
                    agent.wall_offset += step;
                }
            }
        }
    }

    fn start(&mut self, index: Index) {
        let disk = self.disks.remove(&index).unwrap_or_default();
        let (zone, life) = (self.world.zones[index], self.lives[index]);
        let mut agent = Agent::start(index, zone, self.clocks[index], &self.config, disk, self.now);
        agent.members = self.cloud.alive().collect();
        agent.refresh = self.now + self.random.within(8 * MINUTE..=12 * MINUTE);
        self.agents.insert(index, agent);
        self.note(|| format!("{} starts", agent::name(index)));
        self.changed = self.now;
        for slot in 0..SITE.len() {
            self.push(self.now, Event::Attempt { index, life, slot });
        }
        let late = self.random.below(SECOND);
        self.push(self.now + late, Event::Tick { index, life });
        self.push(self.now, Event::Ask { index, life });
    }

    fn attempt(&mut self, index: Index, life: u32, slot: usize) {
        if !self.lives(index, life) {
            return;
        }
        let began = self.now;
        match self.world.cause(index, &SITE[slot], began) {
            Some(cause) if hangs(cause) => {
                let timeout = site::schedule(&SITE[slot]).timeout;
                let ends = began + Ms::try_from(timeout.as_millis()).expect("seconds");
                self.push(ends, Event::Ended { index, life, slot, began });
            }
            cause => {
                let took = 1 + self.random.below(20);
                self.observed(index, slot, began, took, cause);
                let mut next = self.pace(index, slot, began);
                if self.agents.get(&index).is_some_and(|agent| agent.up_since == began) {
                    // The phase, added once.
                    let interval = site::schedule(&SITE[slot]).interval;
                    next += self.random.below(Ms::try_from(interval.as_millis()).expect("seconds"));
                }
                self.push(next, Event::Attempt { index, life, slot });
            }
        }
    }

    fn observed(&mut self, index: Index, slot: usize, began: Ms, took: Ms, cause: Option<Cause>) {
        let Some(agent) = self.agents.get_mut(&index) else { return };
        // The agent judges after each; one that says the same as the one before makes no difference until the next tick.
        if cause.is_none_or(|cause| cause.row().status == Status::Degraded) {
            self.passed.entry(index).or_default()[slot] = began;
        }
        if agent.observe(slot, began, took, cause) {
            self.judge(index);
        }
    }

    fn pace(&self, index: Index, slot: usize, began: Ms) -> Ms {
        let component = &self.agents[&index].components[slot];
        let fast = component.schedule.fast_interval.filter(|_| !component.is_settled());
        let interval = fast.unwrap_or(component.schedule.interval);
        (began + Ms::try_from(interval.as_millis()).expect("seconds")).max(self.now)
    }

    pub fn judge(&mut self, index: Index) {
        let Some(agent) = self.agents.get_mut(&index) else { return };
        let before = (agent.snapshot.instance.state, agent.snapshot.region_closed);
        agent.judge(self.now);
        self.judged.push(index);
        if agent.snapshot.instance.state.is_ok() {
            self.serving.insert(index, self.now);
        }
        let signature = agent.signature();
        if self.signatures.insert(index, signature) != Some(signature) {
            self.changed = self.now;
            if self.trace.is_some() {
                let snapshot = &self.agents[&index].snapshot;
                let after = (snapshot.instance.state, snapshot.region_closed);
                let components: Vec<_> = snapshot
                    .components
                    .iter()
                    .map(|(c, domain)| {
                        let cause = c.newest_cause().map(|cause| format!(" {cause}")).unwrap_or_default();
                        let domain = domain.map(|domain| format!(" {domain:?}")).unwrap_or_default();
                        format!("{} {}{cause}{domain}", c.component, c.status)
                    })
                    .collect();
                let group = &snapshot.group;
                let mark = if before == after { "" } else { "  <<<" };
                let line = format!(
                    "{} {} region {} [{}] passing {:?} failing {:?} can serve {} holds {}{mark}",
                    agent::name(index),
                    after.0.name(),
                    if after.1 { "closed" } else { "open" },
                    components.join(", "),
                    group.passing,
                    group.failing,
                    group.can_serve,
                    snapshot.region.holds.len(),
                );
                self.note(|| line);
            }
        }
    }

    /// Leaps to shortly before the next thing that happens or becomes due, if everything has been the same for long.
    fn skip(&mut self) {
        if self.now < self.changed + STEADY || self.agents.is_empty() {
            return;
        }
        let edge = self.edges[self.edges.partition_point(|edge| *edge <= self.now)..].first().copied();
        let due = self.agents.values().filter_map(Agent::next_due).min();
        let planned = self.queue.iter().filter(|queued| !queued.event.is_routine()).map(|queued| queued.at);
        let waits =
            self.waits.values().chain(self.rungs.values()).copied().filter(|until| *until + 10 * SECOND > self.now);
        let Some(next) = edge.into_iter().chain(due).chain(planned).chain(waits).min() else { return };
        let Some(span) = next.checked_sub(self.now + MARGIN).filter(|span| *span >= 10 * SECOND) else { return };
        let span = span.min(LEAP);
        let mut queue = std::mem::take(&mut self.queue).into_vec();
        for queued in queue.iter_mut().filter(|queued| queued.event.is_routine()) {
            queued.at += span;
            match &mut queued.event {
                Event::Ended { began: since, .. } | Event::Arrives { sent: since, .. } => *since += span,
                _ => {}
            }
        }
        self.queue = queue.into();
        self.now += span;
        self.tally.skipped += span;
        for agent in self.agents.values_mut() {
            agent.skip(span, self.now);
        }
        // Every leap is followed by a steady second of the usual course, so that what a window forgot is noticed.
        self.changed = self.changed.max(self.now.saturating_sub(STEADY) + 5 * SECOND);
        self.note(|| format!("{:.0} s are skipped", seconds(span)));
    }

    fn lives(&self, index: Index, life: u32) -> bool {
        self.lives[index] == life && self.agents.contains_key(&index)
    }

    pub fn push(&mut self, at: Ms, event: Event) {
        self.sequence += 1;
        self.queue.push(Queued { at, sequence: self.sequence, event });
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{:>9.1} s  {}", seconds(self.now), text());
        }
    }
}
