//! What members tell each other about a replacement, when one of them lies, hangs, breaks, is somebody else or of another
//! release; and keys that change under all of them.

use std::fs;
use std::time::Instant;

use dr_agent::clock::{Stamp, wall};
use dr_agent::group::ask::{Heard, Silence};
use dr_agent::group::keys::{self, Keys, MAC, Message, NONCE};
use dr_agent::health::cause::Cause;
use dr_agent::observation::Component;
use dr_agent::replace::outlook::Outlook;
use dr_agent::replace::plan::Plan;
use dr_agent::replace::refusal::Refusal;
use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::ask::{Answer, Target};
use crate::support::fake_member::{Answers, FakeMember, Says, word};
use crate::support::imds::Imds;
use crate::support::member::{BOOT, Group, Member, name};
use crate::support::site::Scratch;
use crate::support::{eventually, within};

const FULL: Option<(Component, Cause)> = Some((Component::Host, Cause::DiskFull));

const GRANTED: &[u8] = br#"{"granted":true}"#;

/// A group whose first members are real and whose last one is not.
fn group(real: u8, answers: Answers) -> (Group, Vec<Member>, FakeMember) {
    let group = Group::new(real + 1);
    let port = group.entries[usize::from(real)].port.expect("it has one");
    let fake = FakeMember::start(port, group.asker().keys, group.old_keys(), answers);
    let members = (0..real).map(|n| group.start(n)).collect();
    (group, members, fake)
}

