//! Conditions of the verdicts that no incident showed: each test was written because the code lived without one.

use std::collections::BTreeMap;

use dr_agent::health::cause::{Cause, Status};
use dr_agent::health::verdict::{Domain, Group, Memory};
use dr_agent::observation::Component::{App, Database, Efs, Host, Nginx};
use dr_agent::outputs::markers::{Markers, wanted};

use super::bench::{Bench, World, secs};
use super::owner::{Agent, config, well};

/// Longer than any hold and any rise.
const LONG: std::time::Duration = secs(400);

const CLOSED: Memory =
    Memory { same_boot: true, instance_closed: false, region_closed: true, promoted: false, holds: BTreeMap::new() };

#[test]
fn a_region_that_becomes_standby_forgets_its_holds() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(100));
    assert_eq!(bench.region.holds.len(), 1);
    bench.policy.standby = true;
    bench.step();
    assert_eq!(bench.region.holds, []);
    bench.policy.standby = false;
    bench.run(secs(100));
    assert!(bench.open(), "the hold began anew");
}

#[test]
fn a_region_that_nobody_knows_closes_for_no_dependency_until_it_is_known() {
    let mut bench = Bench::healthy(&[Nginx, Efs]);
    bench.policy.partial = true;
    bench.fail(Efs, Cause::EfsHung);
    bench.run(secs(120));
    assert!(bench.open(), "it may be the standby, which never closes for one");
    bench.policy.partial = false;
    bench.step();
    assert!(!bench.open(), "the hold has run meanwhile");
}

#[test]
fn an_instance_that_never_could_serve_opens_no_region() {
    let mut bench = Bench::resumed(&[Nginx, Host], CLOSED);
    bench.fail(Host, Cause::DiskFull);
    bench.run(LONG);
    assert!(!bench.open());
    bench.pass(Host);
    bench.run(LONG);
    assert!(bench.open());
}

#[test]
fn a_database_that_came_back_read_only_lets_the_region_open() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(200));
    assert!(!bench.open());
    bench.fail(Database, Cause::DatabaseReadOnly);
    bench.run(LONG);
    assert!(bench.open(), "which of the two writes is a matter of role");
}

#[test]
fn one_known_fault_explains_a_failure_whatever_else_is_unknown() {
    let mut bench = Bench::resumed(&[Nginx, Efs, Database], CLOSED);
    bench.group = Group { passing: [Efs].into(), can_serve: false, ..Group::default() };
    bench.set(Efs, World::Silent);
    bench.fail(Database, Cause::DatabaseReadOnly);
    bench.fail(Nginx, Cause::NginxBadStatus);
    bench.run(LONG);
    assert_eq!((bench.status(&Nginx), bench.status(&Efs)), (Status::Unhealthy, Status::Unknown));
    assert!(bench.open(), "a masked failure counts as one that can serve");
}

#[test]
fn an_app_that_nobody_can_see_for_the_gate_keeps_no_region_closed() {
    let mut bench = Bench::resumed(&[Nginx, App], CLOSED);
    bench.gate_closed = true;
    bench.set(App, World::Silent);
    bench.run(LONG);
    assert_eq!(bench.status(&App), Status::Unknown);
    assert!(!bench.memory().region_closed);
}

#[test]
fn a_dependency_that_has_just_passed_again_is_nobodys_fault() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.run(secs(30));
    assert_eq!(bench.domain(&Database), Some(Domain::Shared));
    bench.observe(&Database, None);
    assert_eq!(bench.status(&Database), Status::Unhealthy, "it has not risen");
    assert_ne!(bench.domain(&Database), Some(Domain::Shared));
}

#[test]
fn the_instance_marker_stands_only_for_what_another_member_can_do_better_or_did_before() {
    let closed = |snapshot: &_| wanted(snapshot).instance_closed;

    // In a group of one nobody else can serve, so an agent that is gone must not keep it closed.
    let (mut agent, _) = well();
    let mut snapshot = agent.run(60, &[(Host, Cause::DiskFull)]);
    assert!(!snapshot.instance.state.is_ok());
    assert!(!closed(&snapshot));
    snapshot.group.can_serve = true;
    assert!(closed(&snapshot));
    snapshot.group.can_serve = false;
    snapshot.instance_resumed = true;
    assert!(closed(&snapshot), "until it is known who else can serve, the marker stays");

    // While nginx is at fault nobody reads the marker, and when it is read the fault is over.
    let (mut agent, _) = well();
    let mut snapshot = agent.run(60, &[(Nginx, Cause::NginxRefused)]);
    assert!(!snapshot.instance.state.is_ok());
    snapshot.group.can_serve = true;
    assert!(!closed(&snapshot));

    // `starting` is of this boot and over in seconds; a crash in it must leave nothing.
    let mut agent = Agent::first(config());
    let mut snapshot = agent.run(2, &[(Host, Cause::DiskFull)]);
    snapshot.group.can_serve = true;
    snapshot.instance.state = dr_agent::health::verdict::InstanceState::Starting;
    assert_eq!(wanted(&snapshot), Markers::default());
}
