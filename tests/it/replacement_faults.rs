//! A replacement while AWS and the agent itself fail at each step: the real agent, on the one instance of a group, and
//! an Auto Scaling behind a proxy that counts what is asked.

use std::fs;
use std::time::Duration;

use dr_agent::clock::Stamp;
use dr_agent::replace::memory::{Decision, Memory, Outcome};
use dr_agent::replace::store::Kept;
use dr_agent::state::Owner;
use jiff::Timestamp;
use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::aws_proxy::{AwsProxy, Fault};
use crate::support::imds::Imds;
use crate::support::moto::{Moto, REGION};
use crate::support::site::Scratch;
use crate::support::{eventually, signal, within};

const MARK: &str = "SetInstanceHealth";
const TAG: &str = "CreateOrUpdateTags";

/// A look comes every 30 s, and one that hangs takes 10 s.
const NEXT_LOOK: Duration = Duration::from_secs(75);

/// The shortest cooldown, and a look after it.
const NEXT_DECISION: Duration = Duration::from_secs(100);

/// Longer than any test.
const NEVER: &str = "1h";
const SHORTEST: &str = "30s";

/// An agent and its AWS.
struct Rig {
    agent: Agent,
    imds: Imds,
    proxy: AwsProxy,
    group: String,
    cooldown: &'static str,
}

impl Rig {
    /// On the only instance of a new group, where it has been for long and is well.
    fn new(moto: &Moto, group: &str, cooldown: &'static str) -> Self {
        let rig = Self::start(moto, group, cooldown);
        rig.wait_until_well();
        rig
    }

    fn start(moto: &Moto, group: &str, cooldown: &'static str) -> Self {
        let instance = moto.group(group, 1).remove(0);
        set(moto, group, "HealthCheckGracePeriod=0");
        let imds = Imds::of(&instance, &format!("{REGION}a"), group);
        let agent = Agent::new(Scratch::new(), "");
        let proxy = AwsProxy::start(moto.port);
        let owner =
            Owner { deployment: Some("test".to_owned()), instance: Some(instance), region: Some(REGION.to_owned()) };
        let long_ago = Stamp { boot: "before".to_owned(), wall: Timestamp::UNIX_EPOCH, ..Stamp::now("before") };
        let kept = Kept::new(&owner, long_ago);
        fs::create_dir_all(agent.scratch.state()).unwrap();
        fs::write(agent.scratch.state().join("replace.json"), serde_json::to_vec(&kept).unwrap()).unwrap();
        let key = agent.scratch.path("key");
        fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut rig = Self { agent, imds, proxy, group: group.to_owned(), cooldown };
        rig.configure(false);
        rig.start_agent();
        rig
    }

    fn wait_until_well(&self) {
        eventually("its disk is well and it knows its group", || {
            let status = self.status()?;
            let components = status["components"].as_array().cloned().unwrap_or_default();
            let is_well = components.iter().any(|one| one["name"] == "host" && one["status"] == "healthy");
            let knows = !status["group"].is_null();
            if is_well && knows { Ok(()) } else { Err(format!("{status:#}\n{}", self.agent.log())) }
        });
    }

    /// Its disk is well, or so full that only another instance helps.
    fn configure(&self, is_full: bool) {
        self.agent.configure(&format!(
            "[probe.nginx]\nurl = \"http://127.0.0.1:9/\"\n[probe.host]\ninterval = \"500ms\"\ntimeout = \"400ms\"\n\
             pressure = \"100%\"\nlow = \"{0}\"\nfull = \"{0}\"\n[replace]\nmode = \"enforce\"\nsustain = \"200ms\"\n\
             cooldown = \"{1}\"\n",
            if is_full { "100%" } else { "0%" },
            self.cooldown,
        ));
        let text = fs::read_to_string(self.agent.config()).unwrap();
        let key = self.agent.scratch.path("key");
        fs::write(self.agent.config(), format!("key_file = \"{}\"\n{text}", key.display())).unwrap();
    }

