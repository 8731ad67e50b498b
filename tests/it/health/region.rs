//! The region's door.

use dr_agent::health::cause::{Cause, Status};
use dr_agent::health::verdict::{Domain, Group, HoldOn, Memory, Policy, RegionState};
use dr_agent::observation::Component::{App, Database, Efs, Host, Nginx};

use super::bench::{Bench, World, millis, policy, secs};

/// Longer than any hold and any rise.
const LONG: std::time::Duration = secs(400);

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
fn what_kept_the_server_from_being_asked_says_nothing_of_it() {
    for cause in [Cause::DatabaseNoPassword, Cause::DatabaseTlsFile, Cause::DatabaseUnknownHost] {
        let mut bench = Bench::healthy(&[Nginx, Database]);
        bench.fail(Database, Cause::DatabaseRefused);
        bench.run(secs(30));
        let since = bench.region.holds[0].since;
        bench.fail(Database, cause);
        bench.run(secs(600));
        assert_eq!(bench.status(&Database), Status::Degraded);
        assert_eq!(bench.region.holds.first().map(|hold| hold.since), Some(since), "{cause}: the hold stands");
        assert!(bench.open(), "{cause} closes nothing");
        bench.fail(Database, Cause::DatabaseRefused);
        bench.run(secs(10));
        assert!(!bench.open(), "{cause}: the hold has run");
        bench.fail(Database, cause);
        bench.run(LONG);
        assert!(!bench.open(), "{cause} opens nothing");
        bench.pass(Database);
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

/// A right that nobody gave the agent, for months, and then no nginx runs.
#[test]
fn a_dependency_that_refuses_explains_the_app_and_no_web_server() {
    for (dependency, refuses) in [(Efs, Cause::EfsNoPermission), (Database, Cause::DatabaseAccessDenied)] {
        let mut bench = Bench::healthy(&[Nginx, App, dependency.clone()]);
        bench.fail(dependency, refuses);
        bench.run(secs(300));
        bench.fail(App, Cause::AppBadStatus);
        bench.run(LONG);
        assert_eq!(bench.domain(&App), Some(Domain::Undetermined));
        assert!(bench.open(), "{refuses}: the app may fail for the same reason, and the other region with it");
        bench.fail(Nginx, Cause::NginxTimeout);
        assert!(bench.run_until(LONG, |b| !b.open()).is_some(), "{refuses}");
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

/// The agent starts on the built-in defaults because its file is bad: what it does not watch any more may still fail.
#[test]
fn a_partial_configuration_opens_nothing_that_was_closed() {
    let mut bench = Bench::healthy(&[Nginx, Efs]);
    bench.fail(Efs, Cause::EfsHung);
    bench.run(secs(120));
    assert_eq!(bench.region.state, RegionState::Closed);
    bench.policy.partial = true;
    bench.remove(&Efs);
    bench.run(LONG);
    assert_eq!(bench.region.state, RegionState::Closed);
    assert!(bench.region.holds.iter().any(|hold| hold.on == HoldOn::Efs), "the hold is kept");
    bench.policy.partial = false;
    bench.run(LONG);
    assert_eq!(bench.region.state, RegionState::Open);
}

#[test]
fn an_instance_resumed_closed_under_a_partial_configuration_stays_closed() {
    let memory = Memory { same_boot: true, instance_closed: true, ..Memory::default() };
    let mut bench = Bench::resumed_under(Policy { partial: true, ..policy() }, &[Nginx, Host], memory);
    bench.run(LONG);
    assert!(!bench.serves());
    bench.policy.partial = false;
    bench.run(LONG);
    assert!(bench.serves());
}

/// The mount hangs, the region is closed, and then the mount's TLS proxy dies as well: that is no sign of health.
#[test]
fn a_lost_proxy_opens_no_region_that_a_hang_closed() {
    let mut bench = Bench::healthy(&[Nginx, Efs]);
    bench.fail(Efs, Cause::EfsHung);
    bench.run(secs(120));
    bench.fail(Efs, Cause::EfsProxyGone);
    bench.run(LONG);
    assert_eq!(bench.region.state, RegionState::Closed);
}
