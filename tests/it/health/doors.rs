//! The instance's and the region's door.

use dr_agent::health::cause::{Cause, OnInstance, OnRegion, Status, TABLE};
use dr_agent::health::verdict::{Domain, Group, HoldOn, InstanceState, Memory, RegionState};
use dr_agent::observation::Component::{self, App, Database, Efs, Host, Nginx, Wiring};

use super::bench::{Bench, World, millis, secs};

fn exec() -> Component {
    Component::Exec("queue".into())
}

fn component_of(cause: Cause) -> Component {
    match cause.name().split('-').next() {
        Some("nginx") => Nginx,
        Some("app") => App,
        Some("efs") => Efs,
        Some("disk" | "memory" | "io") => Host,
        Some("exec") => exec(),
        Some("wiring") => Wiring,
        // The database's own, and what may be anything's: on a dependency it could do the most.
        _ => Database,
    }
}

/// Longer than any hold and any rise.
const LONG: std::time::Duration = secs(400);

#[test]
fn every_cause_closes_what_its_row_says_in_a_group_of_one() {
    for row in TABLE {
        let component = component_of(row.cause);
        let mut bench = Bench::healthy(std::slice::from_ref(&component));
        bench.fail(component.clone(), row.cause);
        bench.run(LONG);
        assert_eq!(bench.status(&component), row.status, "{}", row.name);
        assert_eq!(bench.serves(), row.instance != OnInstance::Closes, "{}: instance", row.name);
        let closes = matches!(row.region, OnRegion::Capacity | OnRegion::AfterHold);
        assert_eq!(bench.open(), !closes, "{}: region", row.name);
        bench.pass(component.clone());
        bench.run(LONG);
        assert!(bench.serves() && bench.open(), "{}: what closed opens", row.name);
    }
}

#[test]
fn every_cause_closes_what_its_row_says_while_another_member_can_do_better() {
    for row in TABLE {
        let component = component_of(row.cause);
        let mut bench = Bench::healthy(std::slice::from_ref(&component));
        bench.peer_passes(std::slice::from_ref(&component));
        bench.fail(component.clone(), row.cause);
        bench.run(LONG);
        assert_eq!(bench.serves(), row.instance == OnInstance::Keeps, "{}: instance", row.name);
        assert_eq!(bench.region.state, RegionState::Open, "{}: somebody can serve", row.name);
        assert_eq!(bench.region.holds, [], "{}", row.name);
    }
}

// ---- instance ----

#[test]
fn a_new_boot_answers_starting_until_everything_was_observed_and_at_most_for_start_limit() {
    let mut bench = Bench::booted(&[Nginx, Efs]);
    assert_eq!(bench.instance.state, InstanceState::Starting);
    bench.observe(&Nginx, None);
    assert_eq!(bench.instance.state, InstanceState::Starting);
    bench.observe(&Efs, None);
    assert_eq!(bench.instance.state, InstanceState::Serving);

    let mut bench = Bench::booted(&[Nginx, Efs]);
    bench.set(Efs, World::Silent);
    bench.run(millis(14_500));
    assert_eq!(bench.instance.state, InstanceState::Starting);
    bench.run(millis(500));
    assert_eq!(bench.instance.state, InstanceState::Serving);
    assert_eq!(bench.status(&Efs), Status::Unknown);
    // Only once: what becomes unobserved later is unknown, not starting.
    bench.set(Nginx, World::Silent);
    bench.run(LONG);
    assert_eq!(bench.instance.state, InstanceState::Serving);
}

#[test]
fn a_reload_does_not_make_starting_last_longer() {
    let mut bench = Bench::booted(&[Nginx, Efs]);
    bench.set(Efs, World::Silent);
    bench.run(secs(10));
    bench.retarget(&Efs, "fs-fedcba98");
    bench.run(secs(5));
    assert_eq!(bench.status(&Efs), Status::Starting);
    assert_eq!(bench.instance.state, InstanceState::Serving);
}

#[test]
fn an_agent_that_starts_again_in_the_same_boot_is_never_starting() {
    let bench = Bench::resumed(&[Nginx, Efs], Memory { same_boot: true, ..Memory::default() });
    assert_eq!(bench.instance.state, InstanceState::Serving);
}

