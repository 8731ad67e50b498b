//! Each refusal in a case where it alone stands in the way, the way up from a fault to the call, and who agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::health::component::Schedule;
use crate::health::verdict::Tally;
use crate::observation::{EfsFacts, Finding, Observation, Outcome as Found};
use crate::replace::ladder::{ATTEMPTS, Repairs};
use crate::replace::look::LookMember;
use crate::replace::memory::{Decision, Grace};
use crate::replace::records::Record;
use crate::state::Owner;

const ME: &str = "i-0b";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Stamp {
    Stamp {
        boot: "b".to_owned(),
        time: BootTime::from_boot(secs(seconds)),
        wall: Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap(),
    }
}

fn policy() -> ReplacePolicy {
    ReplacePolicy { enforce: true, sustain: secs(300), cooldown: secs(900) }
}

fn component(component: Component) -> ComponentState {
    let schedule = Schedule { interval: secs(4), timeout: secs(3), fast_interval: None, fall: 2, rise: 2 };
    ComponentState::new(component, "target".to_owned(), schedule, false, at(0).time)
}

/// Everything that facts refer to. The fault began at 10,000 s.
struct World {
    components: Vec<(ComponentState, Option<Domain>)>,
    instance: Option<&'static str>,
    group: Option<&'static str>,
    zone: Option<&'static str>,
    lifecycle: Option<&'static str>,
    has_keys: bool,
    draining: bool,
    on_hold: bool,
    gate_closed: bool,
    votes: Group,
    memory: Memory,
    records: Records,
    looked: Option<Looked>,
    policy: ReplacePolicy,
    now: Stamp,
}

impl World {
    /// A group of four in which this instance alone has a frozen mount, for long, and repairs did not help.
    fn new() -> Self {
        Self::with(Component::Efs, Cause::EfsHung)
    }

    fn with(what: Component, cause: Cause) -> Self {
        let mut world = Self {
            components: Vec::new(),
            instance: Some(ME),
            group: Some("web"),
            zone: Some("a"),
            lifecycle: Some("InService"),
            has_keys: true,
            draining: false,
            on_hold: false,
            gate_closed: false,
            votes: Group { serving: ["i-0a", "i-0c", "i-0d"].map(str::to_owned).into(), ..Group::default() },
            memory: Memory::new(Owner::default(), at(1_000)),
            records: Records::default(),
            looked: None,
            policy: policy(),
            now: at(20_000),
        };
        world.fail(what, cause, Domain::Local);
        world
    }

    fn fail(&mut self, what: Component, cause: Cause, domain: Domain) {
        let mut state = component(what);
        let observe = |state: &mut ComponentState, began: u64, outcome| {
            let observation = Observation {
                component: state.component.clone(),
                began: at(began).time,
                took: secs(0),
                outcome,
                stages: Vec::new(),
                facts: match state.component {
                    Component::Efs => Learned::Efs(EfsFacts { target_accepts: Some(true), ..EfsFacts::default() }),
                    _ => Learned::None,
                },
            };
            state.apply(observation);
        };
        observe(&mut state, 2_000, Found::Pass);
        observe(&mut state, 2_004, Found::Pass);
        self.memory.observe([&state], "b");
        for began in (10_000..20_000).step_by(1_000) {
            observe(&mut state, began, Found::Fail(Finding::new(cause, "frozen")));
        }
        for attempt in 0..ATTEMPTS as u64 {
            if let Some(verb) = Verb::of(&state.component) {
                self.memory.repairs.note(verb, &at(10_010 + 40 * attempt));
            }
        }
        let tally = Tally { asked: 3, healthy: 3, failing: 0, near: 1 };
        self.votes.tallies.insert(state.component.clone(), tally);
        self.components.push((state, Some(domain)));
    }

    fn look() -> Look {
        let member = |instance: &str| LookMember {
            instance: instance.to_owned(),
            lifecycle: "InService".to_owned(),
            healthy: true,
        };
        Look {
            group: "web".to_owned(),
            desired: 4,
            members: ["i-0a", ME, "i-0c", "i-0d"].map(member).into(),
            suspended: BTreeSet::new(),
            launches_failed: 0,
            is_refreshing: false,
            stopped_by_tag: false,
            last_replacement: None,
            health_check_types: vec!["EC2".to_owned()],
            grace: secs(300),
            default_warmup: None,
            maintenance: None,
        }
    }

