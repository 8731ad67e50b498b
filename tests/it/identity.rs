//! Who this instance is, where it is being taken, and who is in its group: from a metadata service and an AWS that
//! answer, lie, break and hang. No verdict changes for any of it but where the contract says so.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use dr_agent::aws::pace;
use dr_agent::group::keys::{self, Keys, Message};
use dr_agent::group::membership::{self, Member, Membership};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::ask;
use crate::support::aws_proxy::{AwsProxy, Fault};
use crate::support::eventually;
use crate::support::imds::{Imds, Mood};
use crate::support::moto::Moto;
use crate::support::nginx::Nginx;
use crate::support::site::{self, Scratch};

const INSTANCE: &str = "i-0123456789abcdef0";

/// One whose turn to ask comes soon after its start.
const EARLY: &str = "i-0123456789ab2d00";
const TARGET: &str = "autoscaling/target-lifecycle-state";
const SPOT: &str = "spot/instance-action";

/// An agent that serves.
struct Rig {
    agent: Agent,
    _nginx: Nginx,
    environment: Vec<(&'static str, String)>,
}

impl Rig {
    fn new(imds: &str, environment: Vec<(&'static str, String)>) -> Self {
        let scratch = Scratch::new();
        let nginx = site::start(&scratch, "", "");
        let config = format!(
            "[probe.nginx]\nurl = \"{}\"\npid_file = \"{}\"\n[probe.wiring]\ninterval = \"1h\"\n",
            nginx.url("/health/nginx"),
            nginx.pid_file().display(),
        );
        let agent = Agent::new(scratch, &config);
        let mut environment = environment;
        environment.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.to_owned()));
        environment.push(("HOME", "/nonexistent".to_owned()));
        let mut rig = Self { agent, _nginx: nginx, environment };
        rig.start();
        rig
    }

    fn start(&mut self) {
        let environment: Vec<_> = self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.agent.start_with(&environment);
    }

    fn state(&self) -> Value {
        self.agent.public().get("/health/instance").expect("an answer").json()["state"].clone()
    }

    fn status(&self) -> Value {
        self.agent.control().get("/status").expect("an answer").json()
    }

    fn word(&self) -> Value {
        self.agent.peer().get("/peer").expect("an answer").json()
    }

    fn membership(&self) -> Option<Membership> {
        membership::load(&self.agent.scratch.state()).expect("a readable file")
    }
}

fn is(condition: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    if condition { Ok(()) } else { Err(format!("{seen:?}")) }
}

#[test]
fn standby_drains_until_the_instance_is_in_service_again_and_nothing_else_ends_it() {
    let imds = Imds::of(INSTANCE, "us-east-1a", "web");
    imds.set(TARGET, Some("InService"));
    let mut rig = Rig::new(&imds.endpoint(), vec![]);
    rig.agent.wait_for("/health/instance", 200);
    imds.set(TARGET, Some("Standby"));
    rig.agent.wait_for("/health/instance", 503);
    assert_eq!(rig.state(), "draining");
    let scratch = &rig.agent.scratch;
    eventually("the marker is set", || is(scratch.has("draining"), "no marker"));
    assert_eq!(rig.status()["lifecycle"]["target"], "standby");
    assert_eq!(rig.word()["draining"], true);
    assert_eq!(rig.agent.public().get("/health/region").unwrap().status, 200);

    for mood in [Mood::Strange, Mood::Silent] {
        imds.be(mood);
        let before = imds.count("");
        eventually("it was asked twice", || is(imds.count("") >= before + 2, imds.count("")));
        assert_eq!(rig.state(), "draining", "{mood:?}");
    }
    // An agent that starts into the silence.
    rig.agent.stop();
    rig.start();
    assert_eq!(rig.state(), "draining");

    imds.be(Mood::Well);
    for nothing in [None, Some("Retained")] {
        imds.set(TARGET, nothing);
        let before = imds.count(TARGET);
        eventually("it was asked twice", || is(imds.count(TARGET) >= before + 2, imds.count(TARGET)));
        assert_eq!(rig.state(), "draining", "{nothing:?}");
    }
    imds.end_tokens();
    imds.set(TARGET, Some("InService"));
    rig.agent.wait_for("/health/instance", 200);
    eventually("the marker is cleared", || is(!rig.agent.scratch.has("draining"), "a marker"));
    rig.agent.stop();
}