    fn start_agent(&mut self) {
        let mut environment = self.proxy.environment();
        environment.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.imds.endpoint()));
        environment.push(("HOME", "/nonexistent".to_owned()));
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.agent.start_with(&environment);
    }

    /// SIGKILL, and a start.
    fn restart(&mut self) {
        self.agent.kill();
        self.start_agent();
    }

    /// From now on its disk is full.
    fn fall_ill(&self) {
        self.configure(true);
        signal(self.agent.pid(), "HUP");
    }

    fn status(&self) -> Result<Value, String> {
        let answer = self.agent.control().get("/status").map_err(|error| format!("{error}\n{}", self.agent.log()))?;
        serde_json::from_str(&answer.body).map_err(|error| error.to_string())
    }

    fn wait_for_plan(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        within(NEXT_LOOK, what, || {
            let replacement = self.status()?["replacement"].clone();
            if is_so(&replacement) { Ok(()) } else { Err(format!("{replacement:#}\n{}", self.agent.log())) }
        });
    }

    fn wait_for_refusal(&self, refusal: &str) {
        self.wait_for_plan(refusal, |replacement| {
            replacement["refusals"].as_array().is_some_and(|all| all.iter().any(|one| one == refusal))
        });
    }

    fn wait_until_marked(&self) {
        self.wait_for_plan("it was marked", |replacement| replacement["plan"] == "marked");
    }

    fn wait_for_marks(&self, count: usize) {
        let what = format!("{}: {count} calls", self.group);
        within(NEXT_DECISION, &what, || match self.marks() {
            // More when others of the test take their time: with the shortest cooldown it decides anew meanwhile.
            marks if marks >= count => Ok(()),
            marks => Err(format!("{marks}: {:?}\n{}", self.proxy.actions(), self.agent.log())),
        });
    }

    fn marks(&self) -> usize {
        self.proxy.count(MARK)
    }

    fn kept(&self) -> Memory {
        let text = fs::read(self.agent.scratch.state().join("replace.json")).expect("it is kept");
        serde_json::from_slice::<Kept>(&text).expect("it is readable").memory
    }

    /// The decision, once it has come to what is wanted.
    fn wait_for_decision(&self, what: &str, is_so: impl Fn(&Outcome) -> bool) -> Decision {
        within(NEXT_DECISION, what, || match self.kept().decision {
            Some(decision) if is_so(&decision.outcome) => Ok(decision),
            decision => Err(format!("{decision:?}\n{}", self.agent.log())),
        })
    }
}

fn set(moto: &Moto, group: &str, parameters: &str) {
    moto.call("autoscaling", "UpdateAutoScalingGroup", &format!("AutoScalingGroupName={group}&{parameters}"));
}

fn faults() -> [Fault; 8] {
    [
        Fault::Hang,
        Fault::Reset,
        Fault::Status(500),
        Fault::Throttle,
        Fault::Lost,
        Fault::Truncated,
        Fault::Trickle,
        Fault::Refuse("AccessDenied"),
    ]
}

/// Agents whose AWS fails one call each in every way. They fall ill together.
fn each_way(moto: &Moto, action: &str, cooldown: &'static str) -> Vec<(Fault, Rig)> {
    let rigs = faults().into_iter().enumerate().map(|(n, fault)| {
        let rig = Rig::start(moto, &format!("web{n}"), cooldown);
        rig.proxy.fail(action, fault.clone());
        (fault, rig)
    });
    let rigs: Vec<_> = rigs.collect();
    for (_, rig) in &rigs {
        rig.wait_until_well();
    }
    for (_, rig) in &rigs {
        rig.fall_ill();
    }
    rigs
}

fn a_look_that_fails(action: &str) {
    let moto = Moto::start();
    let rigs = each_way(&moto, action, NEVER);
    for (fault, rig) in &rigs {
        rig.wait_for_refusal("ApiUnavailable");
        assert_eq!((rig.marks(), rig.proxy.count(TAG)), (0, 0), "{fault:?}");
        rig.proxy.heal(action);
    }
    for (fault, rig) in &rigs {
        rig.wait_for_marks(1);
        let decision = rig.wait_for_decision("it is settled", |outcome| *outcome == Outcome::Accepted);
        assert_eq!(decision.cause, "disk-full", "{fault:?}");
        rig.wait_until_marked();
    }
}