    fn looking(mut self, change: impl FnOnce(&mut Look)) -> Self {
        let mut look = Self::look();
        change(&mut look);
        self.looked = Some(Looked { began: at(19_998).time, look: Some(look), won: None });
        self
    }

    fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            instance: self.instance,
            group: self.group,
            zone: self.zone,
            lifecycle: self.lifecycle,
            has_keys: self.has_keys,
            draining: self.draining,
            on_hold: self.on_hold,
            gate_closed: self.gate_closed,
            components: &self.components,
            votes: &self.votes,
            memory: &self.memory,
            records: &self.records,
            look: self.looked.as_ref(),
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.facts(), &self.policy, &self.now)
    }

    fn remember(&mut self, id: &str, instance: &str, cause: &str, seconds: u64) {
        let record = Record {
            id: id.to_owned(),
            at: at(seconds).wall,
            group: "web".to_owned(),
            instance: instance.to_owned(),
            cause: cause.to_owned(),
            detail: String::new(),
            votes: Tally::default(),
            plan: String::new(),
            transitions: Vec::new(),
        };
        assert!(self.records.keep(record, Duration::ZERO, &at(seconds)));
    }
}

/// A world in which one refusal alone stands in the way; without it the plan is to look, or to ask.
fn alone(refusal: Refusal) -> World {
    use Refusal::*;
    let world = World::new;
    match refusal {
        NotEnforcing => world().but(|w| w.policy.enforce = false),
        NotInService => world().but(|w| w.group = None),
        InGracePeriod => world().but(|w| w.memory.grace = Some(Grace { at: at(19_900), span: secs(300) })),
        TooYoung => world().but(|w| w.memory.began = at(19_500)),
        Draining => world().but(|w| w.draining = true),
        OnHold => world().but(|w| w.on_hold = true),
        Fenced => world().but(|w| w.gate_closed = true),
        NotLocal => world().but(|w| w.components[0].1 = Some(Domain::Undetermined)),
        NotCurable => World::with(Component::App, Cause::AppTimeout),
        NotSustained => world().but(|w| w.now = at(10_250)),
        PeersShareIt => world().but(|w| w.components[0].1 = Some(Domain::Shared)),
        Zonal => world().but(|w| w.components[0].1 = Some(Domain::Zonal)),
        NoQuorum => world().looking(|_| ()).but(|w| w.looked.as_mut().unwrap().won = Some(false)),
        BudgetSpent => world().but(|w| {
            w.remember("1", "i-0x", "disk-full", 5_000);
            w.remember("2", "i-0y", "nginx-timeout", 6_000);
        }),
        GroupNotSettled => world().looking(|look| look.members[3].lifecycle = "Pending:Wait".to_owned()),
        LaunchesFailing => world().looking(|look| look.launches_failed = 1),
        ProcessSuspended => world().looking(|look| _ = look.suspended.insert("Launch".to_owned())),
        ReplacementDidNotCure => world().but(|w| {
            w.now = at(60_000);
            w.remember("1", "i-0x", "efs-hung", 5_000);
            w.remember("2", "i-0y", "efs-not-mounted", 6_000);
        }),
        StoppedByTag => world().looking(|look| look.stopped_by_tag = true),
        ApiUnavailable => world().looking(|_| ()).but(|w| w.looked.as_mut().unwrap().look = None),
    }
}

#[test]
fn each_refusal_alone_stops_it() {
    for &refusal in Refusal::ALL {
        let plan = alone(refusal).plan();
        let named = match &plan {
            Plan::Refused(refusals) => refusals.clone(),
            Plan::Wait { why, .. } => vec![*why],
            _ => vec![],
        };
        assert_eq!(named, [refusal], "{plan:?}");
        assert!(plan.words(at(20_000).time).contains(refusal.sentence()));
        assert_eq!(plan.would_replace(), refusal == Refusal::NotEnforcing);
    }
    assert_eq!(World::new().plan(), Plan::Look);
}

