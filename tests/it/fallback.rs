//! A configuration with which the agent cannot start as it stands: what is in force instead, and what is remembered.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::ask::Target;
use crate::support::site::Scratch;
use crate::support::{agent_binary, eventually, signal};

const GOOD: &str = "config.good.toml";

/// Slow probes: they are not what is looked at.
const CALM: &str = "[probe.nginx]\ninterval = \"1h\"\n[probe.wiring]\ninterval = \"1h\"\n";

/// Waits for a report that `is` as it should be.
fn until(what: &str, agent: &Agent, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let answer = agent.control().get("/status").map_err(|error| format!("{error}\n{}", agent.log()))?;
        let report = answer.json();
        if is(&report) { Ok(report) } else { Err(format!("{report:#}\n{}", agent.log())) }
    })
}

fn problems(report: &Value) -> String {
    report["agent"]["config_problems"].to_string()
}

fn kept(agent: &Agent) -> String {
    fs::read_to_string(agent.scratch.state().join(GOOD)).unwrap_or_default()
}

/// Writes the file anew with one text in the place of another.
fn edit(agent: &Agent, from: &str, to: &str) -> String {
    let text = fs::read_to_string(agent.config()).unwrap();
    assert!(text.contains(from), "{text}");
    let text = text.replace(from, to);
    fs::write(agent.config(), &text).unwrap();
    text
}

/// An agent that ran once with a good file and is stopped.
fn remembered() -> (Agent, String) {
    let mut agent = Agent::new(Scratch::new(), CALM);
    agent.start();
    let text = fs::read_to_string(agent.config()).unwrap();
    eventually("the file is kept", || if kept(&agent) == text { Ok(()) } else { Err(agent.log()) });
    agent.stop();
    (agent, text)
}

#[test]
fn a_public_address_in_use_is_a_problem_and_the_last_good_file_is_in_force() {
    let (mut agent, good) = remembered();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let public = format!("unix:{}", agent.scratch.socket().display());
    edit(&agent, &public, &taken.local_addr().unwrap().to_string());
    agent.start();
    let report = until("the problem is told", &agent, |report| problems(report).contains("cannot listen on"));
    assert!(problems(&report).contains(GOOD), "{report:#}");
    assert_eq!(report["verdicts"]["region"]["code"], 200);
    assert_eq!(kept(&agent), good);
    agent.stop();
}

#[test]
fn a_state_directory_that_cannot_be_made_is_a_problem_and_the_last_good_file_is_in_force() {
    let (mut agent, good) = remembered();
    let state = agent.scratch.state();
    edit(&agent, &state.display().to_string(), "/proc/nope");
    agent.start_with(&[("STATE_DIRECTORY", &state.display().to_string())]);
    let report = until("the problem is told", &agent, |report| problems(report).contains("/proc/nope"));
    assert!(problems(&report).contains(GOOD), "{report:#}");
    assert_eq!(kept(&agent), good);
    agent.stop();
}

#[test]
fn a_reload_keeps_no_file_whose_addresses_or_state_directory_were_not_tried() {
    let (mut agent, good) = remembered();
    agent.start();
    let public = format!("unix:{}", agent.scratch.socket().display());
    let state = agent.scratch.state().display().to_string();
    for (from, to, key) in [(&*public, "unix:/proc/nope/public.sock", "listen"), (&*state, "/proc/nope", "state_dir")] {
        edit(&agent, from, to);
        signal(agent.pid(), "HUP");
        until("it is told", &agent, |report| problems(report).contains(&format!("`{key}` changed")));
        assert_eq!(kept(&agent), good);
        fs::write(agent.config(), &good).unwrap();
        signal(agent.pid(), "HUP");
        until("all is well again", &agent, |report| problems(report) == "[]");
    }
    // What takes effect at once was tried.
    let more = edit(&agent, "[probe.wiring]", "[probe.host]\ninterval = \"1h\"\n[probe.wiring]");
    signal(agent.pid(), "HUP");
    eventually("the new file is kept", || if kept(&agent) == more { Ok(()) } else { Err(kept(&agent)) });
    agent.stop();
}

