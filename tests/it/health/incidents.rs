//! What happened to others, and to earlier drafts of this agent: each is a test named after it.

use dr_agent::health::cause::{Cause, Class, OnReplacement, Status};
use dr_agent::health::verdict::{Domain, InstanceState, Memory, RegionState};
use dr_agent::observation::Component::{self, App, Database, Efs, Host, Nginx};

use super::bench::{Bench, World, millis, secs};

const SITE: [Component; 5] = [Nginx, App, Efs, Database, Host];

/// Both answers stay 200 for `span`, and nothing is about to change that.
fn stays_in_service(bench: &mut Bench, span: std::time::Duration) {
    let gone = bench.run_until(span, |b| !b.serves() || !b.open() || !b.region.holds.is_empty());
    assert_eq!(gone, None, "{:?} {:?}", bench.instance, bench.region);
}

// slack.engineering, outage of January 4th 2021: instances were "marked unhealthy by our automation because they
// couldn't reach the backends", and replaced.
#[test]
fn slack_2021_backends_unreachable_does_not_blame_nginx() {
    let mut bench = Bench::healthy(&SITE);
    bench.fail(Database, Cause::DatabaseUnreachable);
    bench.fail(App, Cause::AppTimeout);
    bench.run(secs(30));
    assert!(bench.serves(), "nobody can do better: the load balancer keeps it");
    assert_eq!((bench.domain(&Nginx), bench.domain(&App)), (None, Some(Domain::Undetermined)));
    assert_eq!(bench.domain(&Database), Some(Domain::Shared));
    // Even when nginx's workers block on the backends, or the disks stall, nothing is put down to this instance.
    bench.fail(Nginx, Cause::NginxTimeout);
    bench.fail(Host, Cause::IoPressure);
    bench.run(secs(30));
    assert_eq!(bench.domain(&Nginx), Some(Domain::Undetermined));
    assert_eq!(bench.status(&Host), Status::Degraded);
    assert!(bench.components.iter().all(|c| bench.domain(&c.component) != Some(Domain::Local)));
}

// AWS us-east-1, October 2025: checks failed on new instances whose network had not arrived, and failed over.
#[test]
fn aws_2025_network_not_there_yet_on_a_new_instance_flips_no_region() {
    let mut bench = Bench::booted(&SITE);
    bench.fail(Nginx, Cause::NginxRefused);
    bench.fail(App, Cause::AppUnreachable);
    bench.fail(Efs, Cause::EfsServerUnreachable);
    bench.fail(Database, Cause::DatabaseUnreachable);
    bench.run(secs(1_200));
    assert_eq!(bench.region.state, RegionState::Open);
    for component in SITE {
        bench.pass(component);
    }
    bench.run(secs(20));
    assert_eq!(bench.instance.state, InstanceState::Serving);
}

// GitHub, October 2018: 43 seconds without the other coast began a failover that took a day to undo.
#[test]
fn github_2018_a_partition_of_43_seconds_flips_nothing() {
    let mut bench = Bench::healthy(&SITE);
    bench.fail(Database, Cause::DatabaseUnreachable);
    bench.fail(App, Cause::AppTimeout);
    bench.run(secs(43));
    bench.pass(Database);
    bench.pass(App);
    assert_eq!(bench.run_until(secs(600), |b| !b.serves() || !b.open()), None);
}

// GitHub, September 2012: load tripped the database's checks, and failovers went back and forth.
#[test]
fn github_2012_flapping_database_does_not_flap_the_region() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    let mut changes = 0;
    let mut open = bench.open();
    for _ in 0..60 {
        for (world, span) in [(World::Fails(Cause::DatabaseTimeout), 170), (World::Passes, 50)] {
            bench.set(Database, world);
            bench.run(secs(span));
            changes += u32::from(bench.open() != open);
            open = bench.open();
        }
    }
    assert_eq!((changes, open), (1, false), "it closed once and waits for a whole minute of health");
    bench.pass(Database);
    bench.run(secs(61));
    assert!(bench.open());
}

#[test]
fn github_2012_a_database_that_stumbles_for_two_minutes_again_and_again_closes_nothing() {
    let mut bench = Bench::healthy(&[Nginx, Database]);
    for _ in 0..60 {
        bench.fail(Database, Cause::DatabaseTimeout);
        bench.run(secs(120));
        bench.pass(Database);
        bench.run(secs(5));
        assert!(bench.open() && bench.serves());
    }
}

