//! From components to the two verdicts: can this instance serve, can this region serve. Pure: time is an argument.
//!
//! Both are doors with memory: what closed opens only by its own rule, also when the agent was restarted in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::BootTime;
use crate::health::cause::{Cause, Class, OnInstance, OnRegion, Status};
use crate::health::component::ComponentState;
use crate::observation::Component;

/// The windows of the verdicts, and the part this region plays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long a new boot may answer `starting`.
    pub start_limit: Duration,
    pub hold_database: Duration,
    pub hold_efs: Duration,
    pub hold_capacity: Duration,
    pub reopen: Duration,
    /// Two regions are configured and this one is not `home`: it never vetoes itself for a dependency, because with
    /// both regions' records unhealthy Route 53 answers the primary one, dead or not.
    pub standby: bool,
}

/// What the other members of the group say. A group of one hears nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Components for which at least one other member votes healthy.
    pub passing: BTreeSet<Component>,
    /// Another member can serve.
    pub can_serve: bool,
}

/// Whose fault an unhealthy component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// This instance's alone.
    Local,
    /// Everybody's who was asked, which in a group of one is this instance.
    Shared,
    /// Nobody can tell.
    Undetermined,
}

/// A dependency that was not healthy within this time masks failures of what depends on it.
const MASK_WINDOW: Duration = Duration::from_secs(60);

/// Everything a verdict is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub components: &'a [ComponentState],
    pub group: &'a Group,
    pub policy: &'a Policy,
    pub draining: bool,
    pub gate_closed: bool,
    pub now: BootTime,
}

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
    /// Holds that were running, from the same boot only.
    pub holds: BTreeMap<HoldOn, BootTime>,
}

/// The instance's and the region's door.
#[derive(Debug)]
pub struct Doors {
    started: BootTime,
    starting: bool,
    /// The components that keep the instance closed.
    closed_by: BTreeSet<Component>,
    /// Resumed as closed: every component that could have closed it must be seen working.
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
        let can_serve = can_serve(inputs);
        (self.judge_instance(inputs, can_serve), self.judge_region(inputs, can_serve))
    }

    fn judge_instance(&mut self, inputs: &Inputs<'_>, can_serve: bool) -> InstanceVerdict {
        if self.starting {
            let waited = inputs.now.since(self.started) >= inputs.policy.start_limit;
            self.starting = !waited && inputs.components.iter().any(|c| c.status == Status::Starting);
        }
        if std::mem::take(&mut self.resumed) {
            self.closed_by.extend(inputs.components.iter().map(|c| c.component.clone()));
        }
        // A closer stays one until it is seen working; one that is no longer configured is none.
        self.closed_by.retain(|closer| {
            inputs
                .components
                .iter()
                .any(|c| c.component == *closer && !matches!(c.status, Status::Healthy | Status::Degraded))
        });
        self.closed_by.extend(inputs.components.iter().filter(|c| closes(c, inputs)).map(|c| c.component.clone()));
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
        InstanceVerdict { state, since, reasons, can_serve }
    }

    fn judge_region(&mut self, inputs: &Inputs<'_>, can_serve: bool) -> RegionVerdict {
        let Inputs { policy, now, .. } = *inputs;
        let mut uncertain = false;
        let mut due = false;
        for component in inputs.components {
            let Some(on) = HoldOn::of(&component.component) else { continue };
            match vote(component) {
                // Unknown holds: what runs keeps its start, but nothing comes due and nothing opens.
                Vote::Abstains => uncertain = true,
                Vote::Failing if !policy.standby && !inputs.group.passing.contains(&component.component) => {
                    let since = *self.holds.entry(on).or_insert(now);
                    due |= is_convincing(component) && now.since(since) >= on.length(policy);
                }
                Vote::Failing | Vote::Healthy => {
                    self.holds.remove(&on);
                }
            }
        }
        if can_serve || inputs.group.can_serve {
            self.holds.remove(&HoldOn::Capacity);
        } else {
            let since = *self.holds.entry(HoldOn::Capacity).or_insert(now);
            due |= now.since(since) >= policy.hold_capacity;
        }
        self.holds.retain(|on, _| {
            *on == HoldOn::Capacity || inputs.components.iter().any(|c| HoldOn::of(&c.component) == Some(*on))
        });
        if policy.standby {
            self.holds.retain(|on, _| *on == HoldOn::Capacity);
            uncertain = false;
        }

        if due {
            self.region_closed = true;
        }
        if self.holds.is_empty() && !uncertain {
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

    /// The running holds, for the state file.
    #[must_use]
    pub const fn holds(&self) -> &BTreeMap<HoldOn, BootTime> {
        &self.holds
    }
}

/// One member's word on one component, from raw facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vote {
    Healthy,
    Failing,
    Abstains,
}