#[test]
fn draining_comes_before_starting_and_closed_and_hides_nothing() {
    let mut bench = Bench::booted(&[Nginx]);
    bench.draining = true;
    bench.judge();
    assert_eq!(bench.instance.state, InstanceState::Draining);
    bench.fail(Nginx, Cause::NginxRefused);
    bench.run(secs(10));
    assert_eq!(bench.instance.state, InstanceState::Draining);
    assert_eq!(bench.instance.reasons.len(), 1, "what closes it by the table is said all the same");
    bench.draining = false;
    bench.judge();
    assert_eq!(bench.instance.state, InstanceState::Closed);
    assert!(bench.region.state.is_ok(), "a drain is nothing to the region");
}

#[test]
fn a_resumed_instance_opens_when_each_that_could_have_closed_it_has_passed_rise_times() {
    let memory = Memory { same_boot: true, instance_closed: true, ..Memory::default() };
    let mut bench = Bench::resumed(&[Nginx, Database, exec()], memory);
    bench.set(exec(), World::Fails(Cause::CouldNotRun));
    assert_eq!(bench.instance.state, InstanceState::Closed);
    bench.observe(&Nginx, None);
    bench.observe(&Nginx, None);
    bench.observe(&Database, None);
    bench.observe(&Database, None);
    assert_eq!(bench.status(&Database), Status::Healthy, "the first observation sets the status");
    assert_eq!(bench.instance.state, InstanceState::Closed, "and opens nothing");
    bench.observe(&Database, None);
    assert_eq!(bench.instance.state, InstanceState::Serving, "a custom probe closes nothing and keeps nothing closed");
}

#[test]
fn unknown_opens_no_instance_and_closes_none() {
    let mut bench = Bench::healthy(&[Nginx, Host]);
    bench.set(Host, World::Silent);
    bench.run(LONG);
    assert_eq!((bench.status(&Host), bench.serves()), (Status::Unknown, true));
    bench.fail(Nginx, Cause::NginxTimeout);
    bench.run(secs(10));
    assert!(!bench.serves());
    bench.set(Nginx, World::Silent);
    bench.run(LONG);
    assert_eq!((bench.status(&Nginx), bench.serves()), (Status::Unknown, false));
    bench.fail(Nginx, Cause::CouldNotRun);
    bench.run(LONG);
    assert!(!bench.serves());
    bench.pass(Nginx);
    bench.run(secs(5));
    assert!(bench.serves());
}

#[test]
fn a_component_that_leaves_the_configuration_frees_the_instance() {
    let mut bench = Bench::healthy(&[Nginx, Host]);
    bench.fail(Host, Cause::DiskFull);
    bench.run(secs(30));
    assert!(!bench.serves());
    bench.remove(&Host);
    assert!(bench.serves());
}

#[test]
fn a_new_target_frees_nothing_until_it_is_seen_working() {
    let mut bench = Bench::healthy(&[Nginx, Host]);
    bench.fail(Nginx, Cause::NginxRefused);
    bench.run(secs(30));
    bench.retarget(&Nginx, "http://127.0.0.1:81/health/nginx");
    assert!(!bench.serves());
    bench.pass(Nginx);
    bench.run(secs(5));
    assert!(bench.serves());
}

#[test]
fn a_recovery_convicts_nobody() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseTimeout);
    bench.run(secs(30));
    assert!(bench.serves(), "nobody can do better");
    // It recovers: one pass, the status is still unhealthy, and the other member passes already.
    bench.observe(&Database, None);
    bench.peer_passes(&[Database]);
    bench.judge();
    assert_eq!(bench.status(&Database), Status::Unhealthy);
    assert!(bench.serves());
}

#[test]
fn what_closed_while_a_peer_passed_stays_closed_when_the_peer_fails_too() {
    let mut bench = Bench::healthy(&[Nginx, Efs]);
    bench.peer_passes(&[Efs]);
    bench.fail(Efs, Cause::EfsHung);
    bench.run(secs(10));
    assert!(!bench.serves());
    bench.group = Group::default();
    bench.run(secs(10));
    assert!(!bench.serves(), "silence opens nothing");
}

