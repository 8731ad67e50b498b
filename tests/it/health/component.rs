//! One component: rise and fall, causes, staleness, the flap rule.

use dr_agent::clock::BootTime;
use dr_agent::health::cause::{Cause, Status};
use dr_agent::health::component::{ComponentState, Transition};
use dr_agent::observation::{Component, Facts, Finding, NginxFacts, Observation, Outcome};
use std::time::Duration;

use super::bench::{at, millis, observation, secs, state};

/// A component that is observed once a second.
struct One {
    state: ComponentState,
    now: BootTime,
}

impl One {
    fn new(component: Component) -> Self {
        let now = at(secs(100));
        Self { state: state(component, now), now }
    }

    fn healthy(component: Component) -> Self {
        let mut one = Self::new(component);
        one.pass();
        one
    }

    fn see(&mut self, cause: Option<Cause>) -> Option<Transition> {
        self.now = self.now + secs(1);
        self.state.apply(observation(self.state.component.clone(), self.now, Duration::ZERO, cause))
    }

    fn pass(&mut self) -> Status {
        self.see(None);
        self.state.status
    }

    fn fail(&mut self, cause: Cause) -> Status {
        self.see(Some(cause));
        self.state.status
    }

    fn cause(&self) -> Option<Cause> {
        self.state.finding.as_ref().map(|finding| finding.cause)
    }

    fn wait(&mut self, span: Duration) -> Option<Transition> {
        self.now = self.now + span;
        self.state.tick(self.now, secs(15))
    }

    /// Falls and rises once; gives the passes it took to rise.
    fn flap(&mut self) -> u32 {
        while self.fail(Cause::NginxRefused) != Status::Unhealthy {}
        let mut passes = 1;
        while self.pass() == Status::Unhealthy {
            passes += 1;
        }
        passes
    }
}

#[test]
fn the_first_observation_sets_the_status() {
    assert_eq!(One::new(Component::Nginx).pass(), Status::Healthy);
    assert_eq!(One::new(Component::Nginx).fail(Cause::NginxRefused), Status::Unhealthy);
    assert_eq!(One::new(Component::Database).fail(Cause::DatabaseAccessDenied), Status::Degraded);
}

#[test]
fn an_attempt_that_could_not_run_is_no_first_observation() {
    let mut one = One::new(Component::Database);
    assert_eq!(one.fail(Cause::CouldNotRun), Status::Unknown);
    assert_eq!(one.pass(), Status::Healthy);
}

#[test]
fn it_falls_after_fall_failures_in_a_row_and_rises_after_rise_passes() {
    for (component, fall, rise, cause) in [
        (Component::Nginx, 2, 2, Cause::NginxRefused),
        (Component::Database, 3, 3, Cause::DatabaseTimeout),
        (Component::Efs, 2, 3, Cause::EfsIoError),
    ] {
        let mut one = One::healthy(component);
        for _ in 1..fall {
            assert_eq!(one.fail(cause), Status::Healthy);
            assert!(!one.state.is_settled(), "the next attempt comes sooner");
        }
        // One pass in between begins the count again.
        assert_eq!(one.pass(), Status::Healthy);
        assert!(one.state.is_settled());
        for _ in 1..fall {
            assert_eq!(one.fail(cause), Status::Healthy);
        }
        assert_eq!(one.fail(cause), Status::Unhealthy);
        assert!(one.state.is_settled());
        for _ in 1..rise {
            assert_eq!(one.pass(), Status::Unhealthy);
            assert!(!one.state.is_settled());
        }
        assert_eq!(one.pass(), Status::Healthy);
    }
}

#[test]
fn a_hang_of_the_mount_falls_at_once() {
    for cause in [Cause::EfsHung, Cause::EfsServerUnreachable, Cause::EfsProxyGone] {
        let mut one = One::healthy(Component::Efs);
        assert_eq!(one.fail(cause), Status::Unhealthy);
    }
}

