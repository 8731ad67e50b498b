//! What the verdicts are made from, and what each component counts for in them: its vote, whose fault its failure is,
//! what masks it, whether it keeps the instance from serving.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::BootTime;
use crate::health::cause::{Cause, Class, OnInstance, OnRegion, Row, Status};
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
    /// The configuration in force does not name all that this instance is meant to watch: it is the built-in one in
    /// place of a file that is bad, or nobody knows the region yet. What is not named may still fail, so what is closed
    /// stays closed.
    pub partial: bool,
}

/// What the other members of the group say. A group of one hears nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Components for which at least one other member votes healthy.
    pub passing: BTreeSet<Component>,
    /// Those for which at least one votes failing.
    pub failing: BTreeSet<Component>,
    /// Those that fail here and with which, as three rounds agree, nobody is better off.
    pub nobody_well: BTreeSet<Component>,
    /// Those that at least one has ever seen working.
    pub seen_working: BTreeSet<Component>,
    /// Another member can serve.
    pub can_serve: bool,
    /// Whether a member says that the region's door is closed; `None` if none was heard.
    pub region_closed: Option<bool>,
    /// Whose fault each failure here is, by the votes; `None` if there is nobody to vote.
    pub domains: Option<BTreeMap<Component, Domain>>,
    /// How the newest round voted on each component that fails here.
    pub tallies: BTreeMap<Component, Tally>,
    /// The other members, by instance id, whose instance verdict is 200 and that do not drain.
    pub serving: BTreeSet<String>,
    /// There are others, and this instance cannot ask them, for want of a key.
    pub is_deaf: bool,
}

impl Group {
    /// As if nobody passed `component` either, for a drill.
    pub fn takes_as_shared(&mut self, component: &Component) {
        self.passing.remove(component);
        self.failing.insert(component.clone());
        if let Some(domains) = &mut self.domains {
            domains.insert(component.clone(), Domain::Shared);
        }
        if let Some(tally) = self.tallies.get_mut(component) {
            (tally.healthy, tally.failing) = (0, tally.asked);
        }
    }
}

/// The votes of one round on one component.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Members asked, also those that did not answer.
    pub asked: usize,
    pub healthy: usize,
    pub failing: usize,
    /// Of those asked, the members of my zone.
    pub near: usize,
}

impl Tally {
    /// Most of those who were asked are well.
    #[must_use]
    pub const fn is_majority_healthy(&self) -> bool {
        2 * self.healthy > self.asked
    }
}

/// Whose fault an unhealthy component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// This instance's alone.
    Local,
    /// Everybody's who was asked, which in a group of one is this instance.
    Shared,
    /// This zone's: members of other zones are well, and none of this one.
    Zonal,
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
    /// Who owns the data was not decided in this boot: nobody should be sent here yet.
    pub undecided: bool,
    pub gate_closed: bool,
    pub now: BootTime,
}

/// One member's word on one component, from raw facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vote {
    Healthy,
    Failing,
    Abstains,
}

pub(super) fn vote(component: &ComponentState) -> Vote {
    let row = component.newest_cause().map(Cause::row);
    if row.is_some_and(|row| row.region == OnRegion::Holds) {
        // Nobody was asked.
        Vote::Abstains
    } else if component.is_failing_now() {
        match row {
            // It leaves both verdicts alone: read-only is a matter of role.
            Some(Row { instance: OnInstance::Keeps, region: OnRegion::Keeps, .. }) => Vote::Healthy,
            // It says nothing of the region, and nothing good of this instance.
            Some(Row { region: OnRegion::Keeps, .. }) => Vote::Abstains,
            _ => Vote::Failing,
        }
    } else if component.is_working_now() {
        Vote::Healthy
    } else {
        Vote::Abstains
    }
}

/// A failure may close the region: its status is settled, it was healthy once, and it is not a first observation.
pub(super) fn is_convincing(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
    component.status == Status::Unhealthy && was_healthy(component, inputs) && component.failures >= 2
}

/// It worked once, here or where another member looks at the same thing.
pub(super) fn was_healthy(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
    component.ever_healthy || inputs.group.seen_working.contains(&component.component)
}

/// It works and has passed often enough in a row to open what it closed. Its status alone does not say so: the first
/// observation after a restart sets it.
pub(super) fn has_risen(component: &ComponentState) -> bool {
    matches!(component.status, Status::Healthy | Status::Degraded) && component.passes >= component.schedule.rise
}

