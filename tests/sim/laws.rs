//! What must hold, judged by the truth of the world and not by what any agent believes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dr_agent::health::cause::{OnInstance, OnRegion, Status};
use dr_agent::health::verdict::{HoldOn, InstanceState};
use dr_agent::observation::Component;

use super::agent::{Agent, name};
use super::course::Course;
use super::history::History;
use super::replacements::Replacements;
use super::world::{Index, Kind, Ms, SECOND, SITE, is_outage, seconds};

const EFS: usize = 2;
const DATABASE: usize = 3;

/// What the laws remember of an agent.
#[derive(Debug, Clone, Default)]
struct Seen {
    since: Ms,
    region_closed: bool,
    reasons: BTreeSet<Component>,
}

#[derive(Debug)]
pub struct Laws {
    seen: BTreeMap<Index, Seen>,
    sampled: Ms,
    pub replacements: Replacements,
}

impl Laws {
    pub fn new(history: &History) -> Self {
        Self { seen: BTreeMap::new(), sampled: 0, replacements: Replacements::new(history) }
    }

    /// After each event.
    pub fn check(&mut self, course: &mut Course) -> Result<(), String> {
        for index in std::mem::take(&mut course.judged) {
            self.judged(index, course)?;
        }
        self.replacements.check(course)?;
        if course.now >= self.sampled + 5 * SECOND {
            self.sampled = course.now;
            for agent in course.agents.values() {
                closed_when_none_can(agent, course)?;
                closed_by_its_own_fault(agent, course)?;
            }
        }
        Ok(())
    }

    /// At the end, when everything has been well for long.
    pub fn finish(course: &Course) -> Result<(), String> {
        Replacements::finish(course)?;
        for agent in course.agents.values() {
            let snapshot = &agent.snapshot;
            if snapshot.instance.state != InstanceState::Serving || snapshot.region_closed {
                return Err(format!(
                    "open when all is well: {} is {} and its region {}",
                    name(agent.index),
                    snapshot.instance.state.name(),
                    if snapshot.region_closed { "closed" } else { "open" }
                ));
            }
        }
        Ok(())
    }

    fn judged(&mut self, index: Index, course: &mut Course) -> Result<(), String> {
        let Some(agent) = course.agents.get(&index) else { return Ok(()) };
        let seen = self.seen.entry(index).or_default();
        if seen.since != agent.up_since {
            *seen = Seen { since: agent.up_since, region_closed: agent.snapshot.region_closed, ..Seen::default() };
        }
        let snapshot = &agent.snapshot;
        let reasons: BTreeSet<_> = snapshot.instance.reasons.iter().map(|reason| reason.component.clone()).collect();
        if !snapshot.instance_resumed {
            for component in reasons.difference(&seen.reasons) {
                course.tally.count("instance closed");
                a_peer_has_seen_it_work(agent, component, course)?;
            }
        }
        seen.reasons = reasons;
        let closes = snapshot.region_closed && !seen.region_closed;
        if seen.region_closed && !snapshot.region_closed {
            course.tally.count("region opened");
        }
        seen.region_closed = snapshot.region_closed;
        if closes {
            let due: Vec<_> = snapshot.region.holds.iter().filter(|hold| hold.due <= snapshot.taken).cloned().collect();
            if due.is_empty() {
                course.tally.count("region closed by the group's word");
                if course.now.saturating_sub(agent.up_since) > 16 * SECOND {
                    return Err(format!("region: {} closed it without a hold that is due", name(index)));
                }
            }
            for hold in &due {
                course.tally.count(match hold.on {
                    HoldOn::Efs => "region closed by efs",
                    HoldOn::Database => "region closed by the database",
                    HoldOn::Capacity => "region closed by capacity",
                });
            }
            for hold in &due {
                has_lasted(agent, hold.on, course)?;
            }
            // A hold that is due with another that need not be: one that convicts is enough.
            if !due.is_empty() && due.iter().all(|hold| somebody_was_well(agent, hold.on, course).is_some()) {
                let who = due.iter().find_map(|hold| somebody_was_well(agent, hold.on, course));
                return Err(format!(
                    "region never closed while each dependency works for a member: {} closed it by {:?}, and {} was well",
                    name(index),
                    due.iter().map(|hold| hold.on).collect::<Vec<_>>(),
                    who.map(name).unwrap_or_default(),
                ));
            }
        }
        Ok(())
    }
}

/// An instance is closed for what others could do better only if another member did do better, since the trouble began.
fn a_peer_has_seen_it_work(agent: &Agent, component: &Component, course: &Course) -> Result<(), String> {
    let slot = SITE.iter().position(|c| c == component).expect("of the site");
    let Some(reason) = agent.snapshot.instance.reasons.iter().find(|reason| reason.component == *component) else {
        return Ok(());
    };
    if reason.cause.row().instance != OnInstance::ClosesIfPeerPasses {
        return Ok(());
    }
    let Some(since) = agent.slots[slot].failing_since else {
        return Err(format!("instance: {} closed for {component}, which works", name(agent.index)));
    };
    let better = |(index, passed): (&Index, &[Ms; SITE.len()])| *index != agent.index && passed[slot] >= since;
    if !course.passed.iter().any(better) {
        return Err(format!(
            "instance never closed for a dependency unless a peer votes healthy: {} closed for {component}, which \
             nobody has seen working since {:.1} s",
            name(agent.index),
            seconds(since)
        ));
    }
    Ok(())
}

const fn length(on: HoldOn) -> Ms {
    match on {
        HoldOn::Efs | HoldOn::Capacity => 60 * SECOND,
        HoldOn::Database => 150 * SECOND,
    }
}