#[test]
fn other_ways_to_be_refused() {
    use Refusal::*;
    let one = |look: &mut Look| (look.desired, look.members) = (1, vec![look.members[1].clone()]);
    for (world, refusal) in vec![
        (World::new().but(|w| w.has_keys = false), NotEnforcing),
        (World::new().but(|w| w.instance = None), NotInService),
        (World::new().but(|w| w.lifecycle = Some("Standby")), NotInService),
        (
            World::new().looking(|look| (look.desired, look.members[1].lifecycle) = (3, "Standby".to_owned())),
            NotInService,
        ),
        (World::new().looking(|look| look.group = "other".to_owned()), NotInService),
        (World::new().but(|w| w.memory.healthy.clear()), NotCurable),
        (World::new().but(|w| w.memory.boot = "another".to_owned()), NotCurable),
        (World::with(Component::Database, Cause::DatabaseReadOnly), NotCurable),
        (World::new().looking(|look| look.is_refreshing = true), GroupNotSettled),
        (World::new().looking(|look| look.members[2].healthy = false), GroupNotSettled),
        (World::new().looking(|look| _ = look.suspended.insert("ReplaceUnhealthy".to_owned())), ProcessSuspended),
        (World::new().looking(|look| _ = look.suspended.insert("Terminate".to_owned())), ProcessSuspended),
        (World::new().looking(one), NotLocal),
        (World::with(Component::Nginx, Cause::NginxTimeout).looking(one), NotLocal),
        (
            World::new().but(|w| {
                let outcome = Outcome::Refused("AccessDenied".to_owned());
                let (id, cause) = ("x".to_owned(), "efs-hung".to_owned());
                w.memory.decision = Some(Decision { id, at: at(19_500), cause, outcome });
            }),
            ApiUnavailable,
        ),
        (
            World::new().looking(|look| {
                look.last_replacement =
                    Some("2027-01-15T10:00:00Z=i-0x=disk-full 2027-01-15T09:00:00Z=i-0y=nginx-timeout".to_owned());
            }),
            BudgetSpent,
        ),
        // Two of three others serve: two are needed. One is not enough, and then there is no majority either.
        (World::new().but(|w| _ = w.votes.serving.remove("i-0a")).looking(|_| ()), ApiUnavailable),
    ] {
        match (world.plan(), refusal) {
            (Plan::Ask { voters, .. }, ApiUnavailable) => assert_eq!(voters, [ME, "i-0c", "i-0d"]),
            (plan, refusal) => assert_eq!(plan, Plan::Refused(vec![refusal])),
        }
    }
    let mut world = World::new().looking(|_| ());
    world.votes.serving = ["i-0a".to_owned()].into();
    assert_eq!(world.plan(), Plan::Refused(vec![NoQuorum, BudgetSpent]));
    assert_eq!(
        World::new().but(|w| (w.draining, w.on_hold, w.gate_closed) = (true, true, true)).plan(),
        Plan::Refused(vec![Draining, OnHold, Fenced]),
        "all that hold, in their order"
    );
}

#[test]
fn the_way_up() {
    let mut world = World::new();
    world.memory.repairs = Repairs::default();
    world.now = at(10_009);
    for attempt in 1..=3 {
        assert_eq!(world.plan(), Plan::Repair(Verb::EfsRemount, attempt));
        world.memory.repairs.note(Verb::EfsRemount, &world.now);
        let Plan::Wait { until, why: Refusal::NotSustained } = world.plan() else { panic!("{:?}", world.plan()) };
        assert!(until >= at(10_300).time && until <= at(10_420).time, "{until:?}");
        world.now = at(10_009 + 40 * u64::from(attempt));
    }
    world.now = at(10_420);
    assert_eq!(world.plan(), Plan::Look);
    world.looked = Some(Looked { began: at(10_421).time, look: Some(World::look()), won: None });
    world.now = at(10_422);
    let voters = ["i-0a", ME, "i-0c", "i-0d"].map(str::to_owned).to_vec();
    assert_eq!(world.plan(), Plan::Ask { electorate: 4, voters });
    world.looked.as_mut().unwrap().won = Some(true);
    assert_eq!(world.plan(), Plan::Go);
    world.now = at(10_431);
    assert_eq!(world.plan(), Plan::Wait { until: at(10_451).time, why: Refusal::NoQuorum }, "the look is too old");
    world.now = at(10_451);
    assert_eq!(world.plan(), Plan::Look);
    let decision = |outcome| Decision { id: "r".to_owned(), at: at(10_430), cause: "efs-hung".to_owned(), outcome };
    for outcome in [Outcome::Calling, Outcome::Accepted] {
        world.memory.decision = Some(decision(outcome));
        assert_eq!(world.plan(), Plan::Marked, "one call for one decision");
    }
    world.now = at(10_430 + 900);
    assert_eq!(world.plan(), Plan::Look, "whatever became of it, it is over");
    world.components.clear();
    assert_eq!(world.plan(), Plan::Nothing);
}

