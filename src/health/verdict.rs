//! From components to the two verdicts: can this instance serve, can this region serve. Pure: time is an argument.
//!
//! Both are doors with memory: what closed opens only by its own rule, also when the agent was restarted in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::BootTime;
use crate::health::cause::{Cause, Status};
use crate::observation::Component;

mod weight;

pub use weight::{Domain, Group, Inputs, Policy, Tally, domain};
use weight::{Vote, blockers, closes, has_risen, is_convincing, is_everybodys, may_block, vote, was_healthy};

/// A component and the cause by which it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub component: Component,
    pub cause: Cause,
}

/// The answer to "can this instance serve?".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// 200.
    Serving,
    /// 503: nothing was decided yet in this boot.
    Starting,
    /// 503: an operator or the platform asked for it.
    Draining,
    /// 503 by the cause table.
    Closed,
}

/// The answer to "can this region serve?".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionState {
    /// 200.
    Open,
    /// 200, as the region that waits to take over.
    Standby,
    /// 503 by a hold that has run.
    Closed,
    /// 503 because the gate is closed.
    Fenced,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceVerdict {
    pub state: InstanceState,
    pub since: BootTime,
    /// What closes it, or keeps it closed.
    pub reasons: Vec<Reason>,
    /// Whether this instance counts as one that can serve when the region is judged.
    pub can_serve: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionVerdict {
    pub state: RegionState,
    pub since: BootTime,
    /// The 503 conditions that hold now, due or not.
    pub holds: Vec<Hold>,
    /// When it opens if nothing changes; only while it is closed and nothing holds it.
    pub reopens: Option<BootTime>,
}

/// A 503 condition and when it closes the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub on: HoldOn,
    pub since: BootTime,
    pub due: BootTime,
}

/// What a hold waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldOn {
    Efs,
    Database,
    /// Nobody can serve.
    Capacity,
}

impl InstanceState {
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Serving)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Closed => "closed",
        }
    }
}

impl RegionState {
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Open | Self::Standby)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Standby => "standby",
            Self::Closed => "closed",
            Self::Fenced => "fenced",
        }
    }
}

impl HoldOn {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Efs => "efs",
            Self::Database => "database",
            Self::Capacity => "capacity",
        }
    }

    const fn of(component: &Component) -> Option<Self> {
        match component {
            Component::Efs => Some(Self::Efs),
            Component::Database => Some(Self::Database),
            _ => None,
        }
    }

    const fn length(self, policy: &Policy) -> Duration {
        match self {
            Self::Efs => policy.hold_efs,
            Self::Database => policy.hold_database,
            Self::Capacity => policy.hold_capacity,
        }
    }
}

/// What the doors remember from before this agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// An agent ran before in this boot: nothing is `starting`, and the instance starts as it left it.
    pub same_boot: bool,
    pub instance_closed: bool,
    pub region_closed: bool,
    /// The region owned the highest epoch. That stands until it is decided anew.
    pub promoted: bool,
    /// Holds that were running, from the same boot only.
    pub holds: BTreeMap<HoldOn, BootTime>,
}

/// The instance's and the region's door.
#[derive(Debug)]
pub struct Doors {
    started: BootTime,
    starting: bool,
    /// In a new boot: the region starts from what the group says.
    joining: bool,
    /// The components that keep the instance closed.
    closed_by: BTreeSet<Component>,
    /// Resumed as closed, and not open since: every component that could have closed it must be seen working.
    resumed: bool,
    region_closed: bool,
    holds: BTreeMap<HoldOn, BootTime>,
    clear_since: Option<BootTime>,
    instance: Option<(InstanceState, BootTime)>,
    region: Option<(RegionState, BootTime)>,
}

impl Doors {
    #[must_use]
    pub fn new(memory: Memory, now: BootTime) -> Self {
        Self {
            started: now,
            starting: !memory.same_boot,
            joining: !memory.same_boot,
            closed_by: BTreeSet::new(),
            resumed: memory.same_boot && memory.instance_closed,
            region_closed: memory.region_closed,
            holds: if memory.same_boot { memory.holds } else { BTreeMap::new() },
            clear_since: None,
            instance: None,
            region: None,
        }
    }

    /// Judges both. To be called after every change of the inputs and at least once a second.
    pub fn judge(&mut self, inputs: &Inputs<'_>) -> (InstanceVerdict, RegionVerdict) {
        (self.judge_instance(inputs), self.judge_region(inputs))
    }