/// Nothing that this instance saw work within the hold closes the region.
fn has_lasted(agent: &Agent, on: HoldOn, course: &Course) -> Result<(), String> {
    let slot = match on {
        HoldOn::Efs => EFS,
        HoldOn::Database => DATABASE,
        HoldOn::Capacity => return Ok(()),
    };
    let passed = course.passed.get(&agent.index).map_or(0, |passed| passed[slot]);
    if passed + length(on) > course.now + SECOND {
        return Err(format!(
            "region never closed before its hold: {} closed it by {on:?}, which worked at {:.1} s",
            name(agent.index),
            seconds(passed)
        ));
    }
    Ok(())
}

/// A member whose word would have kept the region open: well all through the hold, and heard.
fn somebody_was_well(agent: &Agent, on: HoldOn, course: &Course) -> Option<Index> {
    let now = course.now;
    let from = now.saturating_sub(length(on));
    let fine = |index: Index, component: usize| course.world.is_fine(index, &SITE[component], from, now);
    course.agents.values().find_map(|other| {
        let was_there = other.up_since + 20 * SECOND <= from;
        let heard = other.index == agent.index || course.world.is_connected(agent.index, other.index, from, now);
        let well = match on {
            HoldOn::Efs => fine(other.index, EFS),
            HoldOn::Database => fine(other.index, DATABASE),
            HoldOn::Capacity => (0..SITE.len()).all(|component| fine(other.index, component)),
        };
        (was_there && heard && well).then_some(other.index)
    })
}

/// When a dependency has been down for all for its hold and what it takes to notice, or nginx or the disk of each, the
/// region is closed.
fn closed_when_none_can(agent: &Agent, course: &Course) -> Result<(), String> {
    let now = course.now;
    if agent.snapshot.region_closed {
        return Ok(());
    }
    let dependency = |slot: usize, hold: Ms| {
        let component = &SITE[slot];
        if !agent.knows_working(component) {
            return None;
        }
        let mut since = agent.up_since.max(course.departed);
        for other in course.agents.values() {
            let causes = course.world.own_faults(other.index, component, now).collect::<Vec<_>>();
            let down = causes.first().filter(|fault| match &fault.kind {
                Kind::Broken { cause, .. } => cause.row().region == OnRegion::AfterHold,
                _ => false,
            })?;
            // What could not be looked at for a while was not known to be down.
            let found = other.slots[slot];
            found.cause.filter(|cause| is_outage(*cause))?;
            since = since.max(down.from.max(other.up_since)).max(found.found_since);
        }
        (now >= since + hold).then_some(component)
    };
    let slack = 60 * SECOND;
    let mut down = dependency(EFS, 60 * SECOND + slack).or_else(|| dependency(DATABASE, 150 * SECOND + slack));
    // Nothing masks: then a web server or a disk that is down serves nobody.
    let serves_nobody = |other: &Agent| {
        let well = |slot: usize| {
            let known = &other.components[slot];
            // The mask window, the hold, and what it takes to notice.
            let for_long = other.clock(now).since(known.since) >= Duration::from_secs(60 + 60 + 60);
            known.status == Status::Healthy && for_long && course.world.is_fine(other.index, &SITE[slot], now, now)
        };
        let down = |slot: usize| {
            let found = other.slots[slot];
            found.cause.filter(|cause| is_outage(*cause))?;
            Some((course.world.down_since(other.index, &SITE[slot], now)?, found.found_since))
        };
        let down = [0, 4].into_iter().filter_map(down).map(|(from, seen)| from.max(seen)).min()?;
        (well(EFS) && well(DATABASE)).then_some(down.max(other.up_since))
    };
    let since = course.agents.values().map(serves_nobody).collect::<Option<Vec<_>>>();
    if let Some(since) = since.and_then(|since| since.into_iter().max())
        && agent.knows_working(&SITE[0])
        && agent.knows_working(&SITE[4])
        && now >= since.max(course.departed) + 60 * SECOND + slack
    {
        down = down.or(Some(&SITE[0]));
    }
    match down {
        Some(component) => Err(format!(
            "region closed within a bound when none can: {component} is down for all, and {} says open",
            name(agent.index)
        )),
        None => Ok(()),
    }
}

/// An instance whose own dependency is down while another's, which it hears, works, answers 503 within half a minute.
fn closed_by_its_own_fault(agent: &Agent, course: &Course) -> Result<(), String> {
    let (now, bound) = (course.now, 40 * SECOND);
    let from = now.saturating_sub(bound);
    if agent.up_since > from || agent.snapshot.instance.state != InstanceState::Serving {
        return Ok(());
    }
    for (slot, component) in SITE.iter().enumerate() {
        let Some(fault) = course.world.own_faults(agent.index, component, now).next() else { continue };
        let Kind::Broken { cause, .. } = fault.kind else { continue };
        let closes = match cause.row().instance {
            OnInstance::Keeps => false,
            OnInstance::Closes => true,
            OnInstance::ClosesIfPeerPasses => course.agents.values().any(|other| {
                other.index != agent.index
                    && other.up_since + 20 * SECOND <= from
                    && course.world.is_fine(other.index, component, from, now)
                    && course.world.is_connected(agent.index, other.index, from, now)
            }),
        };
        let found = agent.slots[slot];
        if closes && fault.from <= from && found.cause == Some(cause) && found.found_since <= from {
            return Err(format!(
                "instance closed within a bound: {} serves although its {component} is down since {:.1} s",
                name(agent.index),
                seconds(fault.from)
            ));
        }
    }
    Ok(())
}
