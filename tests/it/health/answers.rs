//! The public answers: words, codes, sizes, what they tell and what not.

use std::sync::Arc;
use std::time::Duration;

use dr_agent::answer::{self, Question};
use dr_agent::config::ExecProbe;
use dr_agent::health::cause::{Cause, Status};
use dr_agent::health::verdict::{Memory, RegionState};
use dr_agent::input::Input;
use dr_agent::observation::{Component, DatabaseFacts, Facts};
use dr_agent::snapshot::{About, Answer, STALE_AFTER, Snapshot};
use dr_agent::state::State;

use super::bench::{at, schedule, secs};
use super::owner::{Agent, about, config, well};

fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// State code and word.
fn word(snapshot: &Snapshot, question: Question) -> (bool, String) {
    let answer = answer::respond(snapshot, question, snapshot.taken);
    (answer.ok, json(&answer)["status"].as_str().expect("a word").to_owned())
}

fn says(snapshot: &Snapshot, question: Question, ok: bool, expected: &str) {
    assert_eq!(word(snapshot, question), (ok, expected.to_owned()), "{question:?}");
}

#[test]
fn a_well_instance_passes() {
    let (_, snapshot) = well();
    says(&snapshot, Question::Live, true, "pass");
    says(&snapshot, Question::Instance, true, "pass");
    says(&snapshot, Question::Region, true, "pass");
    says(&snapshot, Question::Promoted, false, "fail");
    says(&snapshot, Question::Authority, true, "pass");
}

#[test]
fn every_body_begins_as_documented_whatever_the_state() {
    let (mut agent, fresh) = well();
    let failing =
        agent.run(300, &[(Component::Nginx, Cause::NginxRefused), (Component::Database, Cause::DatabaseLost)]);
    for snapshot in [fresh, failing] {
        for question in Question::ALL {
            for age in [Duration::ZERO, secs(11), secs(1_000_000)] {
                let answer = answer::respond(&snapshot, question, snapshot.taken + age);
                let begin = format!("{{\"ok\":{},\"dr-agent\":\"{}\",\"status\":\"", answer.ok, question.name());
                let text = std::str::from_utf8(&answer.body).expect("UTF-8");
                assert!(text.starts_with(&begin), "{text}");
                assert!(text.ends_with("}\n"));
                assert_eq!(json(&answer)["ok"], answer.ok);
            }
        }
    }
}

#[test]
fn bodies_tell_names_and_statuses_and_no_host() {
    let (mut agent, _) = well();
    let snapshot = agent.run(300, &[(Component::Database, Cause::DatabaseLost)]);
    for question in Question::ALL {
        let answer = answer::respond(&snapshot, question, snapshot.taken);
        let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
        for secret in ["secret-host", "127.0.0.1", "3306", "by the bench", "i-0123456789abcdef0", "connection-lost"] {
            assert!(!text.contains(secret), "{text}");
        }
        let components =
            serde_json::json!({"nginx": "healthy", "database": "unhealthy", "host": "healthy", "wiring": "healthy"});
        assert_eq!(json(&answer)["components"], components);
        assert_eq!(json(&answer).get("region").is_some(), question == Question::Authority);
    }
}

#[test]
fn degraded_unknown_starting_a_running_hold_or_a_wrong_file_warn() {
    let (mut agent, _) = well();
    let snapshot = agent.run(5, &[(Component::Database, Cause::DatabaseSlow)]);
    says(&snapshot, Question::Live, true, "pass");
    says(&snapshot, Question::Instance, true, "warn");
    says(&snapshot, Question::Region, true, "warn");

    let (mut agent, _) = well();
    agent.see(&Component::Database, Some(Cause::DatabaseRefused), Facts::None);
    let snapshot = agent.publish();
    assert!(snapshot.components.iter().all(|(c, _)| c.status == Status::Healthy));
    says(&snapshot, Question::Instance, true, "pass");
    says(&snapshot, Question::Region, true, "warn");

    let (mut agent, _) = well();
    agent.now = agent.now + secs(8);
    let snapshot = agent.publish();
    assert!(snapshot.components.iter().any(|(c, _)| c.status == Status::Unknown));
    says(&snapshot, Question::Instance, true, "warn");

    // The held word of an agent that has not looked yet.
    let memory = Memory { same_boot: true, ..Memory::default() };
    let snapshot = Agent::start(config(), State::default(), memory, at(secs(1))).publish();
    says(&snapshot, Question::Instance, true, "warn");
    says(&snapshot, Question::Region, true, "warn");

    let (mut agent, _) = well();
    let about = About { config_problems: vec!["line 3".into()], ..about() };
    agent.take(Input::Reconfigured(Arc::new(config()), about));
    let snapshot = agent.publish();
    says(&snapshot, Question::Instance, true, "warn");
}

