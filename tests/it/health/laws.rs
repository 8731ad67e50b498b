//! The laws, over generated histories.

use std::sync::Arc;
use std::time::Duration;

use dr_agent::answer::{self, Question};
use dr_agent::health::cause::{Cause, OnInstance, Status, TABLE};
use dr_agent::health::verdict::{Doors, Group, Inputs, InstanceState, Memory, RegionState};
use dr_agent::input::Input;
use dr_agent::observation::Component::{self, App, Database, Efs, Host, Nginx};
use dr_agent::observation::Facts;
use dr_agent::state::State;
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::bench::{Bench, World, at, observation, policy, schedule, secs, state};
use super::oracle::{assert_a_clear_minute, closes, closing_hold, opens, row};
use super::owner::{Agent, about, config};
use super::script::{Act, Cast, Moment, Phase, SITE, is_failing, is_failure, moment, play, script};

/// So many cases, unless `PROPTEST_CASES` asks for a number of its own.
fn cases(cases: u32) -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    Config { cases: if asked { Config::default().cases } else { cases }, ..Config::default() }
}

fn played(script: &[Phase]) -> Vec<Moment> {
    play(&mut Bench::healthy(&SITE), script)
}

proptest! {
    #![proptest_config(cases(32))]

    /// No close before `hold` has run since the first failing vote, none of what was never healthy, none for a first
    /// observation.
    #[test]
    fn no_region_closes_before_a_hold_has_run(script in script(Cast::Everybody)) {
        let moments = played(&script);
        for index in closes(&moments) {
            closing_hold(&moments, index);
        }
    }

    /// Unknown, a restart or a reload opens no region, nor does anything less than a minute without a condition.
    #[test]
    fn no_region_opens_but_after_a_clear_minute(script in script(Cast::Everybody)) {
        let moments = played(&script);
        for index in opens(&moments) {
            assert_a_clear_minute(&moments, index);
        }
    }

    /// When all is well everything opens within a bound, and what fails for long enough closes: no history jams a door.
    #[test]
    fn no_history_jams_a_door(script in script(Cast::Everybody)) {
        let mut bench = Bench::healthy(&SITE);
        play(&mut bench, &script);
        (bench.draining, bench.gate_closed, bench.group) = (false, false, Group::default());
        for component in SITE {
            bench.pass(component);
        }
        bench.run(secs(200));
        prop_assert_eq!((bench.instance.state, bench.region.state), (InstanceState::Serving, RegionState::Open));
        for component in bench.components.clone() {
            prop_assert!(matches!(component.status, Status::Healthy | Status::Degraded));
            // Flapping asks for ten quiet minutes.
            let settled = component.status == Status::Healthy || component.is_flapping(bench.now);
            prop_assert!(settled, "{:?}", component);
        }
        let has = |c: &Component, bench: &Bench| bench.components.iter().any(|state| state.component == *c);
        if has(&Nginx, &bench) {
            bench.fail(Nginx, Cause::NginxMasterGone);
            bench.run(secs(5));
            prop_assert_eq!(bench.instance.state, InstanceState::Closed);
            bench.pass(Nginx);
            bench.run(secs(130));
            prop_assert_eq!(bench.instance.state, InstanceState::Serving);
        }
        if has(&Database, &bench) {
            let ever = bench.state(&Database).ever_healthy;
            bench.fail(Database, Cause::DatabaseTimeout);
            bench.run(secs(155));
            prop_assert_eq!(bench.open(), !ever);
        }
    }

    /// A status changes only when it was said often enough, in a row, by fresh attempts.
    #[test]
    fn rise_and_fall_are_honoured(script in script(Cast::Everybody)) {
        let moments = played(&script);
        for index in 1..moments.len() {
            for (component, cause) in &moments[index].seen {
                let (before, after) = (moments[index - 1].statuses[component], moments[index].statuses[component]);
                if before == after || before == Status::Starting {
                    continue;
                }
                let first = row(&moments, index, component, true) + row(&moments, index, component, false) == 1
                    && moments[..index].iter().rev()
                        .take_while(|m| !matches!(m.act, Some(Act::Restart | Act::Retarget(_))))
                        .all(|m| m.seen.iter().all(|(c, cause)| c != component || is_failure(*cause).is_none()));
                let hang = matches!(cause, Some(Cause::EfsHung | Cause::EfsServerUnreachable | Cause::EfsProxyGone));
                let said = schedule(component);
                match after {
                    Status::Unhealthy => prop_assert!(
                        hang || first || row(&moments, index, component, true) >= said.fall, "{} fell", component),
                    Status::Healthy => prop_assert!(
                        first || row(&moments, index, component, false) >= said.rise, "{} rose", component),
                    Status::Starting => prop_assert!(false, "{} starts again", component),
                    Status::Degraded | Status::Unknown => {}
                }
            }
        }
    }

    /// The instance closes only in a moment in which something that may close it failed, opens only when all that
    /// closed it passed `rise` times in a row, and a restart leaves it as its marker says.
    #[test]
    fn the_instance_moves_only_with_what_was_seen(script in script(Cast::Everybody)) {
        let moments = played(&script);
        for index in 1..moments.len() {
            let (before, after) = (&moments[index - 1], &moments[index]);
            if after.draining || before.draining || matches!(after.act, Some(Act::Restart)) {
                continue;
            }
            for closer in after.closers.iter().filter(|c| !before.closers.contains(c)) {
                let failing = row(&moments, index, closer, true) >= 1;
                prop_assert!(failing && after.statuses[closer] == Status::Unhealthy, "{} closes", closer);
            }
            for opener in before.closers.iter().filter(|c| !after.closers.contains(c)) {
                let risen = row(&moments, index, opener, false) >= schedule(opener).rise;
                let gone = !after.statuses.contains_key(opener) || (*opener == App && after.gate_closed);
                prop_assert!(risen || gone, "{} opens", opener);
            }
            prop_assert_eq!(after.instance == InstanceState::Serving, after.closers.is_empty());
        }
    }

    /// An agent restart changes no answer by itself.
    #[test]
    fn a_restart_changes_no_answer(script in script(Cast::Everybody)) {
        let moments = played(&script);
        for index in 1..moments.len() {
            let (before, after) = (&moments[index - 1], &moments[index]);
            if !matches!(after.act, Some(Act::Restart)) {
                continue;
            }
            prop_assert_eq!(before.region, after.region);
            let by_nginx_alone = before.closers.iter().all(|c| *c == Nginx);
            // Without another member that can serve there is no marker, and the first observation closes it again.
            if before.instance != InstanceState::Closed || (before.group.can_serve && !by_nginx_alone) {
                prop_assert_eq!(before.instance, after.instance);
            }
        }
    }

    /// A run with restarts closes and opens the region when one without does, give or take a few attempts: only the
    /// minute before it opens begins again.
    #[test]
    fn a_run_with_restarts_is_a_run_without(script in script(Cast::Alone), every in 3_u64..40) {
        let site = [Nginx, Efs, Database];
        let steady = || {
            let mut bench = Bench::healthy(&site);
            bench.steady = true;
            bench
        };
        let (mut with, mut without) = (steady(), steady());
        let (mut some, mut none) = (Vec::new(), Vec::new());
        for phase in &script {
            for (index, world) in phase.worlds.iter().filter(|(index, _)| matches!(SITE[*index], Efs | Database)) {
                with.set(SITE[*index].clone(), *world);
                without.set(SITE[*index].clone(), *world);
            }
            for second in 0..phase.span {
                let restart = second % every == every - 1;
                for _ in 0..2 {
                    with.step();
                    without.step();
                    some.push(moment(&with, restart.then_some(Act::Restart)));
                    none.push(moment(&without, None));
                }
                if restart {
                    with.restart();
                }
            }
        }
        let slack = 10; // half seconds
        let around = |moments: &[Moment], index: usize, closed: bool| {
            let until = (index + slack).min(moments.len());
            until < index + slack || moments[index.saturating_sub(slack)..until].iter().any(|m| m.region_closed == closed)
        };
        // A dependency that recovers in just that moment resets the hold of one and finds the other closed.
        let recovers = |index: usize| [Efs, Database].iter().all(|d| {
            let until = (index + slack).min(some.len());
            some[index..until].iter().any(|m| m.seen.iter().any(|(c, cause)| c == d && is_failing(*cause) != Some(true)))
        });
        // What is not looked at any more is still believed by one, and unknown to the other, which has just started.
        let unseen = |index: usize| [Efs, Database].iter().any(|d| {
            let around = &none[index.saturating_sub(16)..(index + slack).min(none.len())];
            around.windows(6).any(|some| some.iter().all(|m| m.seen.iter().all(|(c, _)| c != d)))
        });
        for index in closes(&none) {
            prop_assert!(around(&some, index, true) || recovers(index) || unseen(index), "not closed with restarts");
        }
        for index in closes(&some) {
            prop_assert!(around(&none, index, true) || recovers(index), "closed by the restarts alone");
        }
        for index in opens(&some) {
            prop_assert!(around(&none, index, false), "opened by the restarts alone");
        }
    }

    /// In a group of one nothing closes the instance that asks for somebody who can do better.
    #[test]
    fn alone_nothing_closes_that_asks_for_a_peer(script in script(Cast::Alone)) {
        let moments = played(&script);
        let mut proxy_gone = false;
        for m in &moments {
            proxy_gone |= m.seen.iter().any(|(_, cause)| *cause == Some(Cause::EfsProxyGone));
            for closer in &m.closers {
                let may = matches!(closer, Nginx | Host) || (*closer == Efs && proxy_gone);
                prop_assert!(may, "{} closes at {:?}", closer, m.now);
            }
        }
    }
}

