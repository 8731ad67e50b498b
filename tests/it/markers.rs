use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use dr_agent::clock::BootTime;
use dr_agent::health::cause::{Cause, Status};
use dr_agent::health::verdict::InstanceState;
use dr_agent::input::Input;
use dr_agent::latches::{self, Kind, Latch};
use dr_agent::observation::{Component, Facts, Finding, Observation, Outcome};
use dr_agent::outputs::markers;

use crate::support::eventually;
use crate::support::served::Served;
use crate::support::site::Scratch;

fn seen(component: Component, cause: Option<Cause>) -> Observation {
    let outcome = cause.map_or(Outcome::Pass, |cause| Outcome::Fail(Finding::new(cause, "by the test")));
    let began = BootTime::now();
    Observation { component, began, took: Duration::ZERO, outcome, stages: vec![], facts: Facts::None }
}

fn is_true(is: bool) -> Result<(), &'static str> {
    is.then_some(()).ok_or("not yet")
}

/// Latches a drain as the owner gets it from the files.
fn drain(agent: &Served, scratch: &Scratch, is_set: bool) {
    if is_set {
        let boot = agent.snapshot().about.boot.clone();
        let at = dr_agent::clock::wall();
        let latch = Latch {
            kind: Kind::Drain,
            reason: "test".into(),
            by: "test".into(),
            at,
            until: None,
            until_boot: None,
            boot,
            drill: None,
        };
        latches::set(&scratch.state(), &latch).unwrap();
    } else {
        latches::clear(&scratch.state(), Kind::Drain).unwrap();
    }
    let boot = agent.snapshot().about.boot.clone();
    let (latches, _) =
        latches::read(&scratch.state(), &boot, BootTime::now(), dr_agent::clock::wall(), &latches::Latches::default());
    agent.inputs.blocking_send(Input::Latches(latches)).unwrap();
}

#[test]
fn setting_a_marker_is_a_rename_so_a_full_disk_cannot_stop_it() {
    let scratch = Scratch::new();
    let agent = Served::start(&scratch);
    let off = scratch.state().join("off/draining");
    eventually("markers are made beforehand", || is_true(off.exists()));
    let number = fs::metadata(&off).unwrap().ino();
    for _ in 0..3 {
        drain(&agent, &scratch, true);
        eventually("it is set", || is_true(scratch.has("draining")));
        assert_eq!(fs::metadata(scratch.markers().join("draining")).unwrap().ino(), number);
        drain(&agent, &scratch, false);
        eventually("it is cleared", || is_true(!scratch.has("draining")));
        assert_eq!(fs::metadata(&off).unwrap().ino(), number);
    }
    for folder in ["public", "off"] {
        let mode = fs::metadata(scratch.state().join(folder)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o755, "nginx's user looks into it");
    }
}

#[test]
fn the_fence_is_seen_and_left_alone_and_what_was_changed_by_hand_is_put_right() {
    let scratch = Scratch::new();
    let agent = Served::start(&scratch);
    eventually("it runs", || is_true(scratch.state().join("off/promoted").exists()));
    for _ in 0..2 {
        scratch.mark("fenced", true);
        eventually("the gate is closed", || is_true(agent.snapshot().gate_closed));
        assert_eq!(agent.public().get("/health/region").unwrap().status, 503);
        assert_eq!(agent.public().get("/health/instance").unwrap().status, 200);
        assert!(scratch.has("fenced"));
        fs::remove_file(scratch.markers().join("fenced")).unwrap();
        eventually("the gate is open", || is_true(!agent.snapshot().gate_closed));
        assert_eq!(agent.public().get("/health/region").unwrap().status, 200);
    }
    for marker in ["region-closed", "instance-closed", "promoted", "draining"] {
        scratch.mark(marker, true);
        eventually("a marker that says what the agent does not say goes", || is_true(!scratch.has(marker)));
    }
    drain(&agent, &scratch, true);
    eventually("it is set", || is_true(scratch.has("draining")));
    fs::remove_file(scratch.markers().join("draining")).unwrap();
    eventually("it is set again", || is_true(scratch.has("draining")));
}

#[test]
fn a_marker_that_cannot_be_set_makes_the_wiring_unhealthy_and_the_instance_closed() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.state()).unwrap();
    fs::write(scratch.markers(), "a file where the folder belongs").unwrap();
    let agent = Served::start(&scratch);
    let wiring = || {
        let snapshot = agent.snapshot();
        let (wiring, _) = snapshot.components.iter().find(|(c, _)| c.component == Component::Wiring).unwrap();
        (wiring.status, wiring.finding.as_ref().map(|finding| finding.cause))
    };
    // Nothing has to be set yet.
    agent.observe(seen(Component::Wiring, None));
    eventually("the wiring is healthy", || is_true(wiring().0 == Status::Healthy));
    drain(&agent, &scratch, true);
    eventually("the wiring is unhealthy", || is_true(wiring() == (Status::Unhealthy, Some(Cause::WiringMarker))));
    drain(&agent, &scratch, false);
    eventually("the drain is over", || is_true(agent.snapshot().latches.get(Kind::Drain).is_none()));
    assert_eq!(agent.snapshot().instance.state, InstanceState::Closed);
    fs::remove_file(scratch.markers()).unwrap();
    for _ in 0..2 {
        agent.observe(seen(Component::Wiring, None));
    }
    eventually("the instance is open", || is_true(agent.snapshot().instance.state == InstanceState::Serving));
}

#[test]
fn a_closed_instance_keeps_its_marker_through_restarts_until_everything_was_seen_working() {
    let scratch = Scratch::new();
    scratch.mark("instance-closed", true);
    for _ in 0..3 {
        let agent = Served::start(&scratch);
        eventually("its markers are in step", || is_true(scratch.state().join("off/promoted").exists()));
        assert_eq!(agent.snapshot().instance.state, InstanceState::Closed);
        // One pass is not `rise`.
        agent.observe(seen(Component::Nginx, None));
        agent.observe(seen(Component::Host, None));
        agent.observe(seen(Component::Wiring, None));
        eventually("another look", || is_true(agent.snapshot().generation > 5));
        assert_eq!(agent.snapshot().instance.state, InstanceState::Closed);
        assert!(scratch.has("instance-closed"));
    }
    let agent = Served::start(&scratch);
    for _ in 0..2 {
        agent.observe(seen(Component::Nginx, None));
        agent.observe(seen(Component::Host, None));
        agent.observe(seen(Component::Wiring, None));
    }
    eventually("the marker is cleared", || is_true(!scratch.has("instance-closed")));
    eventually("it serves", || is_true(agent.snapshot().instance.state == InstanceState::Serving));
    // A fault of the last instance leaves no marker: it would keep it closed when the agent is gone.
    for _ in 0..2 {
        agent.observe(seen(Component::Host, Some(Cause::DiskFull)));
    }
    eventually("it is closed", || is_true(agent.snapshot().instance.state == InstanceState::Closed));
    assert!(!markers::wanted(&agent.snapshot()).instance_closed);
}

#[test]
fn the_last_change_before_the_end_is_still_written() {
    let scratch = Scratch::new();
    let mut agent = Served::start(&scratch);
    eventually("it runs", || is_true(scratch.state().join("off/draining").exists()));
    drain(&agent, &scratch, true);
    eventually("it is latched", || is_true(agent.snapshot().latches.get(Kind::Drain).is_some()));
    agent.join();
    assert!(scratch.has("draining"));
}
