//! What follows from what was seen.

use std::time::Duration;

use super::*;
use crate::replace::look::{Look, LookMember};

const ME: &str = "i-0123456789abcdef0";

/// A group with nothing to say about.
fn well() -> Look {
    let member = |id: &str| LookMember { instance: id.to_owned(), lifecycle: "InService".to_owned(), healthy: true };
    Look {
        group: "web".to_owned(),
        desired: 2,
        members: vec![member(ME), member("i-0b")],
        suspended: ["AZRebalance".to_owned()].into(),
        launches_failed: 0,
        is_refreshing: false,
        stopped_by_tag: false,
        last_replacement: None,
        health_check_types: vec!["EC2".to_owned(), "EBS".to_owned()],
        grace: Duration::from_secs(300),
        default_warmup: Some(Duration::ZERO),
        maintenance: Some((100, 200)),
    }
}

fn told(look: Option<Look>, calls: Option<&[Call]>, change: impl FnOnce(&mut Config)) -> Aws {
    let actions = [aws::DESCRIBE, aws::INSTANCES, aws::GROUPS, aws::ACTIVITY, aws::REFRESHES];
    let trial = Trial { group: None, look, calls: actions.map(|action| (action, Ok(()))).into() };
    let known = [(INSTANCE, ME), (REGION, "us-east-1"), (GROUP, "web")].map(|(what, value)| Known {
        what: what.to_owned(),
        value: value.to_owned(),
        from: "metadata service".to_owned(),
    });
    let metadata = Metadata::default();
    let seen = Seen { metadata: &metadata, firmware: Some(ME), known: known.into(), trial: Some(&trial), calls };
    let mut config = crate::config::defaults();
    change(&mut config);
    Aws::of(seen, &config)
}

type Row = (fn(&mut Look), Level, &'static str);

#[test]
fn each_setting_of_the_group_that_matters_is_a_finding_of_its_weight() {
    assert_eq!(told(Some(well()), None, |_| {}).findings, []);
    let found = |change: fn(&mut Look)| {
        let mut look = well();
        change(&mut look);
        let told = told(Some(look), None, |_| {});
        assert_eq!(told.findings.len(), 1, "{:?}", told.findings);
        (told.findings[0].level, told.findings[0].what.clone())
    };
    let rows: [Row; 11] = [
        (|l| l.health_check_types = vec!["ELB".to_owned()], Level::Unhealthy, "type is ELB"),
        (|l| l.health_check_types.push("VPC_LATTICE".to_owned()), Level::Unhealthy, "type is VPC_LATTICE"),
        (|l| _ = l.suspended.insert("Launch".to_owned()), Level::Degraded, "suspended in the group: Launch"),
        (|l| _ = l.suspended.insert("Terminate".to_owned()), Level::Degraded, "suspended in the group: Terminate"),
        (|l| _ = l.suspended.insert("HealthCheck".to_owned()), Level::Degraded, "suspended in the group: HealthCheck"),
        (|l| l.launches_failed = 2, Level::Degraded, "last 30 min: 2"),
        (|l| _ = l.members.remove(0), Level::Degraded, "does not have this instance"),
        (|l| l.is_refreshing = true, Level::Advice, "refresh"),
        (|l| l.stopped_by_tag = true, Level::Advice, "dr-agent:replace=off"),
        (|l| l.maintenance = Some((90, 100)), Level::Advice, "90-100 %"),
        (|l| l.default_warmup = None, Level::Advice, "warmup"),
    ];
    for (change, level, words) in rows {
        let (is, what) = found(change);
        assert!(is == level && what.contains(words), "{is:?} {what}");
    }
    let mut large = well();
    (large.desired, large.maintenance) = (5, None);
    assert_eq!(told(Some(large), None, |_| {}).findings, [], "one of five is a small part");
    assert!(told(None, None, |_| {}).findings[0].what.contains("knows no group `web`"));
}

#[test]
fn what_has_an_effect_is_judged_by_the_calls_of_the_running_agent() {
    let call = |action: &str, result: &str, count| Call { action: action.to_owned(), result: result.to_owned(), count };
    let enforcing = |calls: Option<&[Call]>| told(Some(well()), calls, |config| config.replace.enforce = true);
    let mark = |told: &Aws| told.permissions.iter().find(|one| one.action == aws::MARK).cloned().unwrap();
    let observing = told(Some(well()), None, |_| {});
    assert!(observing.permissions.iter().all(|one| one.result == "ok"), "{:?}", observing.permissions);

    assert_eq!(mark(&enforcing(None)).words, "no running agent was asked");
    assert_eq!(mark(&enforcing(Some(&[]))).words, "the running agent has not needed it yet");
    let denied = enforcing(Some(&[call(aws::MARK, "denied", 2)]));
    assert_eq!(mark(&denied).words, "the running agent's calls: 2 denied");
    assert!(denied.findings[0].what.ends_with(aws::MARK) && denied.policy.is_some(), "{denied:?}");
    // It was given meanwhile.
    let given = enforcing(Some(&[call(aws::MARK, "denied", 2), call(aws::MARK, "ok", 1)]));
    assert_eq!((mark(&given).result.as_str(), given.findings.len()), ("untried", 0));
}

#[test]
fn a_metadata_service_that_is_silent_is_a_finding_only_on_an_instance() {
    let findings = |silence, firmware| {
        let metadata = Metadata { silence: Some(silence), ..Metadata::default() };
        let seen = Seen { metadata: &metadata, firmware, known: Vec::new(), trial: None, calls: None };
        Aws::of(seen, &crate::config::defaults()).findings
    };
    for silence in [Silence::Late, Silence::Unreachable, Silence::Strange] {
        assert_eq!(findings(silence, None), [], "{silence:?}");
        assert_eq!(findings(silence, Some(ME))[0].level, Level::Degraded, "{silence:?}");
    }
    assert!(findings(Silence::Late, Some(ME))[0].hint.contains("hop limit"));
    assert!(findings(Silence::Disabled, None)[0].what.contains("switched off"));
}