#[test]
fn a_standby_passes_while_it_is_ready_and_warns_when_it_is_not() {
    let mut config = config();
    config.policy.standby = true;
    let mut agent = Agent::first(config);
    let snapshot = agent.run(5, &[]);
    assert_eq!(snapshot.region.state, RegionState::Standby);
    says(&snapshot, Question::Region, true, "pass");
    let snapshot = agent.run(300, &[(Component::Database, Cause::DatabaseRefused)]);
    says(&snapshot, Question::Region, true, "warn");
}

#[test]
fn a_stuck_owner_answers_its_last_word_as_stale() {
    let (mut agent, open) = well();
    let closed = agent.run(300, &[(Component::Database, Cause::DatabaseLost), (Component::Nginx, Cause::NginxTimeout)]);
    for (snapshot, ok, status) in [(&open, true, "warn"), (&closed, false, "fail")] {
        for question in [Question::Instance, Question::Region] {
            let edge = answer::respond(snapshot, question, snapshot.taken + STALE_AFTER);
            assert_eq!(edge.generation, snapshot.generation.to_string().as_bytes());
            let answer = answer::respond(snapshot, question, snapshot.taken + STALE_AFTER + Duration::from_nanos(1));
            assert_eq!((answer.ok, &answer.generation[..]), (ok, &b"stale"[..]));
            assert_eq!(json(&answer)["status"], status);
        }
        let live = answer::respond(snapshot, Question::Live, snapshot.taken + secs(11));
        assert_eq!((live.ok, &live.generation[..]), (false, &b"stale"[..]));
    }
    // A clock that reads earlier than the snapshot is no stall.
    assert!(answer::respond(&open, Question::Live, at(Duration::ZERO)).ok);
}

#[test]
fn bodies_stay_under_5120_bytes_whatever_is_configured() {
    for (count, plain) in [0, 1, 50, 100, 500, 2_000].into_iter().flat_map(|n| [(n, true), (n, false)]) {
        let mut config = config();
        config.exec = (0..count)
            .map(|n| {
                let name = if plain { format!("probe-{n:0>40}") } else { format!("\"{n:\"<6}") };
                (name, ExecProbe { schedule: schedule(&Component::Host), command: vec!["/bin/true".into()] })
            })
            .collect();
        let snapshot = Agent::first(config).publish();
        assert_eq!(snapshot.components.len(), count + 4);
        for question in Question::ALL {
            for age in [Duration::ZERO, secs(20)] {
                let answer = answer::respond(&snapshot, question, snapshot.taken + age);
                assert!(answer.body.len() < 5_120, "{count}: {}", answer.body.len());
                let components = json(&answer)["components"].as_object().expect("a map").clone();
                assert!(components.contains_key("nginx") && components.contains_key("database"));
                let whole = components.len() == count + 4;
                assert!(whole || !plain || answer.body.len() > 5_000, "{count}: no more than it takes");
            }
        }
    }
}

#[test]
fn a_role_is_what_the_newest_attempt_proved() {
    let facts = || Facts::Database(DatabaseFacts { replica: Some(vec![]), ..DatabaseFacts::default() });
    let role = |snapshot: &Snapshot| {
        let answer = answer::respond(snapshot, Question::Authority, snapshot.taken);
        json(&answer)["role"].as_str().expect("a role").to_owned()
    };
    let mut agent = Agent::first(config());
    assert_eq!(role(&agent.publish()), "unreachable");
    agent.see(&Component::Database, None, facts());
    assert_eq!(role(&agent.publish()), "primary");
    agent.see(&Component::Database, Some(Cause::DatabaseLost), Facts::None);
    assert_eq!(role(&agent.publish()), "unreachable");
    agent.see(&Component::Database, None, facts());
    agent.see(&Component::Database, Some(Cause::DatabaseAccessDenied), Facts::None);
    assert_eq!(role(&agent.publish()), "unreachable", "who may not log in has seen nothing");
    agent.see(&Component::Database, None, facts());
    agent.now = agent.now + secs(30);
    assert_eq!(role(&agent.publish()), "unreachable", "nor has who looked long ago");
}