    fn judge_instance(&mut self, inputs: &Inputs<'_>) -> InstanceVerdict {
        let was_starting = self.starting;
        if self.starting {
            let waited = inputs.now.since(self.started) >= inputs.policy.start_limit;
            let is_new = inputs.undecided || inputs.components.iter().any(|c| c.status == Status::Starting);
            self.starting = !waited && is_new;
        }
        if self.resumed && self.instance.is_none() {
            let could_close = inputs.components.iter().filter(|c| !matches!(c.component, Component::Exec(_)));
            self.closed_by.extend(could_close.map(|c| c.component.clone()));
            if inputs.policy.partial {
                let unnamed = [Component::App, Component::Efs, Component::Database, Component::Wiring];
                self.closed_by.extend(unnamed);
            }
        }
        let was_open = !was_starting && self.closed_by.is_empty();
        // A closer stays one until it is seen working, or everybody has it: then this instance is as good as any. One that
        // is no longer configured is none, nor is the app while nobody can see it for the gate.
        self.closed_by.retain(|closer| {
            let known = inputs.components.iter().find(|c| c.component == *closer);
            known.map_or(inputs.policy.partial, |c| !has_risen(c) && !is_everybodys(c, inputs))
                && !(*closer == Component::App && inputs.gate_closed)
        });
        // A first failure makes the status, but one late answer beside a restart or a reload closes nothing that was open.
        let closing = inputs.components.iter().filter(|c| closes(c, inputs) && (!was_open || c.is_proven()));
        self.closed_by.extend(closing.map(|c| c.component.clone()));
        self.resumed &= !self.closed_by.is_empty();
        let reasons = inputs
            .components
            .iter()
            .filter(|c| self.closed_by.contains(&c.component))
            .map(|c| Reason {
                component: c.component.clone(),
                cause: c.finding.as_ref().map_or(Cause::Stale, |finding| finding.cause),
            })
            .collect();
        let state = if inputs.draining {
            InstanceState::Draining
        } else if self.starting {
            InstanceState::Starting
        } else if self.closed_by.is_empty() {
            InstanceState::Serving
        } else {
            InstanceState::Closed
        };
        let since = changed(&mut self.instance, state, inputs.now);
        InstanceVerdict { state, since, reasons, can_serve: blockers(inputs).next().is_none() }
    }

    fn judge_region(&mut self, inputs: &Inputs<'_>) -> RegionVerdict {
        let Inputs { policy, now, .. } = *inputs;
        if self.joining {
            let waited = now.since(self.started) >= policy.start_limit;
            self.joining = !waited && inputs.group.region_closed.is_none();
            self.region_closed = inputs.group.region_closed.unwrap_or(self.region_closed);
        }
        let mut due = false;
        // What is not known keeps running holds as they are, lets none come due, and opens nothing.
        let mut certain = !policy.partial;
        self.holds.retain(|on, _| {
            *on == HoldOn::Capacity
                || policy.partial
                || (!policy.standby && inputs.components.iter().any(|c| HoldOn::of(&c.component) == Some(*on)))
        });
        for component in inputs.components.iter().filter(|_| !policy.standby) {
            let Some(on) = HoldOn::of(&component.component) else { continue };
            match vote(component) {
                _ if inputs.group.passing.contains(&component.component) => _ = self.holds.remove(&on),
                Vote::Healthy => _ = self.holds.remove(&on),
                Vote::Failing if was_healthy(component, inputs) => {
                    let since = *self.holds.entry(on).or_insert(now);
                    // Which region this is, and so whether it may close for a dependency, is not known while partial.
                    due |= !policy.partial && is_convincing(component, inputs) && now.since(since) >= on.length(policy);
                }
                // Nothing is known here, but others fail, and none is well.
                Vote::Abstains
                    if inputs.group.failing.contains(&component.component) && was_healthy(component, inputs) =>
                {
                    let since = *self.holds.entry(on).or_insert(now);
                    due |= !policy.partial && now.since(since) >= on.length(policy);
                }
                // Never yet healthy: that closes no region.
                Vote::Failing | Vote::Abstains => certain = false,
            }
        }
        let unknown = inputs.components.iter().any(|c| may_block(c, inputs));
        let convicted =
            blockers(inputs).filter(|c| c.ever_healthy).map(|c| is_convincing(c, inputs)).reduce(|a, b| a || b);
        match convicted {
            Some(convincing) if !inputs.group.can_serve => {
                let since = *self.holds.entry(HoldOn::Capacity).or_insert(now);
                due |= convincing && now.since(since) >= policy.hold_capacity;
            }
            None if !inputs.group.can_serve && unknown => certain = false,
            _ => {
                self.holds.remove(&HoldOn::Capacity);
                certain &= inputs.group.can_serve || blockers(inputs).next().is_none();
            }
        }

        if due {
            self.region_closed = true;
        }
        if self.holds.is_empty() && certain {
            self.clear_since.get_or_insert(now);
        } else {
            self.clear_since = None;
        }
        let reopens = self.clear_since.filter(|_| self.region_closed).map(|since| since + policy.reopen);
        if reopens.is_some_and(|at| now >= at) {
            self.region_closed = false;
        }
        let state = if inputs.gate_closed {
            RegionState::Fenced
        } else if self.region_closed {
            RegionState::Closed
        } else if policy.standby {
            RegionState::Standby
        } else {
            RegionState::Open
        };
        let holds = self.holds.iter().map(|(&on, &since)| Hold { on, since, due: since + on.length(policy) }).collect();
        let since = changed(&mut self.region, state, now);
        RegionVerdict { state, since, holds, reopens: reopens.filter(|_| self.region_closed) }
    }

    /// Whether the region's door is closed by itself, the gate aside: what its marker says.
    #[must_use]
    pub const fn region_closed(&self) -> bool {
        self.region_closed
    }

    /// Whether the instance is closed since before this agent started, as its marker said.
    #[must_use]
    pub const fn resumed(&self) -> bool {
        self.resumed
    }

    /// The running holds, for the state file.
    #[must_use]
    pub const fn holds(&self) -> &BTreeMap<HoldOn, BootTime> {
        &self.holds
    }
}

fn changed<S: Copy + PartialEq>(last: &mut Option<(S, BootTime)>, state: S, now: BootTime) -> BootTime {
    match last {
        Some((before, since)) if *before == state => *since,
        _ => {
            *last = Some((state, now));
            now
        }
    }
}
