//! The owner: reloads, history, counters, state across restarts, its loop.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dr_agent::answer::{self, Question};
use dr_agent::clock::BootTime;
use dr_agent::config::{
    Authority, Config, DatabaseProbe, HostProbe, HttpUrl, Listen, NginxProbe, PublicAddress, Repoint, WiringProbe,
};
use dr_agent::health::cause::{Cause, Status};
use dr_agent::health::verdict::{InstanceState, Memory, RegionState};
use dr_agent::input::{Input, Pace};
use dr_agent::latches::{self, Drill, Kind, Latch, Latches};
use dr_agent::observation::{Component, DatabaseFacts, Facts, Finding, Outcome, ReplicaChannel};
use dr_agent::outputs::cloudwatch::Minute;
use dr_agent::outputs::{markers, metrics};
use dr_agent::owner::Owner;
use dr_agent::replace::plan::ReplacePolicy;
use dr_agent::snapshot::{About, Snapshot};
use dr_agent::state::{self, State};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::bench::{at, observation, policy, schedule, secs};

const BOOT: &str = "11111111-2222-3333-4444-555555555555";

/// nginx, a database, the host and the markers.
pub fn config() -> Config {
    let url = HttpUrl { text: "http://127.0.0.1/p".into(), host: "127.0.0.1".into(), port: 80, path: "/p".into() };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Config {
        deployment: "shop-test".into(),
        home: None,
        region: Some("ap-south-1".into()),
        key_file: None,
        state_dir: PathBuf::from("/nonexistent"),
        listen: Listen {
            public: PublicAddress::Tcp(loopback),
            peer: loopback,
            control: PathBuf::from("/nonexistent/control.sock"),
        },
        nginx: NginxProbe { schedule: schedule(&Component::Nginx), url, pid_file: PathBuf::from("/nonexistent/pid") },
        app: None,
        efs: None,
        database: Some(DatabaseProbe {
            schedule: schedule(&Component::Database),
            fresh_interval: secs(10),
            fresh_timeout: secs(5),
            host: "secret-host.example.com".into(),
            port: 3306,
            user: "dr_agent".into(),
            password_file: None,
            tls_ca: None,
            latency_limit: secs(1),
            lag_limit: secs(60),
            writer_expected: true,
        }),
        host: HostProbe {
            schedule: schedule(&Component::Host),
            paths: vec![],
            low_percent: 10.0,
            full_percent: 2.0,
            pressure_percent: 50.0,
        },
        wiring: WiringProbe {
            schedule: schedule(&Component::Wiring),
            address: ([127, 0, 0, 1], 80).into(),
            hosts: vec![],
        },
        exec: BTreeMap::new(),
        policy: policy(),
        replace: ReplacePolicy { enforce: false, sustain: secs(300), cooldown: secs(900) },
        metrics_allow: vec![],
        authority: None,
        repoint: Repoint::default(),
        cloudwatch: None,
        regions: BTreeMap::new(),
        digest: None,
    }
}

pub fn about() -> About {
    let owner = state::Owner {
        deployment: Some("shop-test".into()),
        instance: Some("i-0123456789abcdef0".into()),
        region: Some("ap-south-1".into()),
    };
    About { owner, boot: BOOT.into(), config_problems: vec![] }
}

/// An owner with a clock of its own.
pub struct Agent {
    pub owner: Owner,
    pub now: BootTime,
}

impl Agent {
    pub fn first(config: Config) -> Self {
        Self::start(config, State::default(), Memory::default(), at(secs(1_000)))
    }

    pub fn start(config: Config, state: State, memory: Memory, now: BootTime) -> Self {
        let owner = Owner::new(about(), Arc::new(config), state, memory, Latches::default(), false, vec![], now);
        Self { owner, now }
    }

    pub fn take(&mut self, input: Input) {
        self.owner.take(input, self.now);
    }

    /// One attempt; `None` when nobody wanted to know.
    pub fn see(&mut self, component: &Component, cause: Option<Cause>, facts: Facts) -> Option<Pace> {
        let mut seen = observation(component.clone(), self.now, Duration::ZERO, cause);
        seen.facts = facts;
        let (reply, mut pace) = oneshot::channel();
        self.take(Input::Observed(seen, reply));
        pace.try_recv().ok()
    }

    /// Every component is observed once, with one cause for all that fail.
    pub fn see_all(&mut self, failing: &[(Component, Cause)]) -> Snapshot {
        for component in [Component::Nginx, Component::Database, Component::Host, Component::Wiring] {
            let cause = failing.iter().find(|(c, _)| *c == component).map(|(_, cause)| *cause);
            self.see(&component, cause, Facts::None);
        }
        self.publish()
    }

