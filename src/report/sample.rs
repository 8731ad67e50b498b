//! Reports for tests: made by the real owner from invented observations, at invented times.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{Kind, Report, Seen};
use crate::authority;
use crate::authority::said::Said;
use crate::clock::BootTime;
use crate::config::{Config, load};
use crate::health::cause::Cause;
use crate::health::verdict::Memory;
use crate::input::Input;
use crate::latches::{self, Latch, Latches};
use crate::observation::{
    Component, DatabaseFacts, EfsFacts, Facts, Finding, Observation, Outcome, ReplicaChannel, Stage,
};
use crate::owner::Owner;
use crate::probes::Spec;
use crate::replace::outlook::Outlook;
use crate::replace::plan::Plan;
use crate::replace::refusal::Refusal;
use crate::snapshot::{About, Snapshot};
use crate::state::{self, State};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// The wall clock at the moment of every sample.
pub(crate) fn at() -> Timestamp {
    "2026-11-24T21:42:07Z".parse().unwrap()
}

pub(crate) fn config(region: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples/two-regions.toml");
    load::read(&path).unwrap().config(Some(region)).unwrap()
}

fn stages(list: &[(&'static str, u64)]) -> Vec<Stage> {
    list.iter().map(|&(name, took)| Stage { name, took: Duration::from_micros(took) }).collect()
}

fn passing(component: &Component, began: BootTime) -> Observation {
    let (stages, facts) = match component {
        Component::Nginx | Component::App => (stages(&[("connect", 180), ("headers", 910), ("body", 40)]), Facts::None),
        Component::Efs => {
            let facts = EfsFacts {
                source: "fs-0123456789abcdef0".to_owned(),
                fs_type: "nfs4".to_owned(),
                ..EfsFacts::default()
            };
            (stages(&[("mountinfo", 120), ("open", 2_400), ("write", 5_100), ("read", 3_300)]), Facts::Efs(facts))
        }
        Component::Database => {
            let facts = DatabaseFacts {
                version: "8.4.2".to_owned(),
                server: "uuid-1".to_owned(),
                replica: Some(Vec::new()),
                ..DatabaseFacts::default()
            };
            (stages(&[("query", 830)]), Facts::Database(facts))
        }
        _ => (Vec::new(), Facts::None),
    };
    let took = stages.iter().map(|stage| stage.took).sum();
    Observation { component: component.clone(), began, took, outcome: Outcome::Pass, stages, facts }
}

fn failing(mut observation: Observation, cause: Cause, detail: &str, at: &[(&'static str, u64)]) -> Observation {
    observation.outcome = Outcome::Fail(Finding::new(cause, detail));
    observation.stages = stages(at);
    observation.took = observation.stages.iter().map(|stage| stage.took).sum();
    observation
}

fn observe(owner: &mut Owner, observation: Observation) {
    let now = observation.began + observation.took;
    owner.take(Input::Observed(observation, oneshot::channel().0), now);
}

fn owner(config: &Config, problems: Vec<String>, latches: Latches) -> Owner {
    let who = state::Owner {
        deployment: Some(config.deployment.clone()),
        instance: Some("i-0123456789abcdef0".to_owned()),
        region: config.region.clone(),
    };
    let about = About { owner: who, boot: "b00t".to_owned(), config_problems: problems };
    let start = BootTime::from_boot(MS(100_000));
    Owner::new(about, Arc::new(config.clone()), State::default(), Memory::default(), latches, false, Vec::new(), start)
}

fn report(owner: &mut Owner, kind: Kind, now: BootTime) -> Report {
    let snapshot = owner.publish(now, at());
    let seen = Seen {
        about: &snapshot.about,
        config: &snapshot.config,
        components: &snapshot.components,
        instance: &snapshot.instance,
        region: &snapshot.region,
        latches: &snapshot.latches,
        lifecycle: &snapshot.lifecycle,
        gate_closed: snapshot.gate_closed,
        replacement: &snapshot.replacement,
    };
    let mut report = Report::of(kind, &seen, now, at());
    if kind == Kind::Live {
        report.agent.generation = Some(4711);
        report.agent.age_ms = Some(312);
    }
    report.agent.version = "0.0.0".to_owned();
    report
}

/// As they are read from a file.
fn latches(latch: &Latch) -> Latches {
    let dir = tempfile::tempdir().unwrap();
    latches::set(dir.path(), latch).unwrap();
    latches::read(dir.path(), &latch.boot, BootTime::from_boot(MS(0)), at(), &Latches::default()).0
}

/// Everything works.
pub(crate) fn well(kind: Kind, region: &str) -> Report {
    let config = config(region);
    let mut owner = owner(&config, Vec::new(), Latches::default());
    let mut now = BootTime::from_boot(MS(100_000));
    for _ in 0..2 {
        for spec in Spec::all(&config) {
            observe(&mut owner, passing(&spec.component(), now));
        }
        owner.publish(now, at());
        now = now + MS(4_000);
    }
    report(&mut owner, kind, now)
}

/// No file, no agent: what is watched works.
pub(crate) fn newcomer() -> Report {
    let config = crate::config::defaults();
    let mut owner = owner(&config, Vec::new(), Latches::default());
    let now = BootTime::from_boot(MS(100_000));
    for spec in Spec::all(&config) {
        observe(&mut owner, passing(&spec.component(), now));
    }
    report(&mut owner, Kind::Check, now)
}

/// The mount hangs for 23 s, the database is slow, the site fails for it; somebody drained the instance.
pub(crate) fn trouble(kind: Kind) -> Report {
    let config = config("ap-south-1");
    let latch = Latch {
        kind: latches::Kind::Drain,
        reason: "deploy 42".to_owned(),
        by: "alice".to_owned(),
        at: at() - MS(60_000),
        until: Some(at() + MS(3_540_000)),
        until_boot: None,
        boot: "b00t".to_owned(),
        drill: None,
    };
    let problem =
        "/etc/dr-agent/agent.toml:12: `probe.nginx.interval = 5`: a duration needs a unit: write \"5s\" or \"5ms\"";
    let mut owner = owner(&config, vec![problem.to_owned()], latches(&latch));
    let mut now = BootTime::from_boot(MS(100_000));
    for round in 0..8 {
        for spec in Spec::all(&config) {
            let well = passing(&spec.component(), now);
            let seen = match spec.component() {
                Component::Efs if round > 1 => failing(
                    well,
                    Cause::EfsHung,
                    "/mnt/efs: child 4242 has been in `open` for 21 s and cannot be killed",
                    &[("mountinfo", 130), ("open", 2_999_000)],
                ),
                Component::App if round > 2 => failing(
                    well,
                    Cause::AppTimeout,
                    "http://127.0.0.1/ (Host shop.example.com): no answer within 1 s",
                    &[("connect", 170), ("headers", 999_800)],
                ),
                Component::Database if round > 2 => failing(
                    well,
                    Cause::DatabaseSlow,
                    "shop.abc123.ap-south-1.rds.amazonaws.com:3306: 730 ms, the limit is 500 ms",
                    &[("query", 730_000)],
                ),
                _ => well,
            };
            observe(&mut owner, seen);
        }
        owner.publish(now + MS(3_000), at());
        now = now + MS(4_000);
    }
    let plan = Plan::Refused(vec![Refusal::NotEnforcing, Refusal::Draining, Refusal::PeersShareIt]);
    let status = Outlook { plan, fault: Some((Component::Efs, Cause::EfsHung)), would: 1, ..Outlook::default() };
    owner.take(Input::Replacement(Arc::new(status)), now);
    report(&mut owner, kind, now)
}

/// A standby in which everything is ready, as of [`at`].
pub(crate) fn standby() -> super::authority::Authority {
    standby_with(&|_| {})
}

/// The same, after `change`.
pub(crate) fn standby_with(change: &dyn Fn(&mut Said)) -> super::authority::Authority {
    let snapshot = standby_snapshot(change);
    super::authority::Authority::live(&snapshot, snapshot.taken).unwrap()
}

/// What it is made from.
pub(crate) fn standby_snapshot(change: &dyn Fn(&mut Said)) -> Snapshot {
    let config = config("us-east-1");
    let place = authority::facts::Place {
        region: "us-east-1".to_owned(),
        other: "ap-south-1".to_owned(),
        home: "ap-south-1".to_owned(),
        regions: ["ap-south-1".to_owned(), "us-east-1".to_owned()],
    };
    let mut said = crate::authority::said::sample(place);
    said.proof.config.clone_from(&config.digest);
    said.across = Some(authority::facts::Across::Verified(said.proof.clone()));
    said.lag = Some(authority::lag::Lag { ms: 1_200, by: authority::lag::Measure::Heartbeat, beat: None });
    said.ledger = Arc::new(authority::ledger::Ledger {
        state: said.decision.state,
        since: Some(at() - MS(86_400_000)),
        owner: said.memory().known.clone(),
        ..Default::default()
    });
    change(&mut said);
    let mut owner = owner(&config, Vec::new(), Latches::default());
    let mut now = BootTime::from_boot(MS(100_000));
    owner.take(Input::Authority(Arc::new(said)), now);
    for _ in 0..2 {
        for spec in Spec::all(&config) {
            let mut seen = passing(&spec.component(), now);
            if let Facts::Database(facts) = &mut seen.facts {
                facts.read_only = true;
                facts.replica =
                    Some(vec![ReplicaChannel { io_running: true, sql_running: true, ..ReplicaChannel::default() }]);
            }
            observe(&mut owner, seen);
        }
        owner.publish(now, at());
        now = now + MS(4_000);
    }
    owner.publish(now, at())
}