#[test]
fn while_the_group_is_not_described_nobody_goes_and_then_it_goes_on() {
    a_look_that_fails("DescribeAutoScalingGroups");
}

#[test]
fn while_its_activities_are_not_told_nobody_goes_and_then_it_goes_on() {
    a_look_that_fails("DescribeScalingActivities");
}

#[test]
fn while_its_refreshes_are_not_told_nobody_goes_and_then_it_goes_on() {
    a_look_that_fails("DescribeInstanceRefreshes");
}

/// A group of one has nothing but the tag to remember by.
#[test]
fn alone_without_a_note_it_does_not_go() {
    let moto = Moto::start();
    for (fault, rig) in each_way(&moto, TAG, NEVER) {
        rig.wait_for_decision("it is refused", |outcome| matches!(outcome, Outcome::Refused(_)));
        rig.wait_for_refusal("ApiUnavailable");
        assert_eq!(rig.marks(), 0, "{fault:?}");
        assert_eq!(rig.kept().given, None, "{fault:?}: the own grant is back");
    }
}

#[test]
fn a_call_is_made_once_whatever_comes_of_it() {
    let moto = Moto::start();
    let mut rigs = each_way(&moto, MARK, NEVER);
    for (fault, rig) in &mut rigs {
        rig.wait_for_marks(1);
        let surely_not = matches!(fault, Fault::Throttle | Fault::Refuse(_));
        if surely_not {
            rig.wait_for_decision("it is refused", |outcome| matches!(outcome, Outcome::Refused(_)));
            rig.wait_for_refusal("ApiUnavailable");
            assert_eq!(rig.kept().given, None, "{fault:?}: the own grant is back");
        } else {
            rig.wait_until_marked();
        }
        rig.proxy.heal(MARK);
        rig.restart();
        if surely_not {
            rig.wait_for_refusal("ApiUnavailable");
            continue;
        }
        rig.wait_until_marked();
        if matches!(fault, Fault::Lost | Fault::Truncated) {
            rig.wait_for_decision("the group shows that it was heard", |outcome| *outcome == Outcome::Accepted);
        } else {
            let seen = rig.proxy.count("DescribeAutoScalingGroups");
            within(NEXT_LOOK, "a look more", || match rig.proxy.count("DescribeAutoScalingGroups") {
                looks if looks > seen => Ok(()),
                looks => Err(format!("{looks}")),
            });
            assert_eq!(rig.kept().decision.unwrap().outcome, Outcome::Calling, "{fault:?}: nobody knows");
        }
    }
    for (fault, rig) in &rigs {
        assert_eq!(rig.marks(), 1, "{fault:?}");
    }
}

/// What was refused, or came to nothing, is decided anew after the cooldown; not before.
#[test]
fn after_the_cooldown_it_decides_anew() {
    let moto = Moto::start();
    let rigs = each_way(&moto, MARK, SHORTEST);
    let mut first = Vec::new();
    for (fault, rig) in &rigs {
        rig.wait_for_marks(1);
        rig.proxy.heal(MARK);
        first.push(rig.kept().decision.unwrap_or_else(|| panic!("{fault:?}: none")).id);
    }
    for ((fault, rig), first) in rigs.iter().zip(first) {
        let last = rig.wait_for_decision("one is heard", |outcome| *outcome == Outcome::Accepted);
        let was_heard = matches!(fault, Fault::Lost | Fault::Truncated);
        assert_eq!((last.id == first, rig.marks()), (was_heard, if was_heard { 1 } else { 2 }), "{fault:?}");
    }
}