#[test]
fn a_spot_notice_drains_and_a_recommendation_is_only_told() {
    let imds = Imds::of(INSTANCE, "us-east-1a", "web");
    imds.set("events/recommendations/rebalance", Some(r#"{"noticeTime": "2026-11-25T08:20:00Z"}"#));
    let mut rig = Rig::new(&imds.endpoint(), vec![]);
    eventually("it is told", || is(rig.status()["lifecycle"]["rebalance"] == true, rig.status()["lifecycle"].clone()));
    rig.agent.wait_for("/health/instance", 200);
    let metrics = rig.agent.peer().get("/metrics").unwrap().body;
    assert!(metrics.contains("dr_agent_rebalance_recommended 1"), "{metrics}");

    imds.set(SPOT, Some(r#"{"action": "stop", "time": "2026-11-25T08:22:00Z"}"#));
    rig.agent.wait_for("/health/instance", 503);
    assert_eq!(rig.state(), "draining");
    let said = |command: &[&str]| {
        let mut dr_agent = std::process::Command::new(crate::support::agent_binary());
        let output = dr_agent.args(command).arg("--config").arg(rig.agent.config()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for command in [["status"].as_slice(), &["explain", "instance"]] {
        let text = said(command).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("EC2 will stop this spot instance at 2026-11-25T08:22:00Z"), "{command:?}: {text}");
    }
    rig.agent.stop();
}

#[test]
fn a_warmed_instance_is_not_in_service() {
    let imds = Imds::of(INSTANCE, "us-east-1a", "web");
    imds.set(TARGET, Some("Warmed:Running"));
    let mut rig = Rig::new(&imds.endpoint(), vec![]);
    eventually("it is drained", || is(rig.state() == "draining", rig.state()));
    rig.agent.stop();
}

/// Where no metadata service answers, or one that knows nothing, or something else, no call to AWS is ever made.
#[test]
fn elsewhere_nothing_is_known_and_nothing_is_asked() {
    let strange = Imds::start(&[]);
    strange.be(Mood::Strange);
    let empty = Imds::start(&[]);
    let proxy = AwsProxy::start(9);
    for imds in ["http://127.0.0.1:9".to_owned(), "not a url".to_owned(), strange.endpoint(), empty.endpoint()] {
        let mut rig = Rig::new(&imds, proxy.environment());
        rig.agent.wait_for("/health/instance", 200);
        assert_eq!(rig.word()["group"], Value::Null);
        assert!(rig.status().get("lifecycle").is_none());
        let metrics = rig.agent.peer().get("/metrics").unwrap().body;
        assert!(!metrics.contains("dr_agent_aws_calls_total{"), "{metrics}");
        rig.agent.stop();
    }
    assert!(proxy.actions().is_empty(), "{:?}", proxy.actions());
}

#[test]
fn without_tags_in_the_metadata_aws_names_the_group_and_it_is_remembered() {
    let moto = Moto::start();
    let instances = moto.group("web", 2);
    let proxy = AwsProxy::start(moto.port);
    // A role that may not ask Auto Scaling, and credentials from the metadata service.
    proxy.fail("DescribeAutoScalingInstances", Fault::Refuse("AccessDenied"));
    let imds = Imds::start(&[
        ("instance-id", &instances[0]),
        ("placement/region", "us-east-1"),
        ("placement/availability-zone", "us-east-1a"),
        ("iam/security-credentials/", "web-role"),
        (
            "iam/security-credentials/web-role",
            r#"{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIATEST", "SecretAccessKey": "test",
                "Token": "test", "Expiration": "2099-01-01T00:00:00Z", "LastUpdated": "2026-01-01T00:00:00Z"}"#,
        ),
    ]);
    let mut rig = Rig::new(&imds.endpoint(), vec![("AWS_ENDPOINT_URL", proxy.endpoint())]);
    let known = eventually("the members are known", || rig.membership().ok_or_else(|| rig.agent.log()));
    assert_eq!(known.group, "web");
    assert_eq!(known.members.iter().map(|member| &member.instance).collect::<Vec<_>>(), [&instances[0], &instances[1]]);
    eventually("the word says so", || is(rig.word()["group"] == "web", rig.word()));
    assert_eq!((rig.word()["zone"].clone(), rig.word()["region"].clone()), (json!("us-east-1a"), json!("us-east-1")));
    let metrics = rig.agent.peer().get("/metrics").unwrap().body;
    for sample in [
        r#"{action="autoscaling:DescribeAutoScalingInstances",result="denied"} 1"#,
        "{action=\"ec2:DescribeInstances\",result=\"ok\"} 2",
    ] {
        assert!(metrics.contains(&format!("dr_agent_aws_calls_total{sample}")), "{metrics}");
    }
    rig.agent.stop();

    // From now on nobody answers.
    proxy.fail("", Fault::Hang);
    proxy.fail("DescribeAutoScalingInstances", Fault::Hang);
    imds.be(Mood::Silent);
    let asked = proxy.count("DescribeAutoScalingInstances");
    rig.start();
    rig.agent.wait_for("/health/instance", 200);
    eventually("the word says so still", || is(rig.word()["group"] == "web", rig.word()));
    assert_eq!(rig.membership(), Some(known));
    assert_eq!(proxy.count("DescribeAutoScalingInstances"), asked);
    rig.agent.stop();
}

/// Whatever becomes of the question who is in the group, the old list stays and so do the verdicts.
#[test]
fn an_answer_that_cannot_be_right_takes_no_member_away() {
    assert!(pace::fraction(0, EARLY) < 0.05, "it must ask within 3 s of its start");
    let moto = Moto::start();
    let described = moto.group("web", 2);
    let proxy = AwsProxy::start(moto.port);
    let imds = Imds::of(EARLY, "us-east-1a", "web");
    let mut rig = Rig::new(&imds.endpoint(), proxy.environment());
    rig.agent.stop();
    // AWS does not know this instance, which has a fellow that AWS does not know either.
    let member = |instance: &str, last| Member {
        instance: instance.to_owned(),
        zone: "us-east-1a".to_owned(),
        address: Ipv4Addr::new(127, 0, 0, last).into(),
        port: Some(9),
    };
    let members = vec![member(EARLY, 1), member("i-0fe110e000", 2)];
    let at = jiff::Timestamp::UNIX_EPOCH;
    let known = Membership { group: "web".to_owned(), at, members: members.clone(), desired: None };
    let state = rig.agent.scratch.state();
    membership::save(&state, &known).unwrap();

    for fault in [Fault::Truncated, Fault::Throttle, Fault::Refuse("UnauthorizedOperation")] {
        proxy.fail("DescribeInstances", fault.clone());
        let before = rig.agent.log().matches("stay as they were known").count();
        rig.start();
        eventually("it failed", || {
            let log = rig.agent.log();
            is(log.matches("stay as they were known").count() > before, log)
        });
        rig.agent.wait_for("/health/instance", 200);
        assert_eq!(rig.membership(), Some(known.clone()), "{fault:?}");
        rig.agent.stop();
    }
    proxy.heal("DescribeInstances");
    rig.start();
    let now =
        eventually("AWS was heard", || rig.membership().filter(|now| *now != known).ok_or_else(|| rig.agent.log()));
    for instance in described.iter().chain(members.iter().map(|member| &member.instance)) {
        assert!(now.member(instance).is_some(), "{instance}: {now:?}");
    }
    rig.agent.stop();
}

/// Another member, as far as it answers questions: it signs what it says of itself, and counts.
struct Peer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    word: Arc<Mutex<Value>>,
}

impl Peer {
    fn start(address: SocketAddr, keys: &Keys, instance: &str, group: &str) -> Self {
        let word = json!({"proto": 1, "deployment": "test", "region": "us-east-1", "group": group, "zone": "us-east-1a",
            "instance": instance, "boot": "b", "state": "serving", "serving": true, "region_closed": false,
            "draining": false, "components": {}});
        let listener = TcpListener::bind(address).expect("bind an address of loopback");
        let peer = Self { address, asked: Arc::default(), word: Arc::new(Mutex::new(word)) };
        let (asked, word, keys) = (Arc::clone(&peer.asked), Arc::clone(&peer.word), keys.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let nonce = lines.find_map(|line| Some(line.strip_prefix("x-dr-agent-nonce: ")?.to_owned()));
                let Some(nonce) = nonce else { continue };
                drop(lines.find(String::is_empty));
                let body = word.lock().expect("no panic").to_string();
                let mac = keys.sign(Message::Answer { nonce: &nonce, status: 200, body: body.as_bytes() });
                asked.fetch_add(1, Ordering::SeqCst);
                let head = format!("HTTP/1.1 200 OK\r\nx-dr-agent-mac: {mac}\r\nContent-Length: {}", body.len());
                drop((&stream).write_all(format!("{head}\r\n\r\n{body}").as_bytes()));
            }
        });
        peer
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Asks the agent at `port` from its own address, and returns the status of the answer.
    fn knock(&self, port: u16, keys: &Keys) -> u16 {
        let nonce = keys::nonce().expect("randomness");
        let message = Message::Request { method: "GET", path: "/peer", deployment: "test", nonce: &nonce, body: b"" };
        let mac = keys.sign(message);
        let knocking = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&knocking, &SocketAddr::new(self.address.ip(), 0)).expect("bind");
        connect(&knocking, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).expect("connect");
        let mut stream = TcpStream::from(knocking);
        let head = format!(
            "GET /peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}: {nonce}\r\n{}: {mac}\r\n\r\n",
            keys::NONCE,
            keys::MAC
        );
        stream.write_all(head.as_bytes()).expect("ask");
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut text).expect("an answer");
        ask::parse(&text).expect("an answer").status
    }
}

