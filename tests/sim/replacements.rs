//! The laws of replacements, judged when an instance is really marked.

use std::collections::BTreeSet;

use dr_agent::health::cause::{Cause, OnReplacement};
use dr_agent::observation::Component;

use super::agent::name;
use super::cloud::Lifecycle;
use super::course::Course;
use super::deeds::Mark;
use super::history::{History, Theme};
use super::world::{Fault, HOUR, Index, Kind, MINUTE, Ms, SECOND, SITE, Whom};

/// From the beginning of a local fault to the mark: sustain, jitter, the ladder, a look and a round that fail once.
const CURED_WITHIN: Ms = 10 * MINUTE;

/// A fault that began or ended so lately may not be known yet, or was known still.
const NOTICE: Ms = 30 * SECOND;

#[derive(Debug)]
pub struct Replacements {
    seen: usize,
    enforce: bool,
    /// The one fault, when it must be cured.
    cure: Option<Fault>,
}

impl Replacements {
    pub fn new(history: &History) -> Self {
        let cure = history.world.faults.first().filter(|_| history.theme == Theme::Cure).cloned();
        Self { seen: 0, enforce: history.enforce, cure }
    }

    pub fn check(&mut self, course: &Course) -> Result<(), String> {
        while let Some(mark) = course.marks.get(self.seen) {
            self.seen += 1;
            self.judge(mark, course).map_err(|law| format!("{law}: {}", name(mark.index)))?;
        }
        if let Some(fault) = &self.cure
            && course.now > fault.from + CURED_WITHIN
            && course.now < fault.from + CURED_WITHIN + 10 * SECOND
        {
            let Kind::Broken { whom: Whom::One(index), .. } = fault.kind else { return Ok(()) };
            let cured = course.marks.iter().any(|mark| mark.index == index)
                || course.world.faults.iter().all(|fault| fault.to <= course.now);
            if !cured {
                return Err(format!("a single local curable fault is cured within a bound: {}", name(index)));
            }
        }
        Ok(())
    }

    pub fn finish(course: &Course) -> Result<(), String> {
        let decisions: BTreeSet<_> = course.calls.iter().collect();
        if decisions.len() != course.calls.len() {
            return Err(format!("nothing acts twice for one decision: {:?}", course.calls));
        }
        Ok(())
    }

    fn judge(&self, mark: &Mark, course: &Course) -> Result<(), String> {
        let (now, index) = (mark.at, mark.index);
        if !self.enforce {
            return Err("observe mode acts".to_owned());
        }
        let before = || course.marks.iter().take_while(|other| other.at < now || other.index != index);
        if let Some(other) = before().find(|other| other.index != index && !other.is_settled) {
            return Err(format!("never two going at once, and {} has not been replaced", name(other.index)));
        }
        let same = |other: &&Mark| other.index == index || other.decision == mark.decision;
        if course.marks.iter().filter(same).count() > 1 {
            return Err("nothing acts twice".to_owned());
        }
        let recent = course.marks.iter().filter(|other| other.at <= now && other.at + 6 * HOUR > now);
        if recent.count() > 2 {
            return Err("at most 2 in 6 h".to_owned());
        }
        let class = |mark: &Mark| SITE[mark.slot].name();
        let alike = course.marks.iter().filter(|other| other.at <= now && class(other) == class(mark));
        if alike.count() > 2 {
            return Err("at most 2 for one kind of fault in 24 h".to_owned());
        }
        if self.cure.as_ref().is_some_and(|fault| fault.repair.is_some()) {
            return Err("never one that a repair cures".to_owned());
        }
        if course.on_hold.contains(&index) {
            return Err("no replacement of what is on hold".to_owned());
        }
        let fault = its_own_fault(mark, course)?;
        is_sustained(&fault, mark, course)?;
        is_not_masked(mark, course)?;
        is_within_the_budget(mark, course)
    }
}

fn in_service(course: &Course, index: Index) -> bool {
    let instance = &course.cloud.instances[index];
    instance.lifecycle == Lifecycle::InService || instance.served + NOTICE >= course.now
}