// code.org: full instances answered 503, were replaced, and the rest got fuller; one "was never marked healthy again".
#[test]
fn code_org_full_instances_are_not_ejected_one_after_another() {
    let mut bench = Bench::healthy(&SITE);
    bench.fail(App, Cause::AppBadStatus);
    bench.run(secs(600));
    assert!(bench.serves(), "all are full: taking one out fills the others");
    assert_eq!(Cause::AppBadStatus.row().replacement, OnReplacement::Never);
    bench.peer_passes(&[App]);
    bench.run(secs(2));
    assert!(!bench.serves(), "another one has room");
    bench.pass(App);
    bench.run(secs(5));
    assert!(bench.serves(), "and it is marked healthy again");
}

// rubygems.org, METR/hawk 544, n8n the other way round: a dependency's check on the load balancer's path.
#[test]
fn rubygems_a_shared_database_outage_keeps_every_instance() {
    let mut bench = Bench::healthy(&SITE);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.fail(App, Cause::AppBadStatus);
    assert_eq!(bench.run_until(secs(3_600), |b| !b.serves()), None);
    assert!(!bench.open(), "the region says it, after its hold");
}

// METR/hawk 1012: the check gave up after 2 s, a cold connection took 2.3 s; 12 of 12 answers were false.
#[test]
fn hawk_slow_cold_connect_is_degraded_and_out_of_nobodys_service() {
    let mut bench = Bench::healthy(&SITE);
    bench.fail(Database, Cause::DatabaseSlow);
    stays_in_service(&mut bench, secs(3_600));
    assert_eq!(bench.status(&Database), Status::Degraded);
    assert_eq!(bench.cause(&Database), Some(Cause::DatabaseSlow));
}

#[test]
fn hawk_one_attempt_that_timed_out_changes_nothing() {
    let mut bench = Bench::healthy(&SITE);
    for _ in 0..100 {
        bench.observe(&Database, Some(Cause::DatabaseTimeout));
        bench.observe(&Database, Some(Cause::DatabaseTimeout));
        bench.run(secs(4));
        assert_eq!((bench.status(&Database), bench.serves()), (Status::Healthy, true));
        assert_eq!(bench.region.holds, []);
    }
}

// Mozilla MDN: MySQL got slow, liveness checks failed, and restarts made it slower; the probes were removed live.
#[test]
fn mdn_slow_mysql_takes_no_instance_out() {
    let mut bench = Bench::healthy(&SITE);
    bench.fail(Database, Cause::DatabaseSlow);
    bench.fail(App, Cause::AppSlow);
    stays_in_service(&mut bench, secs(600));
    bench.fail(App, Cause::AppTimeout);
    stays_in_service(&mut bench, secs(600));
    assert_eq!(bench.domain(&App), Some(Domain::Undetermined), "the database may be why");
    assert!(bench.instance.can_serve);
}

// Fleet 49733: the check waited for a connection of the exhausted pool, and task after task was killed.
#[test]
fn fleet_exhausted_connections_kill_nobody() {
    for cause in [Cause::DatabaseTooMany, Cause::DatabaseHostBlocked] {
        let mut bench = Bench::healthy(&SITE);
        bench.peer_passes(&SITE);
        bench.fail(Database, cause);
        stays_in_service(&mut bench, secs(3_600));
        assert_eq!(bench.status(&Database), Status::Degraded);
    }
}

// NHS 3828: credentials were rotated and the agent's no longer worked. Everywhere at once, forever.
#[test]
fn nhs_rotated_credentials_are_a_finding_and_not_an_outage() {
    for cause in [
        Cause::DatabaseAccessDenied,
        Cause::DatabaseNoRight,
        Cause::DatabaseTls,
        Cause::DatabaseNoPassword,
        Cause::DatabaseUnknownHost,
        Cause::EfsNoPermission,
        Cause::EfsNoDirectory,
        Cause::EfsQuota,
    ] {
        let component = if cause.name().starts_with("efs") { Efs } else { Database };
        let mut bench = Bench::healthy(&SITE);
        bench.fail(component.clone(), cause);
        stays_in_service(&mut bench, secs(7_200));
        assert_eq!((bench.status(&component), cause.row().class), (Status::Degraded, Class::Configuration));
    }
}