fn refuses(status: &Outlook, refusal: Refusal) -> bool {
    matches!(&status.plan, Plan::Refused(refusals) if refusals.contains(&refusal))
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// The word of the member that is not real, changed.
fn changed(change: impl FnOnce(&mut Value)) -> Says {
    let mut word = word(&name(1));
    change(&mut word);
    Says::This(200, bytes(&word))
}

/// Who fails and has no word of a member that counts is not replaced, and asks nobody to.
#[test]
fn a_word_that_proves_nothing_convicts_nobody() {
    let honest = || bytes(&word(&name(1)));
    let mut long = honest();
    long.resize(1 << 20, b' ');
    let cases = [
        Says::Nothing,
        Says::Half,
        Says::Garbage,
        Says::This(200, long),
        Says::This(200, b"{\"proto\":1}".to_vec()),
        Says::This(503, honest()),
        Says::Unsigned(200, honest()),
        Says::OldKey(200, honest()),
        Says::Replayed(200, honest()),
        // Somebody else lives at that address now: of this group, of another one, of another deployment.
        changed(|word| word["instance"] = json!("i-somebody")),
        changed(|word| word["group"] = json!("other")),
        changed(|word| word["deployment"] = json!("other")),
        changed(|word| word["region"] = Value::Null),
        // It looks at something else, or has not looked yet.
        changed(|word| word["components"]["host"]["target"] = json!("0")),
        changed(|word| word["components"]["host"]["status"] = json!("starting")),
        changed(|word| word["components"]["host"] = json!({"target": "0", "status": "healthy"})),
        changed(|word| _ = word["components"].as_object_mut().unwrap().remove("host")),
    ];
    let rigs = cases.map(|says| {
        let (group, members, fake) = group(1, Answers { word: says.clone(), ..Answers::honest(&name(1)) });
        (says, group, members, fake)
    });
    for (says, _, members, _) in &rigs {
        // Until then it knows of nobody.
        eventually("it was asked, and that is over", || {
            let heard = members[0].snapshot().round.as_ref().map_or(0, |round| round.heard.len());
            if heard == 1 { Ok(()) } else { Err(format!("{says:?}")) }
        });
        members[0].set(FULL);
    }
    for (says, group, members, fake) in &rigs {
        let what = format!("{:.60}: it is refused", format!("{says:?}"));
        members[0].wait_for(&what, |status| refuses(status, Refusal::PeersShareIt));
        assert_eq!((group.scaling.marked().len(), fake.grants()), (0, 0), "{what}");
        assert_eq!(*group.scaling.looks.lock().unwrap(), 0, "{what}");
    }
}

/// Fields that it does not have, and fields that nobody here knows.
#[test]
fn a_word_of_an_older_or_a_newer_release_counts() {
    let newer = changed(|word| {
        word["proto"] = json!(2);
        word["mood"] = json!({"of": "the day"});
        word["components"]["host"]["since"] = json!([1, 2]);
        word["components"]["app2"] = json!({"target": "x", "status": "healthy", "cause": "unheard-of"});
    });
    for says in [changed(|_| {}), newer] {
        let (group, members, _fake) = group(1, Answers { word: says, ..Answers::honest(&name(1)) });
        members[0].wait_until_well(1);
        members[0].set(FULL);
        eventually("it goes", || match group.scaling.marked() {
            marked if marked == [name(0)] => Ok(()),
            marked => Err(format!("{marked:?} {:?}", members[0].snapshot().replacement)),
        });
    }
}

/// One member that says that it is well where all others fail is no majority.
#[test]
fn one_liar_sends_nobody_away() {
    let answers = Answers { word: Says::This(200, bytes(&word(&name(2)))), ..Answers::honest(&name(2)) };
    let (group, members, fake) = group(2, answers);
    for member in &members {
        member.wait_until_well(2);
        member.set(FULL);
    }
    let asked = fake.words();
    eventually("rounds enough to agree on something", || {
        let asked = fake.words() - asked;
        if asked >= 12 { Ok(()) } else { Err(format!("{asked} questions")) }
    });
    for member in &members {
        member.wait_for("nobody knows whose fault it is", |status| refuses(status, Refusal::NotLocal));
    }
    assert_eq!((group.scaling.marked().len(), *group.scaling.looks.lock().unwrap()), (0, 0));
}

#[test]
fn a_grant_that_proves_nothing_is_none_and_goes_back() {
    // Whether it may have been given.
    let cases = [
        (Says::Nothing, true),
        (Says::Half, true),
        (Says::Garbage, true),
        (Says::This(200, vec![b' '; 1 << 20]), true),
        (Says::This(503, GRANTED.to_vec()), true),
        (Says::Unsigned(200, GRANTED.to_vec()), true),
        (Says::OldKey(200, GRANTED.to_vec()), true),
        (Says::Replayed(200, GRANTED.to_vec()), true),
        (Says::OtherStatus(200, GRANTED.to_vec()), true),
        (Says::This(409, b"no".to_vec()), false),
        (Says::This(409, br#"{"refusal":"OnlyLaterReleasesSaySo"}"#.to_vec()), false),
        (Says::This(409, br#"{"refusal":"NotServing","why":"later"}"#.to_vec()), false),
    ];
    let rigs = cases.map(|(says, maybe)| {
        let (group, members, fake) = group(1, Answers { grant: says.clone(), ..Answers::honest(&name(1)) });
        (says, maybe, group, members, fake)
    });
    for (.., members, _) in &rigs {
        members[0].wait_until_well(1);
        members[0].set(FULL);
    }
    for (says, maybe, group, members, fake) in &rigs {
        let what = format!("{:.60}: it is refused", format!("{says:?}"));
        members[0].wait_for(&what, |status| refuses(status, Refusal::NoQuorum));
        assert_eq!(group.scaling.marked().len(), 0, "{what}");
        eventually("the grants are back", || {
            let (given, returned) = (group.kept(0).and_then(|kept| kept.memory.given), fake.returned());
            if given.is_none() && returned.len() == usize::from(*maybe) {
                Ok(())
            } else {
                Err(format!("{what}: {given:?} {returned:?}"))
            }
        });
    }
}

/// What a member tells of two replacements, so many hours ago.
fn told(hours: u64) -> Value {
    let record = |id: &str| {
        json!({"age_seconds": hours * 3_600, "mood": "later", "record": {"id": id, "at": wall().to_string(),
            "group": "web", "instance": format!("i-{id}"), "cause": "disk-read-only", "mood": "later"}})
    };
    json!([record("gone1"), record("gone2")])
}

#[test]
fn records_that_prove_nothing_stop_nobody() {
    let list = || bytes(&told(1));
    let each = |change: &dyn Fn(&mut Value)| {
        let mut told = told(1);
        told.as_array_mut().unwrap().iter_mut().for_each(change);
        Says::This(200, bytes(&told))
    };
    let mut long = list();
    long.resize(1 << 20, b' ');
    let cases = [
        Says::Nothing,
        Says::Half,
        Says::Garbage,
        Says::This(200, long),
        Says::This(200, b"{}".to_vec()),
        Says::This(503, list()),
        Says::Unsigned(200, list()),
        Says::OldKey(200, list()),
        Says::Replayed(200, list()),
        each(&|told| told["record"]["group"] = json!("other")),
        each(&|told| told["record"]["detail"] = json!("x".repeat(5_000))),
        each(&|told| told["age_seconds"] = json!(31 * 24 * 3_600)),
        each(&|told| told["age_seconds"] = json!(-1)),
        // It is told of itself, or twice of the same one.
        each(&|told| told["record"]["instance"] = json!(name(0))),
        each(&|told| told["record"]["instance"] = json!("i-gone1")),
    ];
    let rigs = cases.map(|says| {
        let (group, members, fake) = group(1, Answers { records: says.clone(), ..Answers::honest(&name(1)) });
        (says, group, members, fake)
    });
    for (says, _, members, fake) in &rigs {
        eventually("it was asked", || if fake.records() > 0 { Ok(()) } else { Err(format!("{says:?}")) });
        members[0].wait_until_well(1);
        members[0].set(FULL);
    }
    for (says, group, members, _) in &rigs {
        eventually("it goes", || match group.scaling.marked() {
            marked if marked == [name(0)] => Ok(()),
            marked => Err(format!("{:.80} {marked:?} {:?}", format!("{says:?}"), members[0].snapshot().replacement)),
        });
    }
}

/// A fresh instance that has what its predecessors had.
#[test]
fn what_did_not_cure_twice_is_not_tried_again_by_a_fresh_instance() {
    use Refusal::{BudgetSpent, ReplacementDidNotCure};
    for (hours, expected) in [(1, vec![BudgetSpent, ReplacementDidNotCure]), (7, vec![ReplacementDidNotCure])] {
        let records = Says::This(200, bytes(&told(hours)));
        let (group, members, _fake) = group(1, Answers { records, ..Answers::honest(&name(1)) });
        eventually("it learned", || {
            let told = group.kept(0).map_or(0, |kept| kept.records.told(&Stamp::now(BOOT)).len());
            if told == 2 { Ok(()) } else { Err(told) }
        });
        members[0].wait_until_well(1);
        members[0].set(FULL);
        members[0].wait_for("it is refused", |status| status.plan == Plan::Refused(expected.clone()));
        assert_eq!(group.scaling.marked().len(), 0);
    }
}

/// Asks a member below `/peer` with what may be no proof.
struct Stranger<'a> {
    target: Target,
    keys: &'a Keys,
    deployment: &'a str,
    headers: &'a str,
}

impl Stranger<'_> {
    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let nonce = keys::nonce().expect("randomness");
        let (deployment, signed) = (self.deployment, body.as_bytes());
        let mac = self.keys.sign(Message::Request { method, path, deployment, nonce: &nonce, body: signed });
        let headers = format!("{NONCE}: {nonce}\r\n{MAC}: {mac}\r\n{}", self.headers);
        self.target.ask(method, path, &headers, body).expect("an answer")
    }
}

#[test]
fn whoever_asks_without_proof_or_sense_gets_nothing() {
    let group = Group::new(2);
    let members = [group.start(0), group.start(1)];
    members[0].wait_until_well(1);
    let (keys, old) = (group.asker().keys, group.old_keys());
    let target = Target::port(group.entries[0].port.unwrap());
    let known = Stranger { target: target.clone(), keys: &keys, deployment: "test", headers: "" };
    let record =
        |id: &str| json!({"id": id, "at": wall().to_string(), "group": "web", "instance": "i-0a", "cause": "efs-hung"});
    let question = |id: &str| json!({"id": id, "record": record(id)}).to_string();
    let good = question("1");

    let unknown = [
        Stranger { keys: &old, ..Stranger { target: target.clone(), ..known } },
        Stranger { deployment: "other", target: target.clone(), ..known },
    ];
    for stranger in &unknown {
        for (method, path, body) in
            [("POST", "/peer/grant", good.as_str()), ("DELETE", "/peer/grant/1", ""), ("GET", "/peer/records", "")]
        {
            let answer = stranger.ask(method, path, body);
            assert_eq!((answer.status, answer.header(MAC)), (403, None), "{method} {path}");
        }
    }
    let proxied = Stranger { headers: "X-Forwarded-For: 10.0.0.1\r\n", target: target.clone(), ..known };
    assert_eq!(proxied.ask("POST", "/peer/grant", &good).status, 403);
    assert_eq!(target.ask("POST", "/peer/grant", "", &good).unwrap().status, 403);
    assert_eq!(target.ask("GET", "/peer/records", "", "").unwrap().status, 403);
    // Signed, for another question.
    let nonce = keys::nonce().unwrap();
    let (deployment, body) = ("test", good.as_bytes());
    for (method, path, signed) in
        [("POST", "/peer/grant", &b"{}"[..]), ("POST", "/peer/records", body), ("GET", "/peer/grant", body)]
    {
        let mac = keys.sign(Message::Request { method, path, deployment, nonce: &nonce, body: signed });
        let headers = format!("{NONCE}: {nonce}\r\n{MAC}: {mac}\r\n");
        assert_eq!(target.ask("POST", "/peer/grant", &headers, &good).unwrap().status, 403, "{method} {path}");
    }

    assert_eq!(known.ask("GET", "/peer/grant", "").status, 405);
    assert_eq!(known.ask("GET", "/peer/grant/1", "").status, 405);
    assert_eq!(known.ask("POST", "/peer/records", "").status, 405);
    assert_eq!(known.ask("GET", "/peer/other", "").status, 404);
    let too_long = json!({"id": "1", "record": {"detail": "x".repeat(5_000), "id": "1", "at": wall().to_string(),
        "group": "web", "instance": "i-0a", "cause": "efs-hung"}});
    let another = json!({"id": "2", "record": record("1")});
    for body in ["", "{", "[]", "{\"id\":\"1\"}", &too_long.to_string(), &another.to_string(), &"x".repeat(1 << 20)] {
        assert_eq!(known.ask("POST", "/peer/grant", body).status, 400, "{body:.80}");
    }
    let half = "POST /peer/grant HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{";
    assert_eq!(target.send(half).unwrap().status, 400, "it does not wait for the rest for ever");
    let mut stranger = record("1");
    stranger["group"] = json!("other");
    let answer = known.ask("POST", "/peer/grant", &json!({"id": "1", "record": stranger}).to_string());
    assert_eq!((answer.status, answer.json()), (409, json!({"refusal": "Stranger"})));

    let kept = group.kept(0).expect("it is kept");
    assert_eq!((kept.memory.given, kept.records.told(&Stamp::now(BOOT)).len()), (None, 0));
    // A release that says more, and one that says less.
    let mut newer = json!({"id": "3", "record": record("3"), "mood": "later"});
    newer["record"]["mood"] = json!(1);
    assert_eq!(known.ask("POST", "/peer/grant", &newer.to_string()).status, 200);
    assert_eq!(known.ask("DELETE", "/peer/grant/4", "").status, 200, "another one's");
    assert_eq!(group.kept(0).unwrap().memory.given.unwrap().id, "3");
    assert_eq!(known.ask("DELETE", "/peer/grant/3", "").status, 200);
    assert_eq!(group.kept(0).unwrap().memory.given, None);
}

/// Three of seven at once: the four others are a majority that agrees once.
#[test]
fn of_three_that_are_ill_one_goes() {
    let group = Group::new(7);
    let members: Vec<_> = (0..7).map(|n| group.start(n)).collect();
    for member in &members {
        member.wait_until_well(6);
    }
    let ill = [0_u8, 3, 6];
    for n in ill {
        members[usize::from(n)].set(FULL);
    }
    let first = eventually("one goes", || match group.scaling.marked() {
        marked if marked.is_empty() => Err("none yet"),
        marked => Ok(marked),
    });
    for &n in ill.iter().filter(|&&n| name(n) != first[0]) {
        members[usize::from(n)].wait_for("the others hear why not", |status| refuses(status, Refusal::NoQuorum));
    }
    assert_eq!(group.scaling.marked(), first);
}

/// The group is made larger after the look: who is on its way goes, and nobody after it.
#[test]
fn a_group_that_grows_meanwhile_loses_one_at_most() {
    let group = Group::new(4);
    let members: Vec<_> = (0..4).map(|n| group.start(n)).collect();
    for member in &members {
        member.wait_until_well(3);
    }
    members[1].set(FULL);
    eventually("it looks", || if *group.scaling.looks.lock().unwrap() > 0 { Ok(()) } else { Err("not yet") });
    group.scaling.look.lock().unwrap().as_mut().unwrap().desired = 6;
    eventually("it goes", || match group.scaling.marked() {
        marked if marked == [name(1)] => Ok(()),
        marked => Err(format!("{marked:?} {:?}", members[1].snapshot().replacement)),
    });
    members[3].set(FULL);
    members[3].wait_for("it is refused", |status| refuses(status, Refusal::GroupNotSettled));
    assert_eq!(group.scaling.marked(), [name(1)]);
}

/// While the key file cannot be used nobody's word counts: it could be anybody's.
#[test]
fn without_a_usable_key_nobody_is_believed() {
    let answers = Answers { word: Says::Unsigned(200, bytes(&word(&name(1)))), ..Answers::honest(&name(1)) };
    let (group, members, _fake) = group(1, answers);
    let member = &members[0];
    let silence = |what: Silence| move |heard: &Heard| heard.word == Err(what);
    let all = |is_so: &dyn Fn(&Heard) -> bool| {
        let snapshot = member.snapshot();
        let heard = snapshot.round.as_ref().map(|round| round.heard.clone()).unwrap_or_default();
        if heard.len() == 1 && heard.iter().all(is_so) { Ok(()) } else { Err(format!("{heard:?}")) }
    };
    eventually("it is asked, and does not sign", || all(&silence(Silence::Unsigned)));
    fs::set_permissions(group.key(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    eventually("it is not asked", || all(&silence(Silence::NoKey)));
    let votes = member.snapshot().group.clone();
    assert!(votes.serving.is_empty() && votes.passing.is_empty() && !votes.can_serve, "{votes:?}");
}

/// As when no thread can be started.
#[test]
fn after_a_panic_in_a_look_it_looks_again() {
    let group = Group::new(3);
    let members: Vec<_> = (0..3).map(|n| group.start(n)).collect();
    for member in &members {
        member.wait_until_well(2);
    }
    let scaling = std::sync::Arc::clone(&group.scaling);
    let poison = std::thread::spawn(move || {
        let _held = scaling.look.lock().unwrap();
        panic!("for the test");
    });
    assert!(poison.join().is_err());
    members[1].set(FULL);
    eventually("it looks", || if *group.scaling.looks.lock().unwrap() > 0 { Ok(()) } else { Err("not yet") });
    eventually("it goes", || {
        // A look that panics poisons it anew.
        group.scaling.look.clear_poison();
        match group.scaling.marked() {
            marked if marked == [name(1)] => Ok(()),
            marked => Err(format!("{marked:?} {:?}", members[1].snapshot().replacement)),
        }
    });
}

/// A real agent of a group that AWS does not know.
struct Rotating {
    agent: Agent,
    imds: Imds,
}

impl Rotating {
    /// Puts keys in force, as a file that is replaced at once.
    fn write(&self, keys: &[&str]) {
        let new = write_keys(&self.agent.scratch, "new", keys);
        fs::rename(new, self.agent.scratch.path("group.key")).unwrap();
    }

    /// The answer to `GET /peer` signed by this key, and whether it is signed by it.
    fn ask(&self, keys: &Keys) -> (u16, bool) {
        let nonce = keys::nonce().expect("randomness");
        let message = Message::Request { method: "GET", path: "/peer", deployment: "test", nonce: &nonce, body: b"" };
        let headers = format!("{NONCE}: {nonce}\r\n{MAC}: {}\r\n", keys.sign(message));
        let answer = self.agent.peer().ask("GET", "/peer", &headers, "").expect("an answer");
        let message = Message::Answer { nonce: &nonce, status: answer.status, body: answer.body.as_bytes() };
        (answer.status, keys.verify(message, answer.header(MAC).unwrap_or_default()))
    }

    /// What the others are to it: how many votes it has, and who is refused for lack of a key.
    fn votes(&self) -> Result<usize, String> {
        let answer = self.agent.control().get("/status").map_err(|error| error.to_string())?;
        let report: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        let members = report["group"]["members"].as_array().cloned().unwrap_or_default();
        for member in &members {
            let silence = member["silence"].as_str().unwrap_or_default();
            // One that is slow to answer has not lost its key.
            assert!(silence.is_empty() || silence == "no answer", "a vote is lost: {report:#}");
        }
        Ok(members.iter().filter(|member| member["votes"]["host"] == "healthy").count())
    }
}

fn write_keys(scratch: &Scratch, file: &str, keys: &[&str]) -> std::path::PathBuf {
    let path = scratch.path(file);
    fs::write(&path, keys.join("\n")).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

type Is<'a> = &'a dyn Fn(&Rotating) -> bool;

#[test]
fn keys_change_under_three_agents_and_no_vote_is_lost() {
    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";
    let mut agents: Vec<_> = (0..3)
        .map(|n| {
            let agent = Agent::new(Scratch::new(), "[probe.nginx]\nurl = \"http://127.0.0.1:9/\"\n");
            let key = write_keys(&agent.scratch, "group.key", &[OLD]);
            let text = fs::read_to_string(agent.config()).unwrap();
            fs::write(agent.config(), format!("key_file = \"{}\"\n{text}", key.display())).unwrap();
            Rotating { agent, imds: Imds::of(&name(n), "us-east-1a", "web") }
        })
        .collect();
    let members: Vec<_> = (0..3_u8)
        .map(|n| {
            json!({"instance": name(n), "zone": "us-east-1a", "address": "127.0.0.1",
            "port": agents[usize::from(n)].agent.peer_port})
        })
        .collect();
    let known = json!({"group": "web", "at": wall().to_string(), "members": members}).to_string();
    for Rotating { agent, imds } in &mut agents {
        fs::create_dir_all(agent.scratch.state()).unwrap();
        fs::write(agent.scratch.state().join("members.json"), &known).unwrap();
        agent.start_with(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.endpoint()), ("HOME", "/nonexistent")]);
    }
    let all_vote = |agents: &[Rotating]| {
        let votes: Result<Vec<_>, _> = agents.iter().map(Rotating::votes).collect();
        if votes.as_ref().is_ok_and(|votes| votes[..] == [2, 2, 2]) { Ok(()) } else { Err(format!("{votes:?}")) }
    };
    within(crate::support::PATIENCE * 2, "all hear each other", || all_vote(&agents));

    let [old, new] = [OLD, NEW].map(|key| Keys::read(&write_keys(&agents[0].agent.scratch, "one", &[key])).unwrap());
    let steps: [(&str, &[&str], Is<'_>); 3] = [
        ("it knows the new key", &[OLD, NEW], &|one| one.ask(&new) == (200, false)),
        ("it signs with the new key", &[NEW, OLD], &|one| one.ask(&new) == (200, true) && one.ask(&old).0 == 200),
        ("it knows the old key no more", &[NEW], &|one| one.ask(&old).0 == 403),
    ];
    for (what, keys, is_so) in steps {
        for one in &agents {
            one.write(keys);
            eventually(what, || {
                all_vote(&agents)?;
                if is_so(one) { Ok(()) } else { Err(one.agent.log()) }
            });
        }
    }
    // Rounds that began after the last step.
    let steps_done = Instant::now();
    eventually("a round more", || {
        all_vote(&agents)?;
        let newer = agents.iter().all(|one| {
            // Read before the answer is there, so that the round began after the steps for certain.
            let since = steps_done.elapsed().as_millis();
            let group = &one.agent.control().get("/status").unwrap().json()["group"];
            group["asked_age_ms"].as_u64().is_some_and(|age| u128::from(age) < since)
        });
        if newer { Ok(()) } else { Err("not yet".to_owned()) }
    });
}