/// Neither a good copy nor the built-in defaults make a second agent of one machine run beside the first.
#[test]
fn two_agents_at_once_fail_clearly_whatever_the_public_address_is() {
    let (mut agent, _) = remembered();
    let port = crate::support::free_port();
    edit(&agent, &format!("unix:{}", agent.scratch.socket().display()), &format!("127.0.0.1:{port}"));
    agent.spawn();
    until("it answers", &agent, |_| true);
    let second = || {
        let second = Command::new(agent_binary()).arg("run").arg("--config").arg(agent.config()).output().unwrap();
        assert_eq!(second.status.code(), Some(69), "{second:?}");
        String::from_utf8_lossy(&second.stderr).into_owned()
    };
    let said = second();
    assert!(said.contains("an agent already runs"), "{said}");
    // A bad file can be the reason why it meets the other one at all.
    edit(&agent, "[probe.nginx]", "[verdct]\n[probe.nginx]");
    let said = second();
    assert!(said.contains("an agent already runs") && said.contains("verdct"), "{said}");
    agent.stop();
}

/// Starts the agent where the built-in addresses are its own, and says where its control socket is.
fn start_on_its_own(agent: &mut Agent) -> Target {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "sh", "-c", "mount -t tmpfs none /run && exec \"$@\"", "sh", agent_binary()]);
    agent.spawn_as(command.arg("run").arg("--config").arg(agent.config()));
    let control = Target::unix(format!("/proc/{}/root/run/dr-agent/control.sock", agent.pid()));
    eventually("the agent answers (this needs root)", || {
        control.get("/status").map(drop).map_err(|error| format!("{error}\n{}", agent.log()))
    });
    control
}

fn state(agent: &Agent) -> Value {
    let text = fs::read(agent.scratch.state().join("state.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[test]
fn the_defaults_in_place_of_a_bad_file_set_neither_state_nor_history_aside() {
    let (mut agent, good) = remembered();
    // The state of an earlier boot, in which the region was closed.
    let mut earlier = state(&agent);
    earlier["boot"] = "another".into();
    earlier["region_closed"] = true.into();
    fs::write(agent.scratch.state().join("state.json"), earlier.to_string()).unwrap();
    fs::remove_file(agent.scratch.state().join(GOOD)).unwrap();
    fs::write(agent.config(), good.clone() + "[verdct]\n").unwrap();

    let control = start_on_its_own(&mut agent);
    let report = || control.get("/status").unwrap().json();
    let told = report();
    assert!(problems(&told).contains("built-in defaults"), "{told:#}");
    assert_eq!(told["verdicts"]["region"]["state"], "closed");
    let saved = eventually("the state is saved", || {
        let saved = state(&agent);
        if saved["boot"] == "another" { Err(agent.log()) } else { Ok(saved) }
    });
    assert_eq!((&saved["owner"]["deployment"], &saved["region_closed"]), (&"test".into(), &true.into()));

    // The repaired file says who this is, without a restart.
    fs::write(agent.config(), &good).unwrap();
    signal(agent.pid(), "HUP");
    let told = eventually("the file is in force", || {
        let told = report();
        if problems(&told).contains("`listen` changed") { Ok(told) } else { Err(format!("{told:#}")) }
    });
    assert_eq!(told["agent"]["deployment"], "test");
    assert_eq!(told["verdicts"]["region"]["state"], "closed");
    assert!(!problems(&told).contains("deployment"), "{told:#}");
    agent.stop();

    agent.start();
    let told = until("it answers", &agent, |_| true);
    assert_eq!(told["verdicts"]["region"]["state"], "closed");
    for aside in ["state.json.foreign", "history.jsonl.foreign"] {
        assert!(!agent.scratch.state().join(aside).exists(), "{aside}");
    }
    agent.stop();
}