#[test]
fn while_the_gate_is_closed_the_app_is_undetermined_and_closes_nothing() {
    let mut bench = Bench::healthy(&[Nginx, App]);
    bench.peer_passes(&[App]);
    bench.fail(App, Cause::AppBadStatus);
    bench.run(secs(10));
    assert!(!bench.serves());
    bench.gate_closed = true;
    bench.judge();
    assert!(bench.serves(), "also when it had closed before");
    bench.run(LONG);
    assert!(bench.serves() && bench.instance.can_serve);
    assert_eq!(bench.domain(&App), Some(Domain::Undetermined));
    assert_eq!(bench.region.state, RegionState::Fenced);
    assert_eq!(bench.region.holds, []);
}

// ---- region ----

#[test]
fn a_dependency_closes_the_region_when_its_hold_has_run_since_the_first_failing_observation() {
    for (component, cause, hold) in [
        (Database, Cause::DatabaseRefused, secs(150)),
        (Efs, Cause::EfsHung, secs(60)),
        (Efs, Cause::EfsIoError, secs(60)),
    ] {
        let mut bench = Bench::healthy(&[Nginx, component.clone()]);
        bench.fail(component.clone(), cause);
        bench.run_until(secs(10), |b| b.state(&component).is_failing_now()).expect("an attempt");
        assert_eq!(bench.region.holds.len(), 1, "from the first failing observation");
        assert_eq!(bench.region.holds[0].since, bench.now);
        assert_eq!(bench.region.holds[0].due, bench.now + hold);
        assert_eq!(bench.run_until(LONG, |b| !b.open()), Some(hold), "{cause}");
    }
}

#[test]
fn a_hold_also_starts_at_the_first_failure_of_what_was_degraded_before() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseSlow);
    bench.run(secs(60));
    assert_eq!(bench.status(&Database), Status::Degraded);
    bench.observe(&Database, Some(Cause::DatabaseRefused));
    assert_eq!(bench.region.holds.len(), 1);
    bench.observe(&Database, Some(Cause::DatabaseSlow));
    assert_eq!(bench.region.holds, []);
}

#[test]
fn one_healthy_vote_resets_the_hold_whoever_gives_it() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(140));
    bench.observe(&Database, None);
    assert_eq!(bench.region.holds, []);
    bench.run(secs(140));
    bench.peer_passes(&[Database]);
    bench.judge();
    assert_eq!(bench.region.holds, []);
    bench.group = Group::default();
    bench.run(secs(140));
    assert!(bench.open());
    bench.run(secs(20));
    assert!(!bench.open());
}

#[test]
fn unknown_keeps_the_start_of_a_hold_and_lets_nothing_come_due() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(30));
    let since = bench.region.holds[0].since;
    bench.fail(Database, Cause::CouldNotRun);
    bench.run(secs(600));
    assert_eq!(bench.region.holds[0].since, since);
    assert!(bench.open(), "unknown closes nothing");
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(10));
    assert!(!bench.open());
}

#[test]
fn unknown_opens_no_region() {
    for silent in [World::Silent, World::Fails(Cause::CouldNotRun)] {
        let mut bench = Bench::healthy(&[Nginx, Database]);
        bench.fail(Database, Cause::DatabaseRefused);
        bench.run(secs(200));
        bench.set(Database, silent);
        bench.run(LONG);
        assert!(!bench.open());
        // Nor does an nginx of which nothing is known, when nginx closed it.
        let mut bench = Bench::healthy(&[Nginx]);
        bench.fail(Nginx, Cause::NginxTimeout);
        bench.run(secs(100));
        assert!(!bench.open());
        bench.set(Nginx, silent);
        bench.run(LONG);
        assert!(!bench.open());
        bench.pass(Nginx);
        bench.run(secs(70));
        assert!(bench.open());
    }
}

#[test]
fn a_component_never_yet_healthy_closes_no_region() {
    for (component, cause) in [
        (Database, Cause::DatabaseRefused),
        (Efs, Cause::EfsNotMounted),
        (Nginx, Cause::NginxRefused),
        (App, Cause::AppBadStatus),
        (Host, Cause::DiskReadOnly),
    ] {
        let mut bench = Bench::booted(std::slice::from_ref(&component));
        bench.fail(component, cause);
        bench.run(LONG);
        assert_eq!(bench.region.state, RegionState::Open, "{cause}");
        assert_eq!(bench.region.holds, [], "{cause}: nothing is going to happen");
    }
}