#[test]
fn failures_with_different_causes_add_up() {
    let mut one = One::healthy(Component::Database);
    one.fail(Cause::DatabaseRefused);
    one.fail(Cause::DatabaseTimeout);
    assert_eq!(one.fail(Cause::DatabaseLost), Status::Unhealthy);
    assert_eq!(one.cause(), Some(Cause::DatabaseLost));
}

#[test]
fn attempts_that_could_not_run_neither_count_nor_begin_the_count_again() {
    let mut one = One::healthy(Component::Database);
    for _ in 0..2 {
        assert_eq!(one.fail(Cause::DatabaseRefused), Status::Healthy);
        assert_eq!(one.fail(Cause::CouldNotRun), Status::Healthy);
    }
    assert_eq!(one.fail(Cause::DatabaseRefused), Status::Unhealthy);
    for _ in 0..2 {
        assert_eq!(one.pass(), Status::Unhealthy);
        assert_eq!(one.fail(Cause::CouldNotRun), Status::Unhealthy);
    }
    assert_eq!(one.pass(), Status::Healthy);
}

#[test]
fn a_probe_that_cannot_run_is_unknown_and_comes_back_by_rise_or_fall() {
    let mut one = One::healthy(Component::Nginx);
    one.fail(Cause::CouldNotRun);
    assert_eq!(one.fail(Cause::CouldNotRun), Status::Unknown);
    assert_eq!(one.pass(), Status::Unknown);
    assert_eq!(one.pass(), Status::Healthy);
    one.fail(Cause::CouldNotRun);
    one.fail(Cause::CouldNotRun);
    assert_eq!(one.fail(Cause::NginxRefused), Status::Unknown);
    assert_eq!(one.fail(Cause::NginxRefused), Status::Unhealthy);
}

#[test]
fn half_of_the_answers_being_slow_does_not_keep_it_down() {
    let mut one = One::healthy(Component::Database);
    for _ in 0..3 {
        one.fail(Cause::DatabaseRefused);
    }
    one.pass();
    one.fail(Cause::DatabaseSlow);
    assert_eq!(one.pass(), Status::Healthy);
}

#[test]
fn degraded_comes_by_fall_and_goes_by_rise_and_works_all_the_while() {
    let mut one = One::healthy(Component::Database);
    one.fail(Cause::DatabaseSlow);
    one.fail(Cause::DatabaseSlow);
    assert_eq!(one.fail(Cause::DatabaseSlow), Status::Degraded);
    assert_eq!(one.state.last_ok, Some(one.now), "a crossed limit is a pass");
    // Degraded <-> unhealthy.
    one.fail(Cause::DatabaseTimeout);
    one.fail(Cause::DatabaseTimeout);
    assert_eq!(one.fail(Cause::DatabaseTimeout), Status::Unhealthy);
    one.fail(Cause::DatabaseSlow);
    one.fail(Cause::DatabaseSlow);
    assert_eq!(one.fail(Cause::DatabaseSlow), Status::Degraded);
    one.pass();
    one.pass();
    assert_eq!(one.pass(), Status::Healthy);
    assert_eq!(one.cause(), None);
}

#[test]
fn a_new_cause_within_the_status_is_one_transition_and_two_that_alternate_are_none() {
    let mut one = One::healthy(Component::App);
    one.fail(Cause::AppTimeout);
    one.fail(Cause::AppTimeout);
    let since = one.state.since;
    assert_eq!(one.see(Some(Cause::AppBadStatus)), None);
    let change = one.see(Some(Cause::AppBadStatus)).expect("a new cause");
    assert_eq!((change.from, change.to), (Status::Unhealthy, Status::Unhealthy));
    assert_eq!(one.cause(), Some(Cause::AppBadStatus));
    assert_eq!(one.state.since, since, "the status is as old as it was");
    for _ in 0..20 {
        assert_eq!(one.see(Some(Cause::AppTimeout)), None);
        assert_eq!(one.see(Some(Cause::AppBadStatus)), None);
    }
}

