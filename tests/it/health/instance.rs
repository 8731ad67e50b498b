//! The instance's door, and both doors against every row of the cause table.

use dr_agent::health::cause::{Cause, OnInstance, OnRegion, Status, TABLE};
use dr_agent::health::verdict::{Domain, Group, InstanceState, Memory, RegionState};
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
        // `database`; and what may be anything's, which on a dependency could do the most.
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
fn one_late_answer_after_a_restart_or_a_reload_closes_nothing_that_was_open() {
    let mut restarted = Bench::resumed(&[Nginx, Efs], Memory { same_boot: true, ..Memory::default() });
    let mut reloaded = Bench::healthy(&[Nginx, Efs]);
    reloaded.retarget(&Nginx, "another page");
    for bench in [&mut restarted, &mut reloaded] {
        bench.observe(&Nginx, Some(Cause::NginxTimeout));
        assert_eq!((bench.status(&Nginx), bench.serves()), (Status::Unhealthy, true));
        // Nor does it that passes next, nor the failure after that.
        for cause in [None, Some(Cause::NginxTimeout)] {
            bench.observe(&Nginx, cause);
            assert_eq!((bench.status(&Nginx), bench.serves()), (Status::Unhealthy, true), "{cause:?}");
        }
        bench.fail(Nginx, Cause::NginxTimeout);
        let closes = bench.run_until(secs(10), |bench| !bench.serves());
        assert_eq!(closes, Some(millis(500)), "it closes by `fall`, at the pace of something that may be falling");
    }
    // What this machine sees of itself is never late.
    for (component, cause) in [(Host, Cause::DiskFull), (Wiring, Cause::WiringFenceOpen)] {
        let mut bench = Bench::resumed(&[Nginx, component.clone()], Memory { same_boot: true, ..Memory::default() });
        bench.observe(&component, Some(cause));
        assert!(!bench.serves(), "{}", cause.name());
    }
    // A hang was waited for, and a new boot has nothing to keep open.
    let mut bench = Bench::resumed(&[Nginx, Efs], Memory { same_boot: true, ..Memory::default() });
    bench.peer_passes(&[Efs]);
    bench.observe(&Efs, Some(Cause::EfsHung));
    assert!(!bench.serves());
    let mut bench = Bench::booted(&[Nginx]);
    bench.observe(&Nginx, Some(Cause::NginxTimeout));
    assert_eq!(bench.instance.state, InstanceState::Closed);
}

#[test]
fn an_instance_that_was_never_set_up_and_can_ask_nobody_is_no_black_hole() {
    let deaf = || {
        let mut bench = Bench::booted(&[Nginx, Efs]);
        bench.group.is_deaf = true;
        bench
    };
    let mut bench = deaf();
    bench.fail(Efs, Cause::EfsNotMounted);
    bench.run(secs(20));
    assert!(!bench.serves(), "others may have it, and nobody can say so");
    bench.pass(Efs);
    bench.run(secs(20));
    assert!(bench.serves());
    bench.fail(Efs, Cause::EfsHung);
    bench.run(LONG);
    assert!(bench.serves(), "it worked once: then it is rather everybody's");
    let mut bench = deaf();
    bench.group.is_deaf = false;
    bench.fail(Efs, Cause::EfsNotMounted);
    bench.run(secs(20));
    assert!(bench.serves(), "where there is nobody else");
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
fn what_everybody_has_keeps_nobody_closed_but_a_dead_web_server() {
    for (component, cause, opens) in
        [(Efs, Cause::EfsHung, true), (Database, Cause::DatabaseTimeout, true), (Nginx, Cause::NginxMasterGone, false)]
    {
        let mut bench = Bench::healthy(&[Nginx, Efs, Database]);
        bench.peer_passes(std::slice::from_ref(&component));
        bench.fail(component.clone(), cause);
        bench.run(secs(10));
        assert!(!bench.serves());
        bench.group = Group { nobody_well: [component.clone()].into(), ..Group::default() };
        bench.judge();
        assert_eq!(bench.serves(), opens, "{component}");
    }
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

#[test]
fn a_marker_from_another_boot_closes_nothing() {
    let memory = Memory { instance_closed: true, ..Memory::default() };
    let mut bench = Bench::resumed(&[Nginx], memory);
    bench.observe(&Nginx, None);
    assert_eq!(bench.instance.state, InstanceState::Serving);
}
