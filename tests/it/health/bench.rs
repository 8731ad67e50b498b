//! A bench for the decision core: components that are observed at their pace with outcomes the test sets, the two
//! doors, a clock that the test moves, and agent restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use dr_agent::clock::BootTime;
use dr_agent::health::cause::{Cause, Status};
use dr_agent::health::component::{ComponentState, Schedule};
use dr_agent::health::verdict::{self, Domain, Doors, Group, Inputs, InstanceState, InstanceVerdict, Memory, Policy};
use dr_agent::health::verdict::{RegionState, RegionVerdict};
use dr_agent::observation::{Component, Facts, Finding, Observation, Outcome};

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub const fn at(elapsed: Duration) -> BootTime {
    BootTime::from_boot(elapsed)
}

/// The contract's default pace of a component.
pub fn schedule(component: &Component) -> Schedule {
    let (interval, timeout, fast, fall, rise) = match component {
        Component::Nginx | Component::App => (secs(2), secs(1), Some(millis(500)), 2, 2),
        Component::Efs => (secs(4), secs(3), None, 2, 3),
        Component::Database => (secs(2), millis(1_500), Some(secs(1)), 3, 3),
        Component::Host | Component::Exec(_) => (secs(10), secs(5), Some(secs(2)), 2, 2),
        Component::Wiring => (secs(30), secs(5), None, 1, 1),
    };
    Schedule { interval, timeout, fast_interval: fast, fall, rise }
}

/// The contract's default windows.
pub const fn policy() -> Policy {
    Policy {
        start_limit: secs(15),
        hold_database: secs(150),
        hold_efs: secs(60),
        hold_capacity: secs(60),
        reopen: secs(60),
        standby: false,
        partial: false,
    }
}

pub fn observation(component: Component, began: BootTime, took: Duration, cause: Option<Cause>) -> Observation {
    let outcome = cause.map_or(Outcome::Pass, |cause| Outcome::Fail(Finding::new(cause, "by the bench")));
    Observation { component, began, took, outcome, stages: Vec::new(), facts: Facts::None }
}

pub fn state(component: Component, now: BootTime) -> ComponentState {
    let schedule = schedule(&component);
    ComponentState::new(component, "target".to_owned(), schedule, false, now)
}

/// What the next attempts on a component find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    Passes,
    Fails(Cause),
    /// No attempt ends: the probe is stuck or the agent starved.
    Silent,
}

const STEP: Duration = millis(500);

pub struct Bench {
    pub components: Vec<ComponentState>,
    pub world: BTreeMap<Component, World>,
    pub group: Group,
    pub policy: Policy,
    pub draining: bool,
    pub gate_closed: bool,
    pub now: BootTime,
    pub instance: InstanceVerdict,
    pub region: RegionVerdict,
    /// What was observed in the newest step.
    pub seen: Vec<(Component, Option<Cause>)>,
    /// Observes everything in every other step, whatever its pace.
    pub steady: bool,
    doors: Doors,
    next: BTreeMap<Component, BootTime>,
}

impl Bench {
    /// A machine that has just booted, with nothing observed yet and nothing wrong.
    pub fn booted(components: &[Component]) -> Self {
        Self::resumed(components, Memory::default())
    }

    /// The same, in a boot in which an agent ran before.
    pub fn resumed(components: &[Component], memory: Memory) -> Self {
        Self::resumed_under(policy(), components, memory)
    }

    /// The same, under another policy.
    pub fn resumed_under(policy: Policy, components: &[Component], memory: Memory) -> Self {
        let now = at(secs(1_000));
        let mut doors = Doors::new(memory, now);
        let components: Vec<_> = components.iter().map(|c| state(c.clone(), now)).collect();
        let world = components.iter().map(|c| (c.component.clone(), World::Passes)).collect();
        let group = Group::default();
        let (draining, gate_closed) = (false, false);
        let inputs = Inputs {
            components: &components,
            group: &group,
            policy: &policy,
            draining,
            undecided: false,
            gate_closed,
            now,
        };
        let (instance, region) = doors.judge(&inputs);
        let (next, seen, steady) = (BTreeMap::new(), Vec::new(), false);
        Self {
            components,
            world,
            group,
            policy,
            draining,
            gate_closed,
            now,
            instance,
            region,
            seen,
            steady,
            doors,
            next,
        }
    }

    /// A machine on which everything has been healthy for two minutes.
    pub fn healthy(components: &[Component]) -> Self {
        let mut bench = Self::booted(components);
        bench.run(secs(120));
        assert_eq!((bench.instance.state, bench.region.state), (InstanceState::Serving, RegionState::Open));
        assert!(bench.components.iter().all(|c| c.status == Status::Healthy));
        bench
    }

    pub fn set(&mut self, component: Component, world: World) {
        self.world.insert(component, world);
    }