#[test]
fn without_a_fresh_observation_it_is_unknown() {
    for component in [Component::Nginx, Component::Efs, Component::Database, Component::Host] {
        for failing in [false, true] {
            let mut one = One::new(component.clone());
            one.see(failing.then_some(Cause::DiskFull));
            let limit = 2 * (one.state.schedule.interval + one.state.schedule.timeout);
            assert_eq!(one.wait(limit), None, "{component} is fresh for two cycles");
            let change = one.wait(millis(1)).expect("stale");
            assert_eq!((change.to, one.cause()), (Status::Unknown, Some(Cause::Stale)));
            assert!(!one.state.is_failing_now() && !one.state.is_working_now());
        }
    }
}

#[test]
fn a_single_pass_after_unknown_gets_stale_as_well() {
    let mut one = One::healthy(Component::Nginx);
    one.wait(secs(60));
    assert_eq!(one.pass(), Status::Unknown);
    assert!(one.state.is_working_now());
    one.wait(secs(60));
    assert!(!one.state.is_working_now(), "law 2: an old pass is no pass");
    assert_eq!(one.pass(), Status::Unknown, "and does not count towards the rise");
    assert_eq!(one.pass(), Status::Healthy);
}

#[test]
fn starting_ends_after_start_limit_whatever_hangs() {
    let mut one = One::new(Component::Efs);
    assert_eq!(one.wait(millis(14_999)), None);
    assert_eq!(one.state.status, Status::Starting);
    assert_eq!(one.wait(millis(1)).expect("the limit").to, Status::Unknown);
    assert_eq!(one.pass(), Status::Healthy, "the first observation sets the status, late or not");
}

#[test]
fn after_the_third_fall_in_ten_minutes_rise_doubles_each_time() {
    let mut one = One::healthy(Component::Nginx);
    assert_eq!((one.flap(), one.flap()), (2, 2));
    assert_eq!((one.flap(), one.flap(), one.flap()), (4, 8, 16));
    assert_eq!(one.state.status, Status::Degraded);
    assert_eq!(one.cause(), Some(Cause::Flapping));
}

#[test]
fn the_doubled_rise_asks_for_at_most_a_minute_of_successes() {
    let mut one = One::healthy(Component::Nginx);
    let passes = (0..9).map(|_| one.flap()).max();
    assert_eq!(passes, Some(61), "the first pass begins the minute");
}

#[test]
fn flapping_is_degraded_settled_and_passes() {
    let mut one = One::healthy(Component::Nginx);
    for _ in 0..3 {
        one.flap();
    }
    assert!(one.state.is_flapping(one.now));
    one.pass();
    assert!(one.state.is_settled(), "passes at the normal pace");
    one.now = one.now + secs(600);
    one.pass();
    assert_eq!(one.pass(), Status::Healthy);
    assert_eq!(one.flap(), 2, "ten quiet minutes forget the falls");
}

#[test]
fn silence_between_failures_is_no_fall() {
    let mut one = One::healthy(Component::Nginx);
    for _ in 0..5 {
        one.fail(Cause::NginxRefused);
        one.fail(Cause::NginxRefused);
        one.wait(secs(60));
        assert_eq!(one.state.status, Status::Unknown);
    }
    assert!(!one.state.is_flapping(one.now));
    one.pass();
    assert_eq!(one.pass(), Status::Healthy);
}

#[test]
fn only_healthy_was_ever_healthy() {
    let mut one = One::new(Component::Database);
    one.fail(Cause::DatabaseAccessDenied);
    one.fail(Cause::DatabaseRefused);
    assert!(!one.state.ever_healthy);
    for _ in 0..3 {
        one.pass();
    }
    assert!(one.state.ever_healthy);
}

