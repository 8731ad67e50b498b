//! The plan: what would be done about this instance now, or by name why not. Pure: time is an argument.
//!
//! A fault goes up in this order: repair, wait until it has lasted, look at the group, ask the group, go. Every refusal
//! is looked for each time, so what is shown is the whole list and not the first that happened to be checked.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::grants;
use super::ladder::{Rung, Verb};
use super::look::Look;
use super::memory::{Memory, Outcome};
use super::records::{Living, Records};
use super::refusal::Refusal;
use crate::clock::{BootTime, Stamp};
use crate::health::cause::{Cause, OnReplacement, Status};
use crate::health::component::ComponentState;
use crate::health::verdict::{Domain, Group};
use crate::observation::{Component, Facts as Learned};

/// The `[replace]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacePolicy {
    /// Act; else only count what would have been done.
    pub enforce: bool,
    /// How long a fault must last.
    pub sustain: Duration,
    /// A member gives one grant in this time.
    pub cooldown: Duration,
}

/// A look is acted on within this time: then the call has begun.
pub const LOOK_FRESH: Duration = Duration::from_secs(10);

/// From one look to the next.
pub const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What Auto Scaling is asked for in vain while one of these is suspended: without `Launch` it would even terminate
/// without replacing.
const PROCESSES: [&str; 3] = ["Launch", "Terminate", "ReplaceUnhealthy"];

/// Everything a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub instance: Option<&'a str>,
    /// The Auto Scaling group, as it is known without asking AWS.
    pub group: Option<&'a str>,
    /// The availability zone.
    pub zone: Option<&'a str>,
    /// The lifecycle state as the metadata service names it; `None` if it names none.
    pub lifecycle: Option<&'a str>,
    /// There are keys by which members know each other.
    pub has_keys: bool,
    pub draining: bool,
    pub on_hold: bool,
    pub gate_closed: bool,
    pub components: &'a [(ComponentState, Option<Domain>)],
    /// What the other members say.
    pub votes: &'a Group,
    pub memory: &'a Memory,
    pub records: &'a Records,
    /// The newest look.
    pub look: Option<&'a Looked>,
}

/// A look at the group, and the round that followed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// When it began: what it says is at least that old.
    pub began: BootTime,
    /// `None`: Auto Scaling did not say.
    pub look: Option<Look>,
    /// Whether the round that followed was won; `None` while there was none.
    pub won: Option<bool>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plan {
    /// Nothing is unhealthy.
    Nothing,
    /// All reasons why not, in their order.
    Refused(Vec<Refusal>),
    /// Try this on the machine, for the nth time.
    Repair(Verb, u32),
    /// Only time stands in the way: until then, for this reason.
    Wait { until: BootTime, why: Refusal },
    /// Ask Auto Scaling how the group is.
    Look,
    /// Ask the group, of which a strict majority of this many must agree.
    Ask { electorate: u32, voters: Vec<String> },
    /// Mark this instance Unhealthy.
    Go,
    /// It was marked, or may have been: wait for what Auto Scaling does.
    Marked,
}

/// The fault that the plan is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub component: Component,
    pub cause: Cause,
    pub detail: String,
    /// When the first attempt of the present run of failures began.
    pub since: BootTime,
    refusals: BTreeSet<Refusal>,
    /// When it will have lasted long enough.
    due: BootTime,
    /// The last reason to wait for it.
    exception: bool,
}