#[test]
fn nobody_goes_while_a_repair_may_still_help() {
    let mut world = World::new();
    world.memory.repairs = Repairs::default();
    for attempt in 1..=3 {
        assert_eq!(
            world.plan(),
            Plan::Repair(Verb::EfsRemount, attempt),
            "it has lasted long, and the ladder comes first"
        );
        world.memory.repairs.note(Verb::EfsRemount, &world.now);
        let until = world.now.time + secs(40);
        assert_eq!(world.plan(), Plan::Wait { until, why: Refusal::NotSustained });
        world.now = Stamp { time: until, ..world.now.clone() };
    }
    assert_eq!(world.plan(), Plan::Look);
}

#[test]
fn nobody_goes_whose_fault_was_not_seen_by_the_newest_attempt() {
    let seen = |outcome: Found| {
        World::new().but(|w| {
            let (stages, facts, component) = (Vec::new(), Learned::None, Component::Efs);
            let began = at(19_999).time;
            w.components[0].0.apply(Observation { component, began, took: secs(0), outcome, stages, facts });
            assert_eq!(w.components[0].0.status, Status::Unhealthy, "one attempt changes nothing");
        })
    };
    let plan = seen(Found::Pass).plan();
    assert!(matches!(plan, Plan::Wait { why: Refusal::NotSustained, .. }), "{plan:?}");
    let plan = seen(Found::Fail(Finding::new(Cause::CouldNotRun, ""))).plan();
    assert_eq!(plan, Plan::Refused(vec![Refusal::NotSustained]));
}

#[test]
fn the_ladder_is_climbed_only_where_it_may_be() {
    let fresh = |world: World| world.but(|w| w.memory.repairs = Repairs::default());
    let is_tried = |world: &World| matches!(world.plan(), Plan::Repair(_, 1));
    for domain in [Domain::Local, Domain::Shared, Domain::Zonal, Domain::Undetermined] {
        let efs = fresh(World::new()).but(|w| w.components[0].1 = Some(domain));
        assert!(is_tried(&efs), "a remount harms nobody: {domain:?}");
        for (cause, whatever) in [(Cause::NginxMasterGone, true), (Cause::NginxTimeout, domain == Domain::Local)] {
            let nginx = fresh(World::with(Component::Nginx, cause)).but(|w| w.components[0].1 = Some(domain));
            assert_eq!(is_tried(&nginx), whatever, "{cause} {domain:?}");
        }
    }
    assert!(!is_tried(&fresh(World::new()).but(|w| w.policy.enforce = false)));
    assert!(!is_tried(&fresh(World::new()).but(|w| w.has_keys = false)));
    assert!(!is_tried(&fresh(World::new()).but(|w| w.draining = true)));
    assert!(!is_tried(&fresh(World::new()).but(|w| w.on_hold = true)));
    assert!(!is_tried(&fresh(World::new()).but(|w| w.memory.healthy.clear())));
    assert!(!is_tried(&fresh(World::with(Component::Database, Cause::DatabaseTimeout))));
    assert!(fresh(World::new()).but(|w| w.policy.enforce = false).plan().would_replace(), "taken as climbed in vain");
}

#[test]
fn a_web_server_that_is_gone_is_repaired_whoever_is_at_fault_and_replaced_only_if_it_is_this_instance() {
    for (domain, plan) in [
        (Domain::Local, Plan::Look),
        (Domain::Undetermined, Plan::Refused(vec![Refusal::NotLocal])),
        (Domain::Shared, Plan::Refused(vec![Refusal::PeersShareIt])),
        (Domain::Zonal, Plan::Refused(vec![Refusal::Zonal])),
    ] {
        let world = World::with(Component::Nginx, Cause::NginxMasterGone).but(|w| w.components[0].1 = Some(domain));
        assert_eq!(world.plan(), plan, "{domain:?}");
    }
}