/// A fault of this instance alone, by what is true.
fn its_own_fault(mark: &Mark, course: &Course) -> Result<Fault, String> {
    let (now, component) = (mark.at, &SITE[mark.slot]);
    let near = |fault: &&Fault| fault.from <= now && now < fault.to + NOTICE;
    let own = course.world.faults.iter().filter(near).find(|fault| match &fault.kind {
        Kind::Broken { whom, component: broken, cause } => {
            let hit = match whom {
                Whom::One(one) => *one == mark.index,
                Whom::Some(some) => some.contains(&mark.index),
                // The one exception: alone in its zone, before a mount target that answers.
                Whom::Zone(zone) => {
                    *zone == course.world.zones[mark.index] && *cause == Cause::EfsHung && is_alone(mark, course)
                }
                Whom::All => false,
            };
            hit && broken == component && cause.row().replacement != OnReplacement::Never
        }
        _ => false,
    });
    let Some(fault) = own.cloned() else {
        return Err(format!("never one for a shared, zonal, masked or unattributed fault, as of {component}"));
    };
    let Kind::Broken { cause, .. } = fault.kind else { return Ok(fault) };
    let others: Vec<_> =
        course.cloud.alive().filter(|other| *other != mark.index && in_service(course, *other)).collect();
    let shares =
        |other: &&Index| course.world.down_since(**other, component, now).is_some_and(|since| since + 2 * NOTICE < now);
    let failing = others.iter().filter(shares).count();
    let shared = 2 * failing >= others.len();
    if shared && !others.is_empty() {
        return Err(format!(
            "never one for a fault that others share: {failing} of {} have {component} down",
            others.len()
        ));
    }
    if others.is_empty() && cause != Cause::NginxMasterGone && *component != Component::Host {
        return Err("never the only one for what nobody else can judge".to_owned());
    }
    Ok(fault)
}

fn is_alone(mark: &Mark, course: &Course) -> bool {
    let zone = course.world.zones[mark.index];
    let recent = course.marks.iter().filter(|other| other.at < mark.at && other.at + 6 * HOUR > mark.at).count();
    recent == 0
        && !course
            .cloud
            .alive()
            .any(|other| other != mark.index && in_service(course, other) && course.world.zones[other] == zone)
}

fn is_sustained(fault: &Fault, mark: &Mark, course: &Course) -> Result<(), String> {
    let sustain = 5 * MINUTE;
    let launched = course.cloud.instances[mark.index].launched;
    // It may have been the consequence of another fault before it was one of its own.
    let other = course
        .world
        .faults
        .iter()
        .filter(|other| matches!(other.kind, Kind::Broken { .. }))
        .any(|other| *other != *fault && other.from < fault.from && other.to + NOTICE >= fault.from);
    if fault.from + sustain > mark.at && !other {
        return Err(format!("no replacement before {} s", sustain / SECOND));
    }
    if launched > 0 && launched + 2 * sustain > mark.at {
        return Err("no replacement of what is too young".to_owned());
    }
    Ok(())
}

/// What a dependency's fault could explain is no reason.
fn is_not_masked(mark: &Mark, course: &Course) -> Result<(), String> {
    let component = &SITE[mark.slot];
    let gone = course
        .world
        .own_faults(mark.index, component, mark.at)
        .any(|fault| matches!(fault.kind, Kind::Broken { cause: Cause::NginxMasterGone, .. }));
    if component.is_dependency() || gone {
        return Ok(());
    }
    let from = mark.at.saturating_sub(NOTICE);
    let masks = |dependency: &Component| {
        course.world.down_since(mark.index, dependency, mark.at).is_some_and(|since| since < from)
    };
    match [Component::Efs, Component::Database].iter().find(|dependency| masks(dependency)) {
        Some(dependency) => Err(format!("never one for what is masked: {dependency} is down")),
        None => Ok(()),
    }
}

fn is_within_the_budget(mark: &Mark, course: &Course) -> Result<(), String> {
    let desired = course.cloud.desired_since(mark.at.saturating_sub(2 * MINUTE));
    if desired < 2 {
        return Ok(());
    }
    let serving = course.cloud.alive().filter(|other| {
        let serves = course.agents.get(other).is_some_and(|agent| agent.snapshot.instance.state.is_ok())
            || course.serving.get(other).is_some_and(|served| served + NOTICE >= mark.at);
        *other != mark.index && in_service(course, *other) && serves
    });
    let (serving, need) = (serving.count(), desired.div_ceil(2));
    if serving < need {
        return Err(format!("never below the budget: {serving} others serve, {need} should"));
    }
    Ok(())
}