    pub fn fail(&mut self, component: Component, cause: Cause) {
        self.set(component, World::Fails(cause));
    }

    pub fn pass(&mut self, component: Component) {
        self.set(component, World::Passes);
    }

    /// Another member votes healthy on these and can serve.
    pub fn peer_passes(&mut self, components: &[Component]) {
        self.group = Group { passing: components.iter().cloned().collect(), can_serve: true, ..Group::default() };
    }

    /// One attempt on one component, now, whatever its pace.
    pub fn observe(&mut self, component: &Component, cause: Option<Cause>) {
        let observation = observation(component.clone(), self.now, Duration::ZERO, cause);
        self.state_mut(component).apply(observation);
        self.judge();
    }

    /// Lets `span` pass in steps of half a second.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.step();
        }
    }

    /// Lets time pass until `done`, at most `limit`; gives the time it took.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.now;
        while !done(self) {
            if self.now.since(began) >= limit {
                return None;
            }
            self.step();
        }
        Some(self.now.since(began))
    }

    /// Half a second passes.
    pub fn step(&mut self) {
        self.now = self.now + STEP;
        let now = self.now;
        self.seen.clear();
        for state in &mut self.components {
            let cause = match self.world[&state.component] {
                World::Passes => None,
                World::Fails(cause) => Some(cause),
                World::Silent => continue,
            };
            if self.next.get(&state.component).is_some_and(|&next| now < next) {
                continue;
            }
            state.apply(observation(state.component.clone(), now, Duration::ZERO, cause));
            self.seen.push((state.component.clone(), cause));
            let fast = state.schedule.fast_interval.filter(|_| !state.is_settled());
            let pace = if self.steady { secs(1) } else { fast.unwrap_or(state.schedule.interval) };
            self.next.insert(state.component.clone(), now + pace);
        }
        self.judge();
    }

    pub fn judge(&mut self) {
        for state in &mut self.components {
            state.tick(self.now, self.policy.start_limit);
        }
        let inputs =
            Self::inputs(&self.components, &self.group, &self.policy, self.draining, self.gate_closed, self.now);
        let (instance, region) = self.doors.judge(&inputs);
        (self.instance, self.region) = (instance, region);
    }

    const fn inputs<'a>(
        components: &'a [ComponentState],
        group: &'a Group,
        policy: &'a Policy,
        draining: bool,
        gate_closed: bool,
        now: BootTime,
    ) -> Inputs<'a> {
        Inputs { components, group, policy, draining, undecided: false, gate_closed, now }
    }

    /// What the agent leaves behind for its successor in the same boot: the markers and the state file.
    pub fn memory(&self) -> Memory {
        let by_nginx_alone = self.instance.reasons.iter().all(|reason| reason.component == Component::Nginx);
        Memory {
            same_boot: true,
            instance_closed: self.instance.state == InstanceState::Closed && !by_nginx_alone && self.group.can_serve,
            region_closed: self.doors.region_closed(),
            promoted: false,
            holds: self.doors.holds().clone(),
        }
    }

    /// The agent is gone and another one starts at once.
    pub fn restart(&mut self) {
        let memory = self.memory();
        for old in &mut self.components {
            let (component, target, ever) = (old.component.clone(), old.target.clone(), old.ever_healthy);
            *old = ComponentState::new(component, target, old.schedule, ever, self.now);
        }
        self.doors = Doors::new(memory, self.now);
        self.next.clear();
        self.judge();
    }

    /// A reload that no longer has the component.
    pub fn remove(&mut self, component: &Component) {
        self.components.retain(|c| c.component != *component);
        self.judge();
    }

    /// A reload after which the component is another thing: nothing is known of it.
    pub fn retarget(&mut self, component: &Component, target: &str) {
        let now = self.now;
        let old = self.state_mut(component);
        *old = ComponentState::new(old.component.clone(), target.to_owned(), old.schedule, false, now);
        self.next.remove(component);
        self.judge();
    }

    pub fn state(&self, component: &Component) -> &ComponentState {
        self.components.iter().find(|c| c.component == *component).expect("a component of the bench")
    }

    fn state_mut(&mut self, component: &Component) -> &mut ComponentState {
        self.components.iter_mut().find(|c| c.component == *component).expect("a component of the bench")
    }

    pub fn status(&self, component: &Component) -> Status {
        self.state(component).status
    }

    pub fn cause(&self, component: &Component) -> Option<Cause> {
        self.state(component).finding.as_ref().map(|finding| finding.cause)
    }

    pub fn domain(&self, component: &Component) -> Option<Domain> {
        let inputs =
            Self::inputs(&self.components, &self.group, &self.policy, self.draining, self.gate_closed, self.now);
        verdict::domain(self.state(component), &inputs)
    }

    pub fn serves(&self) -> bool {
        self.instance.state.is_ok()
    }

    pub fn open(&self) -> bool {
        self.region.state.is_ok()
    }
}