fn vote(component: &ComponentState) -> Vote {
    match component.status {
        Status::Starting | Status::Unknown => Vote::Abstains,
        // A cause that leaves the region alone is no failing vote (read-only is a matter of role).
        _ if component.is_failing_now() => match component.finding.as_ref().map(|f| f.cause.row().region) {
            Some(OnRegion::Keeps) => Vote::Healthy,
            _ => Vote::Failing,
        },
        _ => Vote::Healthy,
    }
}

/// A failure may close the region: its status is settled, it was healthy once, and it is not a first observation.
fn is_convincing(component: &ComponentState) -> bool {
    component.status == Status::Unhealthy && component.ever_healthy && component.failures >= 2
}

fn closes(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
    if component.status != Status::Unhealthy {
        return false;
    }
    let Some(finding) = &component.finding else { return false };
    match finding.cause.row().instance {
        OnInstance::Keeps => false,
        OnInstance::Closes => true,
        OnInstance::ClosesIfPeerPasses => {
            let behind_gate = component.component == Component::App && inputs.gate_closed;
            // Only in a round in which it fails still: a recovery convicts nobody.
            component.is_failing_now() && inputs.group.passing.contains(&component.component) && !behind_gate
        }
    }
}

/// Whether a failure of `component` could be the consequence of a dependency's fault.
fn is_masked(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
    if component.component.is_dependency() || component.component == Component::Wiring {
        return false;
    }
    if component.finding.as_ref().is_some_and(|finding| finding.cause == Cause::NginxMasterGone) {
        return false;
    }
    if component.component == Component::App && inputs.gate_closed {
        return true;
    }
    inputs.components.iter().filter(|c| c.component.is_dependency()).any(|dependency| {
        let recently = inputs.now.since(dependency.since) < MASK_WINDOW
            && !matches!(dependency.before, Status::Healthy | Status::Starting);
        dependency.status != Status::Healthy || recently
    })
}

fn can_serve(inputs: &Inputs<'_>) -> bool {
    inputs.components.iter().all(|component| {
        let Some(finding) = component.finding.as_ref().filter(|_| component.status == Status::Unhealthy) else {
            return true;
        };
        match component.component {
            Component::Nginx | Component::App | Component::Host => is_masked(component, inputs),
            Component::Efs | Component::Database => {
                finding.cause.row().region == OnRegion::Keeps
                    || !component.is_failing_now()
                    || !inputs.group.passing.contains(&component.component)
            }
            Component::Wiring | Component::Exec(_) => true,
        }
    })
}

/// Whose fault it is that `component` is unhealthy; `None` while it is not.
#[must_use]
pub fn domain(component: &ComponentState, inputs: &Inputs<'_>) -> Option<Domain> {
    let finding = component.finding.as_ref().filter(|_| component.status == Status::Unhealthy)?;
    if is_masked(component, inputs) {
        return Some(Domain::Undetermined);
    }
    Some(match component.component {
        Component::Efs | Component::Database if inputs.group.passing.contains(&component.component) => {
            Domain::Undetermined
        }
        Component::Efs | Component::Database if finding.cause.row().class == Class::Fault => Domain::Shared,
        Component::Nginx | Component::Host => Domain::Local,
        _ => Domain::Undetermined,
    })
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