// elb-instance-status: a check in state D never came back, and its last PASS was served for ever.
#[test]
fn elb_instance_status_a_stuck_check_serves_no_stale_pass() {
    let mut bench = Bench::healthy(&SITE);
    bench.set(Efs, World::Silent);
    bench.run(secs(20));
    assert_eq!((bench.status(&Efs), bench.cause(&Efs)), (Status::Unknown, Some(Cause::Stale)));
    stays_in_service(&mut bench, secs(600));
}

// consul 1208, 2890, 10256: thresholds that were missing, then not honoured.
#[test]
fn consul_thresholds_are_honoured() {
    let mut bench = Bench::healthy(&SITE);
    let cause = Cause::NginxTimeout;
    bench.fail(Nginx, cause);
    let took = bench.run_until(secs(30), |b| !b.serves()).expect("fallen");
    assert!(took <= millis(2_500), "interval + fast: {took:?}");
    bench.pass(Nginx);
    let took = bench.run_until(secs(30), Bench::serves).expect("risen");
    assert!(took <= millis(2_500), "{took:?}");
}

// node-problem-detector 474: a condition that never cleared; asg-healthcheck-agent: "no way to return to healthy".
#[test]
fn npd_every_condition_clears() {
    let mut bench = Bench::healthy(&SITE);
    bench.peer_passes(&SITE);
    bench.fail(Nginx, Cause::NginxBadStatus);
    bench.fail(App, Cause::AppBadAnswer);
    bench.fail(Efs, Cause::EfsProxyGone);
    bench.fail(Database, Cause::DatabaseLost);
    bench.fail(Host, Cause::DiskReadOnly);
    bench.run(secs(600));
    assert_eq!((bench.instance.reasons.len(), bench.instance.state), (5, InstanceState::Closed));
    for component in SITE {
        bench.pass(component);
    }
    bench.run(secs(30));
    assert_eq!((bench.instance.state, bench.region.state), (InstanceState::Serving, RegionState::Open));
    assert!(bench.components.iter().all(|c| c.status == Status::Healthy && c.finding.is_none()));
}

// efs-utils 374, aws-gerrit's wish: "If EFS is not mounted the instance should be considered unhealthy."
#[test]
fn gerrit_an_instance_alone_without_its_mount_is_taken_out_while_others_have_it() {
    for cause in [Cause::EfsNotMounted, Cause::EfsWrongSource, Cause::EfsHung] {
        let mut bench = Bench::healthy(&SITE);
        bench.peer_passes(&[Efs]);
        bench.fail(Efs, cause);
        let took = bench.run_until(secs(30), |b| !b.serves()).expect("closed");
        assert!(took <= secs(8), "{cause}: {took:?}");
        assert!(bench.open());
        bench.pass(Efs);
        let took = bench.run_until(secs(30), Bench::serves).expect("opened");
        assert!(took <= secs(15), "{cause}: {took:?}");
    }
}

// ---- drafts of this design ----

#[test]
fn scenario_1_a_dead_database_never_makes_nginx_or_the_host_local() {
    let mut bench = Bench::healthy(&SITE);
    bench.fail(Database, Cause::DatabaseTimeout);
    bench.fail(Nginx, Cause::NginxBadStatus);
    bench.fail(Host, Cause::DiskFull);
    bench.run(secs(60));
    assert_eq!(bench.domain(&Nginx), Some(Domain::Undetermined));
    assert_eq!(bench.domain(&Host), Some(Domain::Undetermined));
    bench.fail(Nginx, Cause::NginxMasterGone);
    bench.run(secs(10));
    assert_eq!(bench.domain(&Nginx), Some(Domain::Local), "a master that is gone is nobody else's fault");
}

#[test]
fn scenario_9_a_multi_az_failover_of_two_minutes_flips_no_region() {
    let mut bench = Bench::healthy(&SITE);
    bench.fail(Database, Cause::DatabaseRefused);
    bench.fail(App, Cause::AppBadStatus);
    bench.run(secs(120));
    bench.pass(Database);
    bench.pass(App);
    assert_eq!(bench.run_until(secs(600), |b| !b.open()), None);
}