#[test]
fn a_pass_counts_from_its_beginning_and_a_failure_from_its_end() {
    let mut one = state(Component::Nginx, at(secs(100)));
    let mut see = |began, cause| {
        one.apply(observation(Component::Nginx, at(secs(began)), secs(2), cause));
        (one.last_ok, one.last_fail, one.failing_since)
    };
    let t = |second| Some(at(secs(second)));
    assert_eq!(see(100, None), (t(100), None, None));
    assert_eq!(see(110, Some(Cause::NginxRefused)), (t(100), t(112), t(110)));
    assert_eq!(see(120, Some(Cause::NginxTimeout)), (t(100), t(122), t(110)), "since the first of the row");
    assert_eq!(see(130, None), (t(130), t(122), None));
}

#[test]
fn an_attempt_that_ran_ends_the_row_of_those_that_could_not() {
    let mut one = One::healthy(Component::Nginx);
    for _ in 0..3 {
        one.fail(Cause::CouldNotRun);
        assert_eq!(one.pass(), Status::Healthy);
    }
    one.fail(Cause::CouldNotRun);
    one.fail(Cause::NginxRefused);
    assert_eq!(one.fail(Cause::CouldNotRun), Status::Healthy);
}

#[test]
fn a_failed_attempt_replaces_the_facts_only_with_facts() {
    let mut one = state(Component::Nginx, at(secs(100)));
    let mut see = |second, cause, facts: Facts| {
        let observation = observation(Component::Nginx, at(secs(second)), secs(0), cause);
        one.apply(Observation { facts, ..observation });
        one.facts.clone()
    };
    let master = |pid| Facts::Nginx(NginxFacts { master: pid });
    assert_eq!(see(101, None, master(Some(7))), master(Some(7)));
    assert_eq!(see(102, Some(Cause::NginxTimeout), Facts::None), master(Some(7)));
    assert_eq!(see(103, Some(Cause::NginxMasterGone), master(None)), master(None));
    assert_eq!(see(104, None, Facts::None), Facts::None);
}

#[test]
fn a_finding_tells_of_the_newest_attempt_with_its_cause() {
    let mut one = One::healthy(Component::Nginx);
    one.fail(Cause::NginxRefused);
    one.fail(Cause::NginxRefused);
    one.fail(Cause::NginxTimeout);
    let outcome = Outcome::Fail(Finding::new(Cause::NginxRefused, "newer"));
    let observation = observation(Component::Nginx, one.now + secs(1), Duration::ZERO, None);
    one.state.apply(Observation { outcome, ..observation });
    assert_eq!(one.state.finding, Some(Finding::new(Cause::NginxRefused, "newer")));
}

#[test]
fn degraded_takes_fall_and_healthy_again_takes_rise() {
    for (fall, rise) in [(2, 4), (4, 2)] {
        let mut one = One::healthy(Component::Database);
        (one.state.schedule.fall, one.state.schedule.rise) = (fall, rise);
        let mut attempts = 1;
        while one.fail(Cause::DatabaseSlow) != Status::Degraded {
            attempts += 1;
        }
        assert_eq!(attempts, fall);
        attempts = 1;
        while one.pass() != Status::Healthy {
            attempts += 1;
        }
        assert_eq!(attempts, rise);
    }
}

#[test]
fn unknown_begins_the_count_of_failures_again() {
    let mut one = One::healthy(Component::Nginx);
    one.fail(Cause::NginxRefused);
    one.fail(Cause::CouldNotRun);
    assert_eq!(one.fail(Cause::CouldNotRun), Status::Unknown);
    assert_eq!(one.fail(Cause::NginxRefused), Status::Unknown);
    assert_eq!(one.fail(Cause::NginxRefused), Status::Unhealthy);
}

#[test]
fn a_minute_of_successes_is_not_enough_without_rise() {
    let mut one = One::healthy(Component::Nginx);
    one.state.schedule.rise = 3;
    while one.fail(Cause::NginxRefused) != Status::Unhealthy {}
    for expected in [Status::Unhealthy, Status::Unhealthy, Status::Healthy] {
        one.now = one.now + secs(90);
        assert_eq!(one.pass(), expected);
    }
}