    /// A second later.
    pub fn publish(&mut self) -> Snapshot {
        self.now = self.now + secs(1);
        self.owner.publish(self.now, Timestamp::UNIX_EPOCH)
    }

    pub fn run(&mut self, seconds: u64, failing: &[(Component, Cause)]) -> Snapshot {
        for _ in 1..seconds {
            self.see_all(failing);
        }
        self.see_all(failing)
    }
}

pub fn well() -> (Agent, Snapshot) {
    let mut agent = Agent::first(config());
    let snapshot = agent.run(5, &[]);
    (agent, snapshot)
}

#[test]
fn the_owner_says_how_soon_to_try_again_and_ignores_what_it_does_not_know() {
    let (mut agent, _) = well();
    assert_eq!(agent.see(&Component::Nginx, None, Facts::None), Some(Pace::Normal));
    assert_eq!(agent.see(&Component::Nginx, Some(Cause::NginxRefused), Facts::None), Some(Pace::Fast));
    assert_eq!(agent.see(&Component::Nginx, Some(Cause::NginxRefused), Facts::None), Some(Pace::Normal));
    assert_eq!(agent.see(&Component::Efs, None, Facts::None), None);
    assert_eq!(agent.publish().components.len(), 4);
}

#[test]
fn a_region_stays_promoted_until_it_is_decided_anew() {
    let two_regions = || Config {
        authority: Some(Authority {
            regions: ["ap-south-1".to_owned(), "us-east-1".to_owned()],
            poll: secs(5),
            boot_wait: secs(10),
            takeover_wait: secs(15),
        }),
        ..config()
    };
    let promoted = |config: Config, promoted| {
        let memory = Memory { same_boot: true, promoted, ..Memory::default() };
        let snapshot = Agent::start(config, State::default(), memory, at(secs(0))).publish();
        let answers = snapshot.answers[Question::Promoted as usize].ok;
        assert_eq!(answers, markers::wanted(&snapshot).promoted);
        answers
    };
    assert!(promoted(two_regions(), true));
    assert!(!promoted(two_regions(), false));
    assert!(!promoted(config(), true), "nobody decides any more");
}

#[test]
fn a_minute_for_cloudwatch_says_what_is_known_and_guesses_nothing() {
    let samples = |snapshot: &Snapshot| {
        let minute = Minute::of(snapshot, Timestamp::UNIX_EPOCH);
        minute.samples.into_iter().map(|sample| (sample.name, sample.value)).collect::<BTreeMap<_, _>>()
    };
    let (mut agent, snapshot) = well();
    let home = [
        ("Fenced", 0.0),
        ("Heartbeat", 1.0),
        ("InstanceHealthy", 1.0),
        ("RegionOpen", 1.0),
        ("WiringFault", 0.0),
        ("WouldReplace", 0.0),
    ];
    assert_eq!(samples(&snapshot), home.into());
    let facts = DatabaseFacts {
        replica: Some(vec![ReplicaChannel { lag_seconds: Some(7), ..ReplicaChannel::default() }]),
        ..DatabaseFacts::default()
    };
    agent.see(&Component::Database, None, Facts::Database(facts));
    assert_eq!(samples(&agent.publish()).get("ReplicaLagSeconds"), Some(&7.0));

    let mut config = config();
    config.policy.standby = true;
    let mut standby = Agent::first(config);
    let ready = |snapshot: &Snapshot| samples(snapshot).get("StandbyReady").copied();
    assert_eq!(ready(&standby.publish()), Some(0.0), "what is not known is not ready");
    assert_eq!(ready(&standby.run(5, &[])), Some(1.0));
    assert_eq!(ready(&standby.run(5, &[(Component::Database, Cause::DatabaseTimeout)])), Some(0.0));
}

/// One latch in force.
fn latched(kind: Kind, drill: Option<Drill>) -> Latches {
    let dir = tempfile::tempdir().expect("a directory");
    let latch = Latch {
        kind,
        reason: "r".into(),
        by: "uid 0".into(),
        at: Timestamp::UNIX_EPOCH,
        until: None,
        until_boot: None,
        boot: BOOT.into(),
        drill,
    };
    latches::set(dir.path(), &latch).expect("set");
    let start = BootTime::from_boot(Duration::ZERO);
    latches::read(dir.path(), BOOT, start, Timestamp::UNIX_EPOCH, &Latches::default()).0
}