/// What would be done.
#[must_use]
pub fn plan(facts: &Facts<'_>, policy: &ReplacePolicy, now: &Stamp) -> Plan {
    if facts.memory.decision.as_ref().is_some_and(|decision| {
        !matches!(decision.outcome, Outcome::Refused(_)) && decision.at.age(now) < policy.cooldown
    }) {
        return Plan::Marked;
    }
    let Some(fault) = fault(facts, policy, now) else { return Plan::Nothing };
    if let Some((verb, attempt)) = repair(facts, policy, now) {
        return Plan::Repair(verb, attempt);
    }
    let mut refusals = before_look(facts, policy, &fault, now);
    let looked = facts.look.filter(|looked| now.time.since(looked.began) < LOOK_EVERY);
    if let Some(looked) = looked {
        refusals.extend(at_look(facts, policy, &fault, looked, now));
    }
    let waits: Vec<_> =
        refusals.iter().filter_map(|refusal| Some((*refusal, waits(*refusal, facts, policy, &fault, now)?))).collect();
    if let Some(&(why, until)) = waits.iter().max_by_key(|(_, until)| *until)
        && waits.len() == refusals.len()
    {
        return Plan::Wait { until, why };
    }
    if !refusals.is_empty() {
        return Plan::Refused(refusals.into_iter().collect());
    }
    let Some((looked, look)) = looked.and_then(|looked| Some((looked, looked.look.as_ref()?))) else {
        return Plan::Look;
    };
    if now.time.since(looked.began) >= LOOK_FRESH {
        // It was good, and what should have followed took too long: the next one comes in its time.
        return Plan::Wait { until: looked.began + LOOK_EVERY, why: Refusal::NoQuorum };
    }
    match looked.won {
        Some(true) => Plan::Go,
        // At the look the round that was lost is a refusal.
        _ => Plan::Ask { electorate: electorate(look), voters: voters(facts, look) },
    }
}

impl Plan {
    /// The names of all plans.
    pub const NAMES: [&str; 8] = ["nothing", "refused", "repair", "wait", "look", "ask", "go", "marked"];

    /// Nothing but the mode keeps this instance from the look: what observe mode counts.
    #[must_use]
    pub fn would_replace(&self) -> bool {
        matches!(self, Self::Refused(refusals) if refusals[..] == [Refusal::NotEnforcing])
    }

    /// A short name, for labels and JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Refused(_) => "refused",
            Self::Repair(..) => "repair",
            Self::Wait { .. } => "wait",
            Self::Look => "look",
            Self::Ask { .. } => "ask",
            Self::Go => "go",
            Self::Marked => "marked",
        }
    }

    /// The plan in one sentence, the same wherever it is shown.
    #[must_use]
    pub fn words(&self, now: BootTime) -> String {
        match self {
            Self::Nothing => "nothing is unhealthy here".to_owned(),
            Self::Refused(refusals) => {
                let reasons = refusals.iter().map(|refusal| format!("{refusal}: {}", refusal.sentence()));
                format!("not replaced: {}", reasons.collect::<Vec<_>>().join("; "))
            }
            Self::Repair(verb, attempt) => format!("repair first: {verb}, attempt {attempt}"),
            Self::Wait { until, why } => {
                format!("waits {} s more: {why}: {}", until.since(now).as_secs(), why.sentence())
            }
            Self::Look => "asks Auto Scaling how the group is".to_owned(),
            Self::Ask { electorate, .. } => {
                format!("asks the group: {} of {electorate} must agree", grants::need(*electorate))
            }
            Self::Go => "marks this instance Unhealthy in its Auto Scaling group".to_owned(),
            Self::Marked => "marked Unhealthy, or about to be: Auto Scaling replaces it".to_owned(),
        }
    }
}

/// Whether this instance wants to go itself, so that it agrees to nobody else's going.
#[must_use]
pub fn wants_to_go(facts: &Facts<'_>, policy: &ReplacePolicy, now: &Stamp) -> bool {
    match plan(facts, policy, now) {
        Plan::Look | Plan::Ask { .. } | Plan::Go | Plan::Marked => true,
        // What stops it now is the group, not this instance.
        Plan::Refused(_) | Plan::Wait { .. } => {
            fault(facts, policy, now).is_some_and(|fault| before_look(facts, policy, &fault, now).is_empty())
        }
        Plan::Nothing | Plan::Repair(..) => false,
    }
}