// ---- any order of times ----

#[derive(Debug, Clone)]
enum Op {
    Observe(usize, usize, u64),
    Tick,
    Judge(u8),
    Restart,
    At(Duration),
}

fn op() -> impl Strategy<Value = Op> {
    let time = prop_oneof![
        4 => (0_u64..2_000_000).prop_map(Duration::from_millis),
        1 => any::<u64>().prop_map(Duration::from_nanos),
        1 => any::<u64>().prop_map(Duration::from_secs),
        1 => Just(Duration::MAX),
        1 => Just(Duration::ZERO),
    ];
    prop_oneof![
        6 => (0..SITE.len(), 0..=TABLE.len(), any::<u64>()).prop_map(|(c, cause, took)| Op::Observe(c, cause, took)),
        2 => Just(Op::Tick),
        4 => any::<u8>().prop_map(Op::Judge),
        1 => Just(Op::Restart),
        4 => time.prop_map(Op::At),
    ]
}

proptest! {
    #![proptest_config(cases(96))]

    /// The core is total: no order of times, equal, backwards or far apart, and no cause on any component makes it
    /// panic, and what it says is consistent.
    #[test]
    fn any_order_of_times_is_survived(ops in prop::collection::vec(op(), 1..120)) {
        let mut now = at(secs(100));
        let mut doors = Doors::new(Memory::default(), now);
        let mut components: Vec<_> = SITE.into_iter().map(|c| state(c, now)).collect();
        for op in ops {
            match op {
                Op::At(time) => now = at(time),
                Op::Observe(component, cause, took) => {
                    let cause = TABLE.get(cause).map(|row| row.cause);
                    let took = Duration::from_millis(took % 5_000);
                    components[component].apply(observation(SITE[component].clone(), now, took, cause));
                }
                Op::Tick => for component in &mut components {
                    component.tick(now, secs(15));
                },
                Op::Restart => {
                    let (region_closed, holds) = (doors.region_closed(), doors.holds().clone());
                    let kept = Memory { same_boot: true, instance_closed: true, region_closed, promoted: false, holds };
                    doors = Doors::new(kept, now);
                }
                Op::Judge(bits) => {
                    let passing = SITE.into_iter().enumerate().filter(|(n, _)| bits & (1 << n) != 0).map(|(_, c)| c);
                    let group = Group { passing: passing.collect(), can_serve: bits & 32 != 0, ..Group::default() };
                    let mut policy = policy();
                    policy.standby = bits & 64 != 0;
                    let gate_closed = bits & 128 != 0;
                    let inputs = Inputs {
                        components: &components, group: &group, policy: &policy, draining: false, undecided: false, gate_closed, now,
                    };
                    let (instance, region) = doors.judge(&inputs);
                    prop_assert_eq!(region.state == RegionState::Fenced, gate_closed);
                    prop_assert_eq!(instance.state == InstanceState::Closed && instance.reasons.is_empty(), false);
                    for component in &components {
                        let domain = dr_agent::health::verdict::domain(component, &inputs);
                        prop_assert_eq!(domain.is_some(), component.status == Status::Unhealthy);
                        prop_assert_eq!(component.finding.is_none(),
                            matches!(component.status, Status::Healthy | Status::Starting));
                    }
                }
            }
        }
    }

    /// Law 2 and the shape of every answer, whatever the owner is fed: `pass` only for what is known to be well and
    /// fresh, generations only rise, the state survives its file.
    #[test]
    fn unknown_or_stale_never_passes(
        ops in prop::collection::vec((0_usize..8, 0..=TABLE.len(), 0_u64..20_000), 1..150)
    ) {
        let mut agent = Agent::first(config());
        let mut generation = 0;
        for (kind, cause, wait) in ops {
            let cause = TABLE.get(cause).map(|row| row.cause);
            match kind {
                0 | 1 => _ = agent.see(&Nginx, None, Facts::None),
                2 => _ = agent.see(&Database, None, Facts::None),
                3 => _ = agent.see(&Database, cause, Facts::None),
                4 => _ = agent.see(&Host, None, Facts::None),
                5 => agent.now = agent.now + Duration::from_millis(wait),
                6 => agent.take(Input::Gate { closed: wait % 2 == 0 }),
                _ => {
                    let mut config = config();
                    if wait % 3 == 0 {
                        config.database = None;
                    }
                    agent.take(Input::Reconfigured(Arc::new(config), about()));
                }
            }
            let snapshot = agent.owner.publish(agent.now, Timestamp::UNIX_EPOCH);
            prop_assert!(snapshot.generation > generation);
            generation = snapshot.generation;
            let text = serde_json::to_string(&*snapshot.state).unwrap();
            prop_assert_eq!(&serde_json::from_str::<State>(&text).unwrap(), &*snapshot.state);
            for question in Question::ALL {
                for age in [Duration::ZERO, secs(9), secs(11)] {
                    let now = snapshot.taken + age;
                    let answer = answer::respond(&snapshot, question, now);
                    prop_assert!(answer.body.len() < 5_120);
                    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                    prop_assert_eq!(body["ok"].as_bool(), Some(answer.ok));
                    prop_assert_eq!(body["status"] == "fail", !answer.ok);
                    if body["status"] != "pass" || question == Question::Live {
                        continue;
                    }
                    prop_assert!(age <= secs(10));
                    for (component, _) in &snapshot.components {
                        let fresh = component.observed.is_some_and(|seen| {
                            snapshot.taken.since(seen) <= component.schedule.stale_after()
                        });
                        prop_assert!(fresh && component.status == Status::Healthy, "{:?}", component);
                    }
                }
            }
        }
    }
}