#[test]
fn scenario_10_an_agent_without_rights_on_day_one_flips_nothing() {
    let mut bench = Bench::booted(&SITE);
    bench.fail(Efs, Cause::EfsNoPermission);
    bench.fail(Database, Cause::DatabaseAccessDenied);
    bench.run(secs(20));
    stays_in_service(&mut bench, secs(3_600));
    // An upgrade removed the program that the probe's child is made of.
    bench.fail(Efs, Cause::CouldNotRun);
    bench.fail(Database, Cause::CouldNotRun);
    stays_in_service(&mut bench, secs(3_600));
}

#[test]
fn scenario_13_one_member_that_can_serve_keeps_the_region_open() {
    let mut bench = Bench::healthy(&SITE);
    bench.peer_passes(&[Database]);
    bench.fail(Database, Cause::DatabaseTimeout);
    bench.run(secs(3_600));
    assert!(!bench.serves() && bench.open());
}

#[test]
fn scenario_14_a_standby_without_a_mount_does_not_pin_users_to_a_dead_home() {
    let mut bench = Bench::booted(&SITE);
    bench.policy.standby = true;
    bench.fail(Efs, Cause::EfsNotMounted);
    bench.fail(Database, Cause::DatabaseLag);
    bench.run(secs(3_600));
    assert_eq!(bench.region.state, RegionState::Standby);
}

#[test]
fn scenario_17_an_upgrade_in_the_middle_of_an_incident_changes_no_answer() {
    for upgrade_after in (5..400).step_by(13) {
        let mut bench = Bench::healthy(&SITE);
        bench.peer_passes(&[]);
        bench.group.can_serve = false;
        bench.fail(Database, Cause::DatabaseRefused);
        bench.fail(App, Cause::AppBadStatus);
        bench.run(secs(upgrade_after));
        let before = (bench.instance.state, bench.region.state, bench.region.holds.clone());
        bench.restart();
        assert_eq!((bench.instance.state, bench.region.state, bench.region.holds.clone()), before);
        assert_eq!(bench.run_until(secs(600), |b| !b.serves()), None, "nobody can do better");
        assert!(!bench.open());
    }
}

#[test]
fn scenario_17_a_crash_loop_keeps_closed_what_was_closed_and_open_what_was_open() {
    for closed in [false, true] {
        let memory = Memory { same_boot: true, instance_closed: closed, region_closed: closed, ..Memory::default() };
        let mut bench = Bench::resumed(&SITE, memory);
        bench.group.can_serve = true;
        for _ in 0..50 {
            // It lives for a second, never long enough to pass `rise` times.
            bench.run(secs(1));
            bench.restart();
            assert_eq!((bench.serves(), bench.open()), (!closed, !closed));
        }
    }
}

#[test]
fn scenario_22_a_group_of_one_that_cannot_serve_says_so_for_the_region() {
    for (component, cause) in [(Nginx, Cause::NginxTimeout), (App, Cause::AppBadStatus), (Host, Cause::DiskReadOnly)] {
        let mut bench = Bench::healthy(&SITE);
        bench.fail(component, cause);
        bench.run_until(secs(30), |b| !b.instance.can_serve).expect("cannot serve");
        assert_eq!(bench.run_until(secs(120), |b| !b.open()), Some(secs(60)), "{cause}");
    }
    // Its own nginx being restarted is no reason.
    let mut bench = Bench::healthy(&SITE);
    bench.fail(Nginx, Cause::NginxRefused);
    bench.run(secs(20));
    bench.pass(Nginx);
    assert_eq!(bench.run_until(secs(300), |b| !b.open()), None);
}

#[test]
fn scenario_30_a_stuttering_mount_comes_back_more_and_more_carefully() {
    let mut bench = Bench::healthy(&[Nginx, Efs]);
    bench.peer_passes(&[Efs]);
    let mut changes = 0;
    let mut serves = true;
    for _ in 0..20 {
        for (world, half_seconds) in [(World::Fails(Cause::EfsHung), 12), (World::Passes, 28)] {
            bench.set(Efs, world);
            for _ in 0..half_seconds {
                bench.run(millis(500));
                changes += u32::from(bench.serves() != serves);
                serves = bench.serves();
            }
        }
    }
    assert!(!serves && (5..=7).contains(&changes), "{changes} changes in 20 stutters");
    bench.pass(Efs);
    bench.run(secs(70));
    assert_eq!((bench.serves(), bench.cause(&Efs)), (true, Some(Cause::Flapping)));
    bench.run(secs(620));
    assert_eq!(bench.status(&Efs), Status::Healthy);
}