/// The fault that comes nearest to a replacement; `None` if nothing is unhealthy.
#[must_use]
pub fn fault(facts: &Facts<'_>, policy: &ReplacePolicy, now: &Stamp) -> Option<Fault> {
    let faults =
        facts.components.iter().filter_map(|(component, domain)| judge(component, *domain, facts, policy, now));
    // Of equals the first.
    faults.min_by_key(|fault| (fault.refusals.len(), fault.due))
}

/// What speaks for and against replacing for this component's fault.
fn judge(
    component: &ComponentState,
    domain: Option<Domain>,
    facts: &Facts<'_>,
    policy: &ReplacePolicy,
    now: &Stamp,
) -> Option<Fault> {
    let finding = component.finding.as_ref().filter(|_| component.status == Status::Unhealthy)?;
    let row = finding.cause.row();
    let since = component.failing_since.unwrap_or(now.time);
    let mut refusals = BTreeSet::new();
    let never = row.replacement == OnReplacement::Never;
    if never || !facts.memory.has_seen_healthy(component, &now.boot) {
        refusals.insert(Refusal::NotCurable);
    }
    let exception = domain == Some(Domain::Zonal) && is_alone_before_a_live_target(component, facts);
    match domain {
        // Who shares nothing with anybody needs no vote, and a web server that is gone masks nothing.
        _ if never => {}
        Some(Domain::Local) => {}
        Some(Domain::Zonal) if exception => {}
        Some(Domain::Zonal) => _ = refusals.insert(Refusal::Zonal),
        Some(Domain::Shared) => _ = refusals.insert(Refusal::PeersShareIt),
        _ => _ = refusals.insert(Refusal::NotLocal),
    }
    let mut due = since + policy.sustain + jitter(facts.instance.unwrap_or_default(), since, policy.sustain);
    // A repair that is due comes before this; what keeps it from being tried is a refusal of its own.
    if let Some(Rung::Wait(rest)) = ladder(component, since, facts, policy, now) {
        due = due.max(now.time + rest);
    }
    let is_settled = component.is_failing_now() && component.failures >= 2 && component.failing_since.is_some();
    if now.time < due || !is_settled || component.is_flapping(now.time) {
        refusals.insert(Refusal::NotSustained);
    }
    Some(Fault {
        component: component.component.clone(),
        cause: finding.cause,
        detail: finding.detail.clone(),
        since,
        refusals,
        due,
        exception,
    })
}

/// The one case in which other zones' word is enough: nobody else is in my zone to share a zonal fault, most of the group
/// is well, and my zone's mount target answers.
fn is_alone_before_a_live_target(component: &ComponentState, facts: &Facts<'_>) -> bool {
    let Some(tally) = facts.votes.tallies.get(&component.component) else { return false };
    let accepts = matches!(&component.facts, Learned::Efs(efs) if efs.target_accepts == Some(true));
    facts.zone.is_some() && tally.near == 0 && tally.is_majority_healthy() && accepts
}

/// 0 to two fifths of `sustain`, so 0 to 120 s by default: instances that fall at once do not ask at once. The same for
/// the same fault, whoever computes it.
fn jitter(instance: &str, since: BootTime, sustain: Duration) -> Duration {
    let seed = format!("{instance} {}", since.elapsed().as_millis());
    let hash = seed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let thousandths = u32::try_from((hash ^ (hash >> 32)) % 1_001).unwrap_or_default();
    sustain * 2 / 5 * thousandths / 1_000
}

/// Where the ladder stands; `None` when there is none. Observe mode climbs none and takes it as climbed in vain.
fn ladder(
    component: &ComponentState,
    since: BootTime,
    facts: &Facts<'_>,
    policy: &ReplacePolicy,
    now: &Stamp,
) -> Option<Rung> {
    let verb = Verb::of(&component.component).filter(|_| policy.enforce)?;
    Some(facts.memory.repairs.rung(verb, now.time.since(since), now))
}