#[test]
fn a_drill_is_seen_as_the_failure_would_be_says_so_and_leaves_no_marker() {
    let (mut agent, _) = well();
    let drill = Drill { component: "database".into(), shared: true };
    agent.take(Input::Latches(latched(Kind::Drill, Some(drill))));
    let before = agent.run(140, &[]);
    let database = |snapshot: &Snapshot| {
        let found = snapshot.components.iter().find(|(state, _)| state.component == Component::Database);
        let (state, _) = found.expect("it is watched");
        (state.status, state.finding.as_ref().map(|finding| finding.cause))
    };
    assert_eq!(database(&before), (Status::Unhealthy, Some(Cause::Drill)));
    assert_eq!((before.instance.state, before.region.state), (InstanceState::Serving, RegionState::Open));
    let after = agent.run(60, &[]);
    assert_eq!((after.instance.state, after.region.state), (InstanceState::Serving, RegionState::Closed));
    for snapshot in [&before, &after] {
        let answer = answer::respond(snapshot, Question::Region, snapshot.taken);
        assert!(String::from_utf8_lossy(&answer.body).contains(r#""drill":true"#), "{answer:?}");
        assert!(!markers::wanted(snapshot).region_closed, "nginx alone would not end it");
        assert!(metrics::page(snapshot, snapshot.taken).contains("\ndr_agent_drill 1\n"));
    }
    agent.take(Input::Latches(Latches::default()));
    let over = agent.run(100, &[]);
    assert_eq!((database(&over).0, over.region.state), (Status::Healthy, RegionState::Open));
    let answer = answer::respond(&over, Question::Region, over.taken);
    assert!(!String::from_utf8_lossy(&answer.body).contains("drill"), "{answer:?}");
}

#[test]
fn draining_and_the_gate_are_inputs_like_others() {
    let (mut agent, _) = well();
    agent.take(Input::Latches(latched(Kind::Drain, None)));
    agent.take(Input::Gate { closed: true });
    let snapshot = agent.publish();
    assert_eq!((snapshot.instance.state, snapshot.region.state), (InstanceState::Draining, RegionState::Fenced));
    for question in [Question::Instance, Question::Region] {
        assert!(!answer::respond(&snapshot, question, snapshot.taken).ok);
    }
    agent.take(Input::Latches(Latches::default()));
    agent.take(Input::Gate { closed: false });
    let snapshot = agent.publish();
    assert_eq!((snapshot.instance.state, snapshot.region.state), (InstanceState::Serving, RegionState::Open));
}

#[test]
fn a_reload_keeps_what_is_known_of_everything_that_did_not_change() {
    let (mut agent, _) = well();
    let before = agent.run(20, &[(Component::Database, Cause::DatabaseRefused)]);
    let mut config = config();
    config.nginx.url.text = "http://127.0.0.1:81/p".into();
    if let Some(database) = &mut config.database {
        database.schedule.interval = secs(3);
        database.user = "other".into();
    }
    agent.take(Input::Reconfigured(Arc::new(config.clone()), about()));
    let after = agent.publish();
    let find = |snapshot: &Snapshot, component| {
        snapshot.components.iter().map(|(c, _)| c.clone()).find(|c| c.component == component).expect("there")
    };
    let (old, new) = (find(&before, Component::Database), find(&after, Component::Database));
    assert_eq!((old.status, old.since, old.failing_since), (new.status, new.since, new.failing_since));
    assert_eq!(new.schedule.interval, secs(3));
    assert_eq!(find(&after, Component::Nginx).status, Status::Starting, "another target is another thing");
    assert_eq!((after.instance.state, &after.region.holds), (InstanceState::Serving, &before.region.holds));
    config.database = None;
    agent.take(Input::Reconfigured(Arc::new(config), about()));
    let without = agent.publish();
    assert_eq!((without.components.len(), without.region.holds.len()), (3, 0));
}

#[test]
fn state_carries_the_incident_to_the_next_agent_of_this_boot() {
    let dir = tempfile::tempdir().expect("a directory");
    let failing = [(Component::Database, Cause::DatabaseRefused)];
    let (mut agent, _) = well();
    let before = agent.run(100, &failing);
    state::save(dir.path(), &before.state).expect("save");
    let next = |same_boot| {
        let saved = state::load(dir.path(), &about().owner).expect("load").expect("saved");
        assert_eq!(saved.boot, BOOT);
        let (region_closed, holds) = (saved.region_closed, saved.holds.clone());
        let memory = Memory { same_boot, region_closed, holds, ..Memory::default() };
        Agent::start(config(), saved, memory, before.taken)
    };
    let mut agent = next(true);
    let first = agent.publish();
    assert_eq!((&first.region.holds, first.region.state), (&before.region.holds, RegionState::Open));
    let after = agent.run(60, &failing);
    assert_eq!(after.region.state, RegionState::Closed);
    assert_eq!(after.region.since, before.region.holds[0].due, "as if it had not been restarted");
    state::save(dir.path(), &after.state).expect("save");
    let mut agent = next(false);
    let rebooted = agent.publish();
    assert_eq!((rebooted.region.state, rebooted.region.holds.len()), (RegionState::Closed, 0));
    assert_eq!(rebooted.instance.state, InstanceState::Starting);
}

#[test]
fn what_was_healthy_on_one_target_says_nothing_of_another() {
    let (_, snapshot) = well();
    let memory = Memory { same_boot: true, ..Memory::default() };
    let mut config = config();
    if let Some(database) = &mut config.database {
        database.port = 3307;
    }
    let mut agent = Agent::start(config, (*snapshot.state).clone(), memory, snapshot.taken);
    let snapshot = agent.run(400, &[(Component::Database, Cause::DatabaseRefused)]);
    assert_eq!(snapshot.region.state, RegionState::Open);
    assert!(snapshot.components.iter().all(|(c, _)| c.component != Component::Database || !c.ever_healthy));
    // The target it was healthy on may come back.
    assert!(snapshot.state.ever_healthy["database"].ends_with(":3306"));
}

#[test]
fn the_state_is_the_same_arc_while_nothing_changed() {
    let (mut agent, first) = well();
    let second = agent.see_all(&[]);
    assert!(Arc::ptr_eq(&first.state, &second.state) && Arc::ptr_eq(&first.history, &second.history));
    let third = agent.see_all(&[(Component::Database, Cause::DatabaseRefused)]);
    assert!(!Arc::ptr_eq(&second.state, &third.state), "a hold began");
}

#[test]
fn history_is_a_ring_that_keeps_the_newest() {
    let (mut agent, _) = well();
    let mut last = 0;
    for _ in 0..500 {
        // Long enough to be forgotten, so that everything becomes unknown and comes back.
        agent.now = agent.now + secs(700);
        agent.publish();
        let snapshot = agent.run(3, &[]);
        assert!(snapshot.history.len() <= 2_000);
        let newest = snapshot.history.last().expect("an entry");
        assert_eq!((newest.from.as_str(), newest.to.as_str()), ("unknown", "healthy"));
        last = snapshot.history.len();
    }
    assert!(last >= 1_800, "{last}");
    // One that was loaded too long is cut as well.
    let (_, snapshot) = well();
    let long = vec![snapshot.history[0].clone(); 9_000];
    let config = Arc::new(config());
    let memory = Memory::default();
    let now = at(secs(5));
    let owner = Owner::new(about(), config, State::default(), memory, Latches::default(), false, long, now);
    let mut agent = Agent { owner, now };
    assert!(agent.publish().history.len() <= 2_000);
}

#[test]
fn a_long_detail_is_cut_in_the_history_and_nowhere_else() {
    let (mut agent, _) = well();
    let detail = "\u{fc}".repeat(4_096);
    for _ in 0..2 {
        let mut seen = observation(Component::Nginx, agent.now, Duration::ZERO, None);
        seen.outcome = Outcome::Fail(Finding::new(Cause::NginxBadStatus, detail.clone()));
        agent.take(Input::Observed(seen, oneshot::channel().0));
    }
    let snapshot = agent.publish();
    let entry = snapshot.history.iter().find(|entry| entry.to == "unhealthy").expect("the fall");
    assert_eq!(entry.detail.chars().count(), 200);
    assert_eq!(snapshot.components[0].0.finding.as_ref().map(|f| f.detail.len()), Some(8_192));
}

#[test]
fn transitions_are_counted_by_component_and_new_status() {
    let (mut agent, _) = well();
    for _ in 0..3 {
        agent.run(3, &[(Component::Database, Cause::DatabaseRefused)]);
        agent.run(13, &[]);
    }
    let snapshot = agent.publish();
    let count = |status| snapshot.transitions.get(&("database".to_owned(), status)).copied().unwrap_or(0);
    assert_eq!((count(Status::Unhealthy), count(Status::Healthy), count(Status::Degraded)), (3, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn the_owner_publishes_after_every_input_and_every_second_less_often_when_all_is_well_and_ends_with_its_inputs() {
    let mut agent = Agent::first(config());
    let first = Arc::new(agent.publish());
    let (inputs, inbox) = mpsc::channel(8);
    let (publisher, mut snapshots) = watch::channel(first);
    let owner = agent.owner.run(inbox, publisher);
    let test = async move {
        let began = tokio::time::Instant::now();
        let generation = snapshots.borrow_and_update().generation;
        snapshots.wait_for(|s| s.generation >= generation + 2).await.expect("published");
        assert_eq!(began.elapsed(), secs(2), "without any input");
        let before = snapshots.borrow().generation;
        let (reply, pace) = oneshot::channel();
        let observed = observation(Component::Nginx, BootTime::now(), Duration::ZERO, None);
        assert!(matches!(observed.outcome, Outcome::Pass));
        inputs.send(Input::Observed(observed, reply)).await.expect("the owner");
        assert_eq!(pace.await, Ok(Pace::Normal));
        let snapshot = snapshots.wait_for(|s| s.generation > before).await.expect("published").clone();
        assert_eq!(snapshot.generation, before + 1);
        assert_eq!(snapshot.components[0].0.status, Status::Healthy);
        assert_eq!(began.elapsed(), secs(2), "at once");

        let mut latest = snapshot;
        for (component, _) in latest.components.clone() {
            let (reply, _pace) = oneshot::channel();
            let seen = observation(component.component, BootTime::now(), Duration::ZERO, None);
            inputs.send(Input::Observed(seen, reply)).await.expect("the owner");
            snapshots.changed().await.expect("published");
            latest = snapshots.borrow_and_update().clone();
        }
        assert!(latest.components.iter().all(|(component, _)| component.status == Status::Healthy));
        let well = began.elapsed();
        snapshots.changed().await.expect("published");
        assert_eq!(began.elapsed(), well + secs(4));
        drop(inputs);
        assert!(snapshots.changed().await.is_err() || snapshots.changed().await.is_err());
    };
    tokio::join!(owner, test);
}

/// An image made from a running machine: nobody knew the instance at the start, so the file was taken; then IMDS names
/// another one.
#[test]
fn the_state_of_the_machine_an_image_was_made_of_is_forgotten_when_the_instance_is_known() {
    let owner = |instance: Option<&str>| state::Owner { instance: instance.map(str::to_owned), ..about().owner };
    let stored = State {
        owner: owner(Some("i-00000000000000001")),
        boot: BOOT.into(),
        ever_healthy: [("database".to_owned(), "the image's".to_owned())].into(),
        region_closed: true,
        ..State::default()
    };
    let unknown = About { owner: owner(None), ..about() };
    let memory = Memory { same_boot: true, region_closed: true, ..Memory::default() };
    let start = |about: About| {
        Owner::new(
            about,
            Arc::new(config()),
            stored.clone(),
            memory.clone(),
            Latches::default(),
            false,
            vec![],
            at(secs(9)),
        )
    };
    let publish = |owner: &mut Owner| owner.publish(at(secs(10)), Timestamp::UNIX_EPOCH);

    // As long as nobody knows, the stored id stays.
    let mut agent = start(unknown.clone());
    let snapshot = publish(&mut agent);
    assert!(snapshot.region_closed);
    assert_eq!(snapshot.state.owner, stored.owner);
    // The same instance: nothing is forgotten.
    let known = |instance| About { owner: owner(Some(instance)), ..about() };
    agent.take(Input::Reconfigured(Arc::new(config()), known("i-00000000000000001")), at(secs(10)));
    assert!(publish(&mut agent).region_closed);
    // Another one.
    let mut agent = start(unknown);
    agent.take(Input::Reconfigured(Arc::new(config()), known("i-00000000000000002")), at(secs(10)));
    let snapshot = publish(&mut agent);
    assert!(!snapshot.region_closed);
    assert_eq!(snapshot.state.ever_healthy, [].into());
    assert_eq!(snapshot.state.owner.instance.as_deref(), Some("i-00000000000000002"));
}

/// A reload without the probe and one with it again, while it fails: that it was healthy before is not forgotten.
#[test]
fn what_left_the_configuration_and_came_back_was_still_healthy_once() {
    let mut agent = Agent::first(config());
    agent.see_all(&[]);
    let without = Config { database: None, ..config() };
    agent.take(Input::Reconfigured(Arc::new(without), about()));
    let snapshot = agent.owner.publish(agent.now, Timestamp::UNIX_EPOCH);
    assert!(snapshot.state.ever_healthy.contains_key("database"));
    agent.take(Input::Reconfigured(Arc::new(config()), about()));
    let snapshot = agent.owner.publish(agent.now, Timestamp::UNIX_EPOCH);
    let (database, _) = snapshot.components.iter().find(|(c, _)| c.component == Component::Database).unwrap();
    assert!(database.ever_healthy);
}