fn keys(dir: &Path) -> Keys {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join("group.key");
    fs::write(&file, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    Keys::read(&file).expect("a usable key")
}

#[test]
fn who_introduces_itself_is_a_member_until_aws_says_otherwise() {
    let imds = Imds::of(INSTANCE, "us-east-1a", "web");
    let mut rig = Rig::new("http://127.0.0.1:9", vec![]);
    rig.agent.stop();
    rig.environment.retain(|(name, _)| *name != "AWS_EC2_METADATA_SERVICE_ENDPOINT");
    rig.environment.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint()));
    let keys = keys(&rig.agent.scratch.path(""));
    let config = fs::read_to_string(rig.agent.config()).unwrap();
    let key_file = rig.agent.scratch.path("group.key");
    fs::write(rig.agent.config(), format!("key_file = \"{}\"\n{config}", key_file.display())).unwrap();
    let port = rig.agent.peer_port;
    let at = |last| SocketAddr::from(([127, 0, 0, last], port));
    let member = |instance: &str, last| Member {
        instance: instance.to_owned(),
        zone: "us-east-1a".to_owned(),
        address: Ipv4Addr::new(127, 0, 0, last).into(),
        port: None,
    };
    let known = |second, members: &[Member]| Membership {
        group: "web".to_owned(),
        at: jiff::Timestamp::from_second(second).unwrap(),
        members: members.to_vec(),
        desired: None,
    };
    let own = member(INSTANCE, 1);
    let old = Peer::start(at(2), &keys, "i-000000002", "web");
    let guest = Peer::start(at(3), &keys, "i-000000003", "web");
    let stranger = Peer::start(at(4), &keys, "i-000000004", "other");
    let state = rig.agent.scratch.state();
    membership::save(&state, &known(1, &[own.clone(), member("i-000000002", 2)])).unwrap();
    rig.start();
    eventually("the one that is known is asked", || is(old.asked() >= 2, old.asked()));
    assert_eq!((guest.asked(), stranger.asked()), (0, 0));

    // The list of known addresses stands by now: a knock at another one is heard.
    assert_eq!(guest.knock(port, &keys), 200);
    assert_eq!(stranger.knock(port, &keys), 200);
    eventually("the guest is asked round after round", || is(guest.asked() >= 4, guest.asked()));
    assert_eq!(stranger.asked(), 1, "it said that it is of another group");

    // AWS describes the group without the guest, which may knock as often as it likes.
    membership::save(&state, &known(2, &[own.clone(), member("i-000000002", 2)])).unwrap();
    let (rounds, asked) = (old.asked(), guest.asked());
    eventually("three rounds more", || {
        guest.knock(port, &keys);
        is(old.asked() >= rounds + 3, old.asked())
    });
    assert!(guest.asked() <= asked + 1, "it is asked no more");
    // And with it: then it is one like any other.
    membership::save(&state, &known(3, &[own, member("i-000000002", 2), member("i-000000003", 3)])).unwrap();
    let asked = guest.asked();
    eventually("it is asked again", || is(guest.asked() >= asked + 2, guest.asked()));
    rig.agent.stop();
}