#[test]
fn killed_between_the_decision_and_the_call_it_does_not_call_twice() {
    let moto = Moto::start();
    for (n, at) in [TAG, MARK].into_iter().enumerate() {
        let mut rig = Rig::new(&moto, &format!("web{n}"), NEVER);
        rig.proxy.fail(at, Fault::Hang);
        rig.fall_ill();
        within(NEXT_LOOK, at, || match rig.proxy.count(at) {
            0 => Err("not called"),
            _ => Ok(()),
        });
        let before = rig.marks();
        rig.restart();
        assert_eq!(rig.kept().decision.expect("it was written down").outcome, Outcome::Calling);
        rig.proxy.heal(at);
        rig.wait_until_marked();
        rig.restart();
        rig.wait_until_marked();
        assert_eq!(rig.marks(), before);
    }
}

#[test]
fn within_the_grace_period_it_waits_and_a_restart_does_not_shorten_it() {
    let moto = Moto::start();
    let mut rig = Rig::new(&moto, "web", NEVER);
    set(&moto, "web", "HealthCheckGracePeriod=20");
    rig.proxy.fail(MARK, Fault::InGracePeriod);
    rig.fall_ill();
    let waits = |replacement: &Value| {
        replacement["plan"] == "wait" && replacement["refusals"] == serde_json::json!(["InGracePeriod"])
    };
    rig.wait_for_plan("it waits", waits);
    assert_eq!((rig.marks(), rig.kept().decision, rig.kept().given), (1, None, None));
    rig.proxy.heal(MARK);
    rig.restart();
    rig.wait_for_plan("it waits still", waits);
    rig.wait_for_marks(2);
    rig.wait_for_decision("it is heard", |outcome| *outcome == Outcome::Accepted);
}

/// Each by its name, while it lasts.
#[test]
fn a_group_that_must_not_be_touched_is_not() {
    let moto = Moto::start();
    let name = |n| format!("AutoScalingGroupName=web{n}");
    let suspend = |process| format!("ScalingProcesses.member.1={process}");
    let cases = [
        ("SuspendProcesses", suspend("Launch"), "ProcessSuspended"),
        ("SuspendProcesses", suspend("Terminate"), "ProcessSuspended"),
        ("SuspendProcesses", suspend("ReplaceUnhealthy"), "ProcessSuspended"),
        ("", String::new(), "StoppedByTag"),
        ("SetDesiredCapacity", "DesiredCapacity=3".to_owned(), "NoQuorum"),
    ];
    let rigs: Vec<_> =
        cases.into_iter().enumerate().map(|(n, case)| (Rig::start(&moto, &format!("web{n}"), NEVER), case)).collect();
    for (rig, _) in &rigs {
        rig.wait_until_well();
    }
    for (n, (rig, (action, parameters, _))) in rigs.iter().enumerate() {
        if action.is_empty() {
            moto.tag(&rig.group, "dr-agent:replace", "off");
        } else {
            moto.call("autoscaling", action, &format!("{}&{parameters}", name(n)));
        }
        rig.fall_ill();
    }
    for (rig, (.., refusal)) in &rigs {
        rig.wait_for_refusal(refusal);
        assert_eq!(rig.marks(), 0);
    }
    moto.call("autoscaling", "ResumeProcesses", &format!("{}&{}", name(0), suspend("Launch")));
    rigs[0].0.wait_for_marks(1);
    for (rig, _) in &rigs[1..] {
        assert_eq!(rig.marks(), 0);
    }
}

/// The tag is all that a group of one has to remember by, and it remembers.
#[test]
fn alone_the_note_keeps_the_budget() {
    let moto = Moto::start();
    let rig = Rig::new(&moto, "web", NEVER);
    let ago = |hours| Timestamp::now() - jiff::SignedDuration::from_hours(hours);
    let note = format!("{:.0}=i-0a=disk-full {:.0}=i-0b=disk-read-only", ago(7), ago(8));
    moto.tag("web", "dr-agent:last-replacement", &note);
    rig.fall_ill();
    rig.wait_for_refusal("ReplacementDidNotCure");
    assert_eq!(rig.marks(), 0);

    let other = Rig::new(&moto, "other", NEVER);
    other.fall_ill();
    other.wait_for_marks(1);
    let described = moto.call("autoscaling", "DescribeAutoScalingGroups", "AutoScalingGroupNames.member.1=other");
    assert!(described.contains("<Key>dr-agent:last-replacement</Key>"), "{described}");
}
