//! Each item by itself, and the sentence.

use super::*;
use crate::authority::lag::Measure;
use crate::authority::word::Proof;
use crate::observation::ReplicaChannel;
use crate::report::sample;

fn seen(ms: u64) -> Lag {
    Lag { ms, by: Measure::Heartbeat, beat: None }
}

fn verified(config: Option<&str>) -> Across {
    Across::Verified(Proof { config: config.map(str::to_owned), fresh: true, ..Proof::default() })
}

#[test]
fn a_lag_is_fine_up_to_a_minute_and_unknown_is_not_fine() {
    assert_eq!(lag(Some(&seen(READY))).ok, Some(true));
    assert_eq!(lag(Some(&seen(READY + 1))).ok, Some(false));
    assert_eq!(lag(None).ok, None);
}

#[test]
fn both_threads_of_each_channel_must_run() {
    let facts = |channels: &[(bool, bool)]| DatabaseFacts {
        replica: Some(
            channels
                .iter()
                .map(|&(io_running, sql_running)| ReplicaChannel {
                    io_running,
                    sql_running,
                    ..ReplicaChannel::default()
                })
                .collect(),
        ),
        ..DatabaseFacts::default()
    };
    assert_eq!(link(Some(&facts(&[(true, true)]))).ok, Some(true));
    let broken = link(Some(&facts(&[(true, true), (false, true)])));
    assert_eq!((broken.ok, broken.words.as_str()), (Some(false), "replication does not receive"));
    assert_eq!(link(Some(&facts(&[]))).ok, Some(false));
    assert_eq!((link(None).ok, link(Some(&DatabaseFacts::default())).ok), (None, None));
}

#[test]
fn a_group_that_aws_cannot_fill_lacks_members() {
    let told = |known, serving, desired| {
        let item = members(known, serving, desired);
        (item.ok, item.words)
    };
    assert_eq!(told(2, 2, None), (Some(true), "2 of 2 members here can serve".to_owned()));
    assert_eq!(told(2, 1, Some(2)), (Some(false), "1 of 2 members here can serve".to_owned()));
    let lacking = "2 of 2 members here can serve, and the group lacks 4 more".to_owned();
    assert_eq!(told(2, 2, Some(6)), (Some(false), lacking));
    // It shrinks: those that go may still answer.
    assert_eq!(told(4, 4, Some(2)).0, Some(true));
}

#[test]
fn configurations_are_compared_only_by_one_release() {
    let ok = |mine, theirs: Option<&str>| configuration(mine, Some(&verified(theirs))).ok;
    assert_eq!(ok(Some("1:a"), Some("1:a")), Some(true));
    assert_eq!(ok(Some("1:a"), Some("1:b")), Some(false));
    assert_eq!(ok(Some("1:a"), Some("2:b")), None);
    assert_eq!((ok(Some("1:a"), None), ok(None, Some("1:a"))), (None, None));
    assert_eq!(configuration(Some("1:a"), Some(&Across::Silent)).ok, None);
}

#[test]
fn the_digest_is_of_the_meaning_and_the_same_in_both_regions() {
    let digest = |region| sample::config(region).digest.unwrap();
    assert_eq!(digest("ap-south-1"), digest("us-east-1"));
    assert!(digest("us-east-1").starts_with(concat!(env!("CARGO_PKG_VERSION"), ":")));
}

#[test]
fn every_item_has_a_name_that_metrics_know() {
    let readiness = sample::standby().readiness.unwrap();
    assert!(readiness.items.iter().all(|item| NAMES.contains(&item.name.as_str())), "{readiness:?}");
}

#[test]
fn a_look_at_the_wiring_that_could_not_be_made_is_no_lack() {
    let ready = |status| {
        let mut snapshot = sample::standby_snapshot(&|_| {});
        let wiring = snapshot.components.iter_mut().find(|(c, _)| c.component == Component::Wiring);
        wiring.unwrap().0.status = status;
        Readiness::of(&snapshot).unwrap().ready
    };
    assert!(ready(Status::Healthy) && ready(Status::Unknown));
    assert!(!ready(Status::Degraded));
}

#[test]
fn what_would_happen_is_one_sentence() {
    let ready = sample::standby().readiness.unwrap();
    assert!(ready.ready, "{ready:?}");
    let lacking = sample::standby_with(&|said| {
        said.lag = Some(seen(300_000));
        said.decision.standby_ready = false;
    });
    let lacking = lacking.readiness.unwrap();
    assert!(!lacking.ready);
    let closed = sample::standby_with(&|said| said.decision.state = State::Superseded).readiness.unwrap();
    insta::assert_snapshot!([ready.sentence, lacking.sentence, closed.sentence].join("\n"), @r"
    if ap-south-1 died now, Route 53 would send its users here, and once somebody promoted the database it would be claimed as epoch 2 and written to, without the last 1.2 s at most
    if ap-south-1 died now, Route 53 would send its users here, and that would not go well: authority is STANDBY: this region's database is a replica; the other region's database says that it is the owner; the replica is 300.0 s behind, by the heartbeat
    if ap-south-1 died now, its users would get 503 here too: this region is superseded and stays closed
    ");
}