#[test]
fn a_component_never_yet_healthy_does_not_open_one_either() {
    let memory = Memory { region_closed: true, ..Memory::default() };
    let mut bench = Bench::resumed(&[Nginx, Database], memory);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(LONG);
    assert_eq!(bench.region.state, RegionState::Closed, "the state file was lost in the middle of an outage");
}

#[test]
fn a_closed_region_opens_after_a_minute_without_a_condition() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(200));
    bench.pass(Database);
    bench.run_until(secs(5), |b| b.region.reopens.is_some()).expect("one pass clears");
    assert_eq!(bench.region.reopens, Some(bench.now + secs(60)));
    bench.run(secs(40));
    bench.observe(&Database, Some(Cause::DatabaseRefused));
    assert_eq!(bench.region.reopens, None, "a failing vote begins the minute again");
    bench.observe(&Database, None);
    assert_eq!(bench.run_until(secs(100), Bench::open), Some(secs(60)));
    assert_eq!(bench.region.reopens, None);
}

#[test]
fn the_first_observation_after_a_restart_closes_no_region_however_long_the_hold() {
    for (component, cause, on) in
        [(Database, Cause::DatabaseRefused, HoldOn::Database), (Nginx, Cause::NginxRefused, HoldOn::Capacity)]
    {
        let mut bench = Bench::healthy(std::slice::from_ref(&component));
        bench.fail(component.clone(), cause);
        bench.run(secs(30));
        bench.restart();
        bench.now = bench.now + secs(500);
        bench.observe(&component, Some(cause));
        assert_eq!(bench.region.holds[0].on, on);
        assert!(bench.open());
        bench.observe(&component, Some(cause));
        assert!(!bench.open(), "the hold ran on");
    }
}

#[test]
fn a_restart_in_the_middle_of_a_hold_keeps_its_start() {
    for (component, cause, hold) in [
        (Database, Cause::DatabaseRefused, secs(150)),
        (Efs, Cause::EfsHung, secs(60)),
        // The capacity rule begins when the status falls, one more fast attempt after the first.
        (Nginx, Cause::NginxRefused, secs(60)),
        (App, Cause::AppTimeout, secs(60)),
    ] {
        let mut bench = Bench::healthy(&[component.clone(), Host]);
        bench.fail(component, cause);
        bench.run_until(secs(10), |b| !b.region.holds.is_empty()).expect("a hold");
        let since = bench.region.holds[0].since;
        for _ in 0..5 {
            bench.run(secs(9));
            bench.restart();
            assert_eq!(bench.region.holds[0].since, since, "{cause}");
        }
        bench.run_until(LONG, |b| !b.open()).expect("closed");
        assert_eq!(bench.now, since + hold, "{cause}");
    }
}

#[test]
fn a_restart_before_the_dependency_was_seen_again_keeps_the_capacity_hold() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Nginx, Cause::NginxTimeout);
    bench.run(secs(50));
    let since = bench.region.holds[0].since;
    bench.restart();
    bench.set(Database, World::Silent);
    bench.run(secs(5));
    assert_eq!(bench.region.holds[0].since, since, "a database of which nothing is known explains nothing yet");
    bench.pass(Database);
    bench.run(secs(10));
    assert!(!bench.open());
}

#[test]
fn a_closed_region_stays_closed_across_restarts_and_boots_until_its_rule_opens_it() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(200));
    for _ in 0..20 {
        bench.restart();
        assert!(!bench.open());
        bench.run(secs(7));
        assert!(!bench.open());
    }
    let after_boot = Memory { region_closed: true, ..Memory::default() };
    let mut bench = Bench::resumed(&[Nginx, Database], after_boot);
    assert!(!bench.open());
    assert_eq!(bench.run_until(LONG, Bench::open), Some(millis(60_500)), "all was observed in the first step");
}

#[test]
fn after_a_boot_a_dependency_that_nobody_could_ask_opens_nothing() {
    for silent in [World::Silent, World::Fails(Cause::CouldNotRun)] {
        let mut bench = Bench::resumed(&[Nginx, Efs], Memory { region_closed: true, ..Memory::default() });
        bench.set(Efs, silent);
        bench.run(LONG);
        assert!(!bench.open());
        bench.pass(Efs);
        bench.run(secs(70));
        assert!(bench.open());
    }
}