/// The generators reach what the laws are about: a law over histories in which nothing closes proves nothing.
#[test]
fn the_generators_reach_what_the_laws_are_about() {
    let mut runner = TestRunner::deterministic();
    let scripts = script(Cast::Everybody);
    let (mut by_dependency, mut by_capacity, mut opened) = (0, 0, 0);
    let (mut instance_closed, mut instance_opened, mut in_a_hold, mut while_closed, mut unknown) = (0, 0, 0, 0, 0);
    for _ in 0..100 {
        let script = scripts.new_tree(&mut runner).expect("a script").current();
        let moments = played(&script);
        for index in closes(&moments) {
            match closing_hold(&moments, index) {
                Efs | Database => by_dependency += 1,
                _ => by_capacity += 1,
            }
        }
        opened += opens(&moments).count();
        for pair in moments.windows(2) {
            let closed = |m: &Moment| m.instance == InstanceState::Closed;
            instance_closed += u32::from(!closed(&pair[0]) && closed(&pair[1]));
            instance_opened += u32::from(closed(&pair[0]) && !closed(&pair[1]));
            if matches!(pair[1].act, Some(Act::Restart)) {
                let failing = |d: &Component| pair[0].statuses.get(d) == Some(&Status::Unhealthy);
                in_a_hold += u32::from(failing(&Efs) || failing(&Database));
                while_closed += u32::from(pair[0].region_closed);
            }
            unknown += u32::from(pair[1].region_closed && pair[1].statuses.values().any(|s| *s == Status::Unknown));
        }
    }
    let reached = [
        ("regions closed by a dependency", by_dependency, 15),
        ("regions closed for want of capacity", by_capacity, 10),
        ("instances closed", instance_closed, 40),
        ("instances opened", instance_opened, 20),
        ("restarts while a dependency failed", in_a_hold, 15),
        ("restarts of a closed region", while_closed, 10),
        ("moments in which a closed region had something unknown", unknown, 1_000),
        ("regions opened", u32::try_from(opened).expect("few"), 8),
    ];
    println!("{reached:#?}");
    for (what, count, least) in reached {
        assert!(count >= least, "{what}: only {count}");
    }
}

/// Every cause that asks for a peer is one of the site's or a dependency's: the law above covers them all.
#[test]
fn only_app_and_dependencies_ask_for_a_peer() {
    for row in TABLE.iter().filter(|row| row.instance == OnInstance::ClosesIfPeerPasses) {
        let of = row.name.split('-').next();
        assert!(matches!(of, Some("app" | "efs" | "database" | "drill")), "{}", row.name);
    }
    let mut bench = Bench::healthy(&SITE);
    bench.set(Efs, World::Silent);
    bench.run(secs(30));
    assert!(bench.serves());
}