/// The repair that is due.
fn repair(facts: &Facts<'_>, policy: &ReplacePolicy, now: &Stamp) -> Option<(Verb, u32)> {
    if !is_enforcing(facts, policy) || facts.draining || facts.on_hold {
        return None;
    }
    facts.components.iter().find_map(|(component, domain)| {
        let verb = Verb::of(&component.component)?;
        let cause = component.finding.as_ref().filter(|_| component.status == Status::Unhealthy)?.cause;
        if !component.is_failing_now() || !facts.memory.has_seen_healthy(component, &now.boot) {
            return None;
        }
        // A remount harms nobody, whoever's fault it is; users notice a restart.
        let own = *domain == Some(Domain::Local) || cause.row().replacement == OnReplacement::AfterLadder;
        if verb == Verb::NginxRestart && !own {
            return None;
        }
        match facts.memory.repairs.rung(verb, now.time.since(component.failing_since?), now) {
            Rung::Due(attempt) => Some((verb, attempt)),
            Rung::Wait(_) | Rung::Exhausted => None,
        }
    })
}

fn living<'a>(facts: &Facts<'a>, policy: &ReplacePolicy) -> Living<'a> {
    let asker = facts.instance.unwrap_or_default();
    Living { asker, serving: &facts.votes.serving, cooldown: policy.cooldown }
}

const fn is_enforcing(facts: &Facts<'_>, policy: &ReplacePolicy) -> bool {
    policy.enforce && facts.has_keys
}

/// What can be said without asking anybody.
fn before_look(facts: &Facts<'_>, policy: &ReplacePolicy, fault: &Fault, now: &Stamp) -> BTreeSet<Refusal> {
    let mut refusals = fault.refusals.clone();
    let mut refuse = |refusal, holds: bool| _ = holds.then(|| refusals.insert(refusal));
    refuse(Refusal::NotEnforcing, !is_enforcing(facts, policy));
    let leaving = facts.lifecycle.is_some_and(|lifecycle| lifecycle != "InService");
    refuse(Refusal::NotInService, facts.instance.is_none() || facts.group.is_none() || leaving);
    refuse(Refusal::InGracePeriod, facts.memory.grace.as_ref().is_some_and(|grace| grace.at.age(now) < grace.span));
    refuse(Refusal::TooYoung, age_here(facts, now) < 2 * policy.sustain);
    refuse(Refusal::Draining, facts.draining);
    refuse(Refusal::OnHold, facts.on_hold);
    refuse(Refusal::Fenced, facts.gate_closed);
    let living = living(facts, policy);
    refusals.extend(facts.records.refusals(None, &living, fault.cause.name(), now));
    if fault.exception && facts.records.is_recent(None, &living, now) {
        refusals.insert(Refusal::BudgetSpent);
    }
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Refused(_));
    let decision = facts.memory.decision.as_ref();
    // What was refused for whatever reason is not asked for again at once.
    if decision.is_some_and(|decision| failed(&decision.outcome) && decision.at.age(now) < policy.cooldown) {
        refusals.insert(Refusal::ApiUnavailable);
    }
    refusals
}

/// How long this instance has run with an agent that remembers it.
fn age_here(facts: &Facts<'_>, now: &Stamp) -> Duration {
    facts.memory.began.age(now).min(now.time.elapsed())
}