#[test]
fn a_zone_of_one_may_go_for_its_mount_once_and_only_if_the_target_answers() {
    let zone_of_one = || {
        World::new().but(|w| {
            w.components[0].1 = Some(Domain::Zonal);
            w.votes.tallies.get_mut(&Component::Efs).unwrap().near = 0;
        })
    };
    assert_eq!(zone_of_one().plan(), Plan::Look);
    let refused = |world: World| world.plan();
    let tally = |w: &mut World, healthy| w.votes.tallies.get_mut(&Component::Efs).unwrap().healthy = healthy;
    assert_eq!(refused(zone_of_one().but(|w| tally(w, 1))), Plan::Refused(vec![Refusal::Zonal]), "no majority");
    let no_target = |w: &mut World| w.components[0].0.facts = Learned::Efs(EfsFacts::default());
    assert_eq!(refused(zone_of_one().but(no_target)), Plan::Refused(vec![Refusal::Zonal]));
    let nowhere = zone_of_one().but(|w| w.zone = None);
    assert_eq!(nowhere.plan(), Plan::Refused(vec![Refusal::Zonal]), "who does not know its zone is not alone in it");
    let once = zone_of_one().but(|w| w.remember("1", "i-0x", "disk-full", 19_000));
    assert_eq!(once.plan(), Plan::Refused(vec![Refusal::BudgetSpent]), "once in six hours");
    let database = World::with(Component::Database, Cause::DatabaseTimeout).but(|w| {
        w.components[0].1 = Some(Domain::Zonal);
        w.votes.tallies.get_mut(&Component::Database).unwrap().near = 0;
    });
    assert_eq!(database.plan(), Plan::Refused(vec![Refusal::Zonal]), "never for a database");
}

#[test]
fn a_group_of_one_goes_for_a_web_server_that_is_gone_and_a_full_disk() {
    let one = |look: &mut Look| (look.desired, look.members) = (1, vec![look.members[1].clone()]);
    for (what, cause) in [(Component::Nginx, Cause::NginxMasterGone), (Component::Host, Cause::DiskFull)] {
        let world = World::with(what, cause).but(|w| w.votes = Group::default()).looking(one);
        assert_eq!(world.plan(), Plan::Ask { electorate: 1, voters: vec![ME.to_owned()] });
    }
}

#[test]
fn in_a_group_with_too_many_members_the_majority_is_of_them_all() {
    let world = World::new().looking(|look| look.desired = 2);
    assert!(matches!(world.plan(), Plan::Ask { electorate: 4, .. }), "{:?}", world.plan());
}

#[test]
fn who_is_stopped_by_the_group_wants_to_go_and_who_is_stopped_by_itself_does_not() {
    let wants = |world: &World| wants_to_go(&world.facts(), &world.policy, &world.now);
    assert!(wants(&World::new()));
    for (refusal, expected) in
        [(Refusal::NoQuorum, true), (Refusal::LaunchesFailing, true), (Refusal::OnHold, false), (Refusal::Zonal, false)]
    {
        assert_eq!(wants(&alone(refusal)), expected, "{refusal}");
    }
}

#[test]
fn what_falls_again_and_again_is_not_replaced() {
    let mut world = World::new();
    let state = &mut world.components[0].0;
    for round in 0..4_u64 {
        for (seconds, fails) in [(0, false), (4, false), (8, false), (12, false), (16, true), (20, true)] {
            let outcome = if fails { Found::Fail(Finding::new(Cause::EfsHung, "")) } else { Found::Pass };
            let began = at(20_000 + 100 * round + seconds).time;
            let (stages, facts, component) = (Vec::new(), Learned::None, Component::Efs);
            state.apply(Observation { component, began, took: secs(0), outcome, stages, facts });
        }
    }
    world.policy.sustain = secs(1);
    world.now = at(20_340);
    for seconds in [20_100, 20_200, 20_300] {
        world.memory.repairs.note(Verb::EfsRemount, &at(seconds));
    }
    assert!(world.components[0].0.is_flapping(world.now.time));
    assert_eq!(world.plan(), Plan::Refused(vec![Refusal::NotSustained]));
}

proptest! {
    #[test]
    fn instances_do_not_all_ask_at_once(seconds in 0_u64..1_000_000) {
        let since = at(seconds).time;
        let all: BTreeMap<_, _> =
            (0..40).map(|n| (jitter(&format!("i-{n:017x}"), since, secs(300)), n)).collect();
        prop_assert!(all.len() > 20, "{all:?}");
        prop_assert!(all.keys().all(|jitter| *jitter <= secs(120)));
        prop_assert!(all.keys().next_back().unwrap().saturating_sub(*all.keys().next().unwrap()) > secs(60));
    }
}