#[test]
fn holds_of_another_boot_mean_nothing() {
    let holds = [(HoldOn::Database, super::bench::at(secs(1)))].into();
    let bench = Bench::resumed(&[Nginx, Database], Memory { holds, ..Memory::default() });
    assert_eq!(bench.region.holds, []);
}

#[test]
fn a_standby_never_vetoes_itself_for_a_dependency() {
    let mut bench = Bench::healthy(&[Nginx, Database, Efs]);
    bench.policy.standby = true;
    bench.fail(Database, Cause::DatabaseRefused);
    bench.fail(Efs, Cause::EfsNotMounted);
    bench.run(LONG);
    assert_eq!(bench.region.state, RegionState::Standby);
    assert_eq!(bench.region.holds, []);
    bench.fail(Nginx, Cause::NginxMasterGone);
    bench.run(secs(100));
    assert_eq!(bench.region.state, RegionState::Closed, "nothing here can serve a page");
    bench.gate_closed = true;
    bench.judge();
    assert_eq!(bench.region.state, RegionState::Fenced);
}

#[test]
fn the_capacity_rule_closes_when_nobody_in_the_group_can_serve() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Nginx, Cause::NginxTimeout);
    bench.run_until(secs(10), |b| !b.instance.can_serve).expect("fallen");
    let fell = bench.now;
    bench.run(secs(50));
    bench.group.can_serve = true;
    bench.judge();
    assert_eq!(bench.region.holds, [], "another member can");
    bench.group.can_serve = false;
    bench.judge();
    let since = bench.now;
    bench.run_until(LONG, |b| !b.open()).expect("closed");
    assert_eq!(bench.now, since + secs(60));
    assert!(since > fell);
    bench.group.can_serve = true;
    bench.run(secs(61));
    assert!(bench.open());
}

#[test]
fn masked_failures_count_as_can_serve() {
    for (component, cause) in [(Nginx, Cause::NginxTimeout), (App, Cause::AppTimeout), (Host, Cause::DiskReadOnly)] {
        let mut bench = Bench::healthy(&[component.clone(), Database]);
        bench.fail(Database, Cause::DatabaseSlow);
        bench.run(secs(30));
        bench.fail(component.clone(), cause);
        bench.run(LONG);
        assert_eq!(bench.domain(&component), Some(Domain::Undetermined));
        assert!(bench.instance.can_serve && bench.open(), "{cause}");
        // Its mask lasts a minute longer than the dependency's trouble.
        bench.pass(Database);
        bench.run_until(secs(30), |b| b.status(&Database) == Status::Healthy).expect("recovery");
        assert_eq!(bench.run_until(LONG, |b| !b.instance.can_serve), Some(secs(60)), "{cause}");
    }
}

#[test]
fn nothing_masks_an_nginx_without_its_master() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.fail(Nginx, Cause::NginxMasterGone);
    bench.run(secs(30));
    assert_eq!(bench.domain(&Nginx), Some(Domain::Local));
    assert!(!bench.instance.can_serve);
}

#[test]
fn an_own_dependency_fault_with_a_healthy_vote_elsewhere_cannot_serve() {
    for cause in [Cause::EfsHung, Cause::EfsProxyGone] {
        let mut bench = Bench::healthy(&[Nginx, Efs]);
        bench.fail(Efs, cause);
        bench.run(secs(20));
        assert!(bench.instance.can_serve, "{cause}: nobody can do better");
        bench.group.passing.insert(Efs);
        bench.judge();
        assert!(!bench.instance.can_serve, "{cause}");
    }
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.group.passing.insert(Database);
    bench.fail(Database, Cause::DatabaseReadOnly);
    bench.run(secs(20));
    assert!(bench.serves() && bench.instance.can_serve, "that one leaves the instance alone");
}

#[test]
fn a_dependency_that_leaves_the_configuration_takes_its_hold_along() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(100));
    bench.remove(&Database);
    assert_eq!(bench.region.holds, []);
    bench.run(LONG);
    assert!(bench.open());
}

#[test]
fn the_gate_overrides_the_region_and_hides_nothing() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.gate_closed = true;
    bench.judge();
    assert_eq!(bench.region.state, RegionState::Fenced);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(200));
    assert!(bench.memory().region_closed, "the door beneath moves on");
    bench.gate_closed = false;
    bench.judge();
    assert_eq!(bench.region.state, RegionState::Closed);
}