/// What the look adds.
fn at_look(
    facts: &Facts<'_>,
    policy: &ReplacePolicy,
    fault: &Fault,
    looked: &Looked,
    now: &Stamp,
) -> BTreeSet<Refusal> {
    let Some(look) = &looked.look else { return [Refusal::ApiUnavailable].into() };
    let me = facts.instance.unwrap_or_default();
    let in_service = || look.members.iter().filter(|member| member.lifecycle == "InService");
    let mut refusals = BTreeSet::new();
    let mut refuse = |refusal, holds: bool| _ = holds.then(|| refusals.insert(refusal));
    let mine = facts.group == Some(look.group.as_str()) && in_service().any(|member| member.instance == me);
    refuse(Refusal::NotInService, !mine);
    refuse(Refusal::TooYoung, age_here(facts, now) < look.grace);
    let others = in_service().filter(|member| member.instance != me && facts.votes.serving.contains(&member.instance));
    let others = u32::try_from(others.count()).unwrap_or(u32::MAX);
    if look.desired >= 2 {
        refuse(Refusal::BudgetSpent, others < look.desired.div_ceil(2));
        let can_ask = voters(facts, look).len();
        refuse(Refusal::NoQuorum, can_ask < grants::need(electorate(look)) || looked.won == Some(false));
    } else {
        // Nobody else can say whose fault it is.
        let by_nature = fault.cause == Cause::NginxMasterGone || fault.component == Component::Host;
        refuse(Refusal::NotLocal, !by_nature);
        refuse(Refusal::NoQuorum, looked.won == Some(false));
    }
    let healthy = u32::try_from(in_service().filter(|member| member.healthy).count()).unwrap_or(u32::MAX);
    let settled = |lifecycle: &str| {
        matches!(lifecycle, "InService" | "Standby" | "EnteringStandby") || lifecycle.starts_with("Warmed:")
    };
    let moving = look.members.iter().any(|member| !settled(&member.lifecycle));
    refuse(Refusal::GroupNotSettled, healthy < look.desired || moving || look.is_refreshing);
    refuse(Refusal::LaunchesFailing, look.launches_failed > 0);
    refuse(Refusal::ProcessSuspended, PROCESSES.iter().any(|process| look.suspended.contains(*process)));
    refuse(Refusal::StoppedByTag, look.stopped_by_tag);
    let tag = look.last_replacement.as_deref();
    refusals.extend(facts.records.refusals(tag, &living(facts, policy), fault.cause.name(), now));
    if fault.exception && facts.records.is_recent(tag, &living(facts, policy), now) {
        refusals.insert(Refusal::BudgetSpent);
    }
    refusals
}

/// Of how many a majority is needed: in a group that has more instances than it should, two majorities of what it should
/// have need not meet.
fn electorate(look: &Look) -> u32 {
    let members = look.members.iter().filter(|member| !member.lifecycle.starts_with("Warmed:")).count();
    look.desired.max(u32::try_from(members).unwrap_or(u32::MAX))
}

/// Who can agree: this instance, and the others in service that answer healthy. Who does not serve has no word on it, so
/// two that are both ill do not block each other.
fn voters(facts: &Facts<'_>, look: &Look) -> Vec<String> {
    let me = facts.instance.unwrap_or_default();
    let can = |instance: &str| instance == me || facts.votes.serving.contains(instance);
    let voters = look.members.iter().filter(|member| member.lifecycle == "InService" && can(&member.instance));
    voters.map(|member| member.instance.clone()).collect()
}

/// Until when, if `refusal` ends by time alone.
fn waits(refusal: Refusal, facts: &Facts<'_>, policy: &ReplacePolicy, fault: &Fault, now: &Stamp) -> Option<BootTime> {
    let grace = facts.look.and_then(|looked| looked.look.as_ref()).map_or(Duration::ZERO, |look| look.grace);
    match refusal {
        Refusal::NotSustained if now.time < fault.due => Some(fault.due),
        Refusal::TooYoung => {
            let rest = (2 * policy.sustain).max(grace).saturating_sub(age_here(facts, now));
            Some(whole(now.time + rest))
        }
        Refusal::InGracePeriod => {
            let grace = facts.memory.grace.as_ref()?;
            Some(whole(now.time + grace.span.saturating_sub(grace.at.age(now))))
        }
        _ => None,
    }
}

/// Up to the next whole second: by two clocks the same moment is never quite the same twice, and what is planned must
/// not change with every look at it.
fn whole(time: BootTime) -> BootTime {
    let elapsed = time.elapsed() + Duration::from_nanos(999_999_999);
    BootTime::from_boot(Duration::from_secs(elapsed.as_secs()))
}

#[cfg(test)]
mod tests;
