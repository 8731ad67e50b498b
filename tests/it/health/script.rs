//! Generated histories: phases in which components pass, fail, hang or cannot be probed, with restarts, reloads, drains,
//! gates and other members' words in between; and what was to be seen of each half second.

use std::collections::BTreeMap;

use dr_agent::clock::BootTime;
use dr_agent::health::cause::{Cause, OnInstance, OnRegion, Status};
use dr_agent::health::verdict::{Group, InstanceState, RegionState};
use dr_agent::observation::Component::{self, App, Database, Efs, Host, Nginx};
use proptest::collection::vec;
use proptest::prelude::*;

use super::bench::{Bench, World, secs};

pub const SITE: [Component; 5] = [Nginx, App, Efs, Database, Host];

/// What happens to the agent at the beginning of a phase.
#[derive(Debug, Clone)]
pub enum Act {
    Nothing,
    Restart,
    Gate(bool),
    Drain(bool),
    /// Bit n: another member passes component n of the site; bit 5: it can serve.
    Peers(u8),
    Retarget(usize),
    Remove(usize),
}

#[derive(Debug, Clone)]
pub struct Phase {
    pub act: Act,
    pub worlds: Vec<(usize, World)>,
    /// Seconds.
    pub span: u64,
}

/// Which acts a script may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// A group of one, and no operator.
    Alone,
    /// Everything.
    Everybody,
}

/// Components to change: dependencies twice as often as others, because a region's holds hang on them.
const MOSTLY: [usize; 7] = [0, 1, 2, 2, 3, 3, 4];

fn causes(component: &Component) -> &'static [Cause] {
    match component {
        Nginx => &[Cause::NginxRefused, Cause::NginxMasterGone, Cause::NginxTimeout, Cause::NginxForeignAnswer],
        App => &[Cause::AppBadStatus, Cause::AppTimeout, Cause::AppSlow],
        Efs => &[Cause::EfsHung, Cause::EfsNotMounted, Cause::EfsProxyGone, Cause::EfsSlow],
        Database => &[
            Cause::DatabaseRefused,
            Cause::DatabaseTimeout,
            Cause::DatabaseAccessDenied,
            Cause::DatabaseReadOnly,
            Cause::DatabaseNoPassword,
        ],
        _ => &[Cause::DiskFull, Cause::MemoryPressure],
    }
}

fn world(index: usize) -> impl Strategy<Value = (usize, World)> {
    let fails = prop::sample::select(causes(&SITE[index]).to_vec()).prop_map(World::Fails);
    let world = prop_oneof![
        4 => Just(World::Passes),
        5 => fails,
        1 => Just(World::Silent),
        1 => Just(World::Fails(Cause::CouldNotRun)),
    ];
    world.prop_map(move |world| (index, world))
}

fn act(cast: Cast) -> BoxedStrategy<Act> {
    let alone = prop_oneof![
        4 => Just(Act::Nothing),
        3 => Just(Act::Restart),
        1 => (0..SITE.len()).prop_map(Act::Retarget),
    ];
    if cast == Cast::Alone {
        return alone.boxed();
    }
    prop_oneof![
        5 => alone,
        1 => any::<bool>().prop_map(Act::Gate),
        1 => any::<bool>().prop_map(Act::Drain),
        2 => (0_u8..64).prop_map(Act::Peers),
        1 => (0..SITE.len()).prop_map(Act::Remove),
    ]
    .boxed()
}

fn phase(cast: Cast) -> impl Strategy<Value = Phase> {
    let span = prop_oneof![3 => 1_u64..15, 2 => 15_u64..90, 3 => 90_u64..260];
    (act(cast), vec(prop::sample::select(&MOSTLY[..]).prop_flat_map(world), 0..3), span)
        .prop_map(|(act, worlds, span)| Phase { act, worlds, span })
}

pub fn script(cast: Cast) -> impl Strategy<Value = Vec<Phase>> {
    vec(phase(cast), 1..16)
}

/// What is to be seen at the end of a step.
#[derive(Debug, Clone)]
pub struct Moment {
    pub now: BootTime,
    /// A phase began with this act just before.
    pub act: Option<Act>,
    pub seen: Vec<(Component, Option<Cause>)>,
    pub statuses: BTreeMap<Component, Status>,
    pub instance: InstanceState,
    pub closers: Vec<Component>,
    pub region: RegionState,
    pub region_closed: bool,
    pub gate_closed: bool,
    pub draining: bool,
    pub group: Group,
}

pub fn moment(bench: &Bench, act: Option<Act>) -> Moment {
    Moment {
        now: bench.now,
        act,
        seen: bench.seen.clone(),
        statuses: bench.components.iter().map(|c| (c.component.clone(), c.status)).collect(),
        instance: bench.instance.state,
        closers: bench.instance.reasons.iter().map(|reason| reason.component.clone()).collect(),
        region: bench.region.state,
        region_closed: bench.memory().region_closed,
        gate_closed: bench.gate_closed,
        draining: bench.draining,
        group: bench.group.clone(),
    }
}

/// Plays a script on a machine on which all was well; a moment for every act and every half second.
pub fn play(bench: &mut Bench, script: &[Phase]) -> Vec<Moment> {
    let mut moments = vec![moment(bench, None)];
    for phase in script {
        bench.seen.clear();
        match &phase.act {
            Act::Nothing => {}
            Act::Restart => bench.restart(),
            Act::Gate(closed) => bench.gate_closed = *closed,
            Act::Drain(on) => bench.draining = *on,
            Act::Peers(bits) => {
                let passing = SITE.iter().enumerate().filter(|(n, _)| bits & (1 << n) != 0);
                bench.group = Group {
                    passing: passing.map(|(_, c)| c.clone()).collect(),
                    can_serve: bits & 32 != 0,
                    ..Group::default()
                };
            }
            Act::Retarget(index) => {
                let known = bench.components.iter().any(|c| c.component == SITE[*index]);
                if known {
                    bench.retarget(&SITE[*index], &format!("target at {:?}", bench.now));
                }
            }
            Act::Remove(index) => bench.remove(&SITE[*index]),
        }
        bench.judge();
        moments.push(moment(bench, Some(phase.act.clone())));
        for (index, world) in &phase.worlds {
            bench.set(SITE[*index].clone(), *world);
        }
        let end = bench.now + secs(phase.span);
        while bench.now < end {
            bench.step();
            moments.push(moment(bench, None));
        }
    }
    moments
}

/// What a raw outcome is to the region: a failing vote, a healthy one, or none.
pub fn is_failing(cause: Option<Cause>) -> Option<bool> {
    let Some(row) = cause.map(Cause::row) else { return Some(false) };
    match row.status {
        _ if row.region == OnRegion::Holds => None,
        // A matter of role is none of health; what is wrong with this instance alone says nothing of the region.
        Status::Unhealthy if row.region == OnRegion::Keeps => (row.instance == OnInstance::Keeps).then_some(false),
        Status::Unhealthy => Some(true),
        _ => Some(false),
    }
}

/// Whether the attempt itself failed, whatever that means to the region; `None` if nobody was asked.
pub fn is_failure(cause: Option<Cause>) -> Option<bool> {
    let Some(row) = cause.map(Cause::row) else { return Some(false) };
    (row.region != OnRegion::Holds).then_some(row.status == Status::Unhealthy)
}