/// It closed the instance because another one was better off, and none is any more.
pub(super) fn is_everybodys(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
    let row = component.newest_cause().map(Cause::row);
    row.is_none_or(|row| row.instance != OnInstance::Closes) && inputs.group.nobody_well.contains(&component.component)
}

pub(super) fn closes(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
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
            component.is_failing_now() && others_pass(component, inputs) && !behind_gate
        }
    }
}

/// Another member has what fails here. So it is taken of the file system of an instance that was never set up: it has none,
/// nor a key to ask whether others have one, and would answer its share of the users from nothing, for good.
fn others_pass(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
    let never_set_up = inputs.group.is_deaf && component.component == Component::Efs && !component.ever_healthy;
    inputs.group.passing.contains(&component.component) || never_set_up
}

/// Whether a failure of `component` could be the consequence of a dependency's fault.
fn is_masked(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
    if component.component.is_dependency() {
        return false;
    }
    if component.finding.as_ref().is_some_and(|finding| finding.cause == Cause::NginxMasterGone) {
        return false;
    }
    if component.component == Component::App && inputs.gate_closed {
        return true;
    }
    maskers(&component.component, inputs).next().is_some()
}

/// The dependencies that are not healthy or were not a moment ago, and could explain a failure of `of`. What one was before
/// this agent first saw it is not known and explains nothing. A dependency that answers and refuses (a password, a right)
/// may fail the app in the same way, but neither a static page nor a disk: else one wrong right, which nobody notices for
/// months, would keep a region open in which no nginx runs.
fn maskers<'a>(of: &Component, inputs: &Inputs<'a>) -> impl Iterator<Item = &'a ComponentState> {
    let now = inputs.now;
    let is_app = *of == Component::App;
    inputs.components.iter().filter(|c| c.component.is_dependency()).filter(move |dependency| {
        let recently = now.since(dependency.since) < MASK_WINDOW
            && !matches!(dependency.before, Status::Healthy | Status::Starting);
        let row = dependency.finding.as_ref().map(|finding| finding.cause.row());
        let answered = row.is_some_and(|row| row.class == Class::Configuration && row.region != OnRegion::Holds);
        let refuses = dependency.status == Status::Degraded && answered;
        if refuses { is_app } else { dependency.status != Status::Healthy || recently }
    })
}

/// What keeps this instance from serving. What is masked or unknown does not.
pub(super) fn blockers<'a>(inputs: &Inputs<'a>) -> impl Iterator<Item = &'a ComponentState> {
    let inputs = *inputs;
    inputs.components.iter().filter(move |component| {
        let Some(finding) = component.finding.as_ref().filter(|_| component.status == Status::Unhealthy) else {
            return false;
        };
        match component.component {
            Component::Nginx | Component::App | Component::Host => !is_masked(component, &inputs),
            Component::Efs | Component::Database => {
                finding.cause.row().instance != OnInstance::Keeps
                    && component.is_failing_now()
                    && others_pass(component, &inputs)
            }
            Component::Wiring | Component::Exec(_) => false,
        }
    })
}

/// Nobody knows whether it keeps this instance from serving: it is unknown, or a dependency of which nothing is known
/// may explain its failure.
pub(super) fn may_block(component: &ComponentState, inputs: &Inputs<'_>) -> bool {
    let unknown = |c: &ComponentState| matches!(c.status, Status::Unknown | Status::Starting);
    match component.component {
        Component::App if inputs.gate_closed => false,
        Component::Nginx | Component::App | Component::Host if component.status == Status::Unhealthy => {
            is_masked(component, inputs) && maskers(&component.component, inputs).all(unknown)
        }
        Component::Nginx | Component::App | Component::Host => unknown(component),
        _ => false,
    }
}

/// Whose fault it is that `component` is unhealthy; `None` while it is not.
#[must_use]
pub fn domain(component: &ComponentState, inputs: &Inputs<'_>) -> Option<Domain> {
    if component.status != Status::Unhealthy {
        return None;
    }
    if is_masked(component, inputs) {
        return Some(Domain::Undetermined);
    }
    if let Some(domains) = &inputs.group.domains {
        return Some(domains.get(&component.component).copied().unwrap_or(Domain::Undetermined));
    }
    Some(match component.component {
        Component::Efs | Component::Database
            if component.is_failing_now() && !inputs.group.passing.contains(&component.component) =>
        {
            Domain::Shared
        }
        Component::Nginx | Component::Host => Domain::Local,
        _ => Domain::Undetermined,
    })
}
