use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::agent::Agent;
use crate::support::ask::Target;
use crate::support::eventually;
use crate::support::nginx::Nginx;
use crate::support::site::{self, SHOP, Scratch, target};

/// What the agent is while users and checkers ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Healthy,
    Unhealthy,
    Stopped,
    Frozen,
    CrashLooping,
    Upgrading,
}

/// What is going on, and stays so: each is what a marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incident {
    None,
    RegionClosed,
    InstanceClosed,
    Draining,
    Fenced,
}

const PATHS: [&str; 5] = ["live", "instance", "region", "promoted", "authority"];

/// The contract: the status of a path, in every state of the agent; `None` where either is right from one moment to the
/// next, because the path says whether there is an agent.
const fn expected(path: &str, state: State, incident: Incident) -> Option<u16> {
    let ok = match path.as_bytes() {
        b"live" | b"authority" => match state {
            State::Healthy | State::Unhealthy => true,
            State::Stopped | State::Frozen => false,
            State::CrashLooping | State::Upgrading => return None,
        },
        // With nobody else to serve, a fault of the instance is the agent's word while it is there, and no marker's.
        b"instance" => {
            !matches!(incident, Incident::InstanceClosed | Incident::Draining) && !matches!(state, State::Unhealthy)
        }
        b"region" => !matches!(incident, Incident::RegionClosed | Incident::Fenced),
        _ => false,
    };
    Some(if ok { 200 } else { 503 })
}

struct Rig {
    agent: Agent,
    nginx: Nginx,
    incident: Incident,
}

impl Rig {
    /// A site and an agent that has settled in this boot, in the middle of the incident.
    fn new(incident: Incident, host: &str) -> Self {
        let scratch = Scratch::new();
        let nginx = site::start(&scratch, "", "");
        // What is closed stays so for the length of the test: the host is looked at too rarely to rise.
        let config = format!(
            "[probe.nginx]\nurl = \"{}\"\npid_file = \"{}\"\n[probe.wiring]\ninterval = \"1h\"\n[probe.host]\n{host}\n\
             [verdict]\nstart_limit = \"1s\"\nreopen = \"1h\"\n",
            nginx.url("/health/nginx"),
            nginx.pid_file().display(),
        );
        let mut agent = Agent::new(scratch, &config);
        agent.start();
        eventually("it has decided", || match agent.public().get("/health/instance") {
            Ok(answer) if answer.json()["state"] != "starting" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let state = agent.scratch.state();
        eventually("the state is saved", || state.join("state.json").exists().then_some(()).ok_or("not yet"));
        let mut rig = Self { agent, nginx, incident };
        rig.begin();
        rig
    }

    fn begin(&mut self) {
        match self.incident {
            Incident::None => {}
            // Set by an agent of this boot, which was restarted since.
            Incident::RegionClosed | Incident::InstanceClosed => {
                let (marker, path) = match self.incident {
                    Incident::RegionClosed => ("region-closed", "/health/region"),
                    _ => ("instance-closed", "/health/instance"),
                };
                self.agent.stop();
                self.agent.scratch.mark(marker, true);
                self.agent.start();
                self.agent.wait_for(path, 503);
            }
            Incident::Draining => {
                let order = r#"{"reason":"test","seconds":3600,"force":true}"#;
                let answer = self.agent.control().ask("PUT", "/latch/drain", "", order).expect("an answer");
                assert_eq!(answer.status, 200, "{answer:?}");
                let scratch = &self.agent.scratch;
                eventually("the marker is set", || scratch.has("draining").then_some(()).ok_or("not yet"));
            }
            Incident::Fenced => {
                self.agent.scratch.mark("fenced", true);
                self.agent.wait_for("/health/region", 503);
            }
        }
    }

    /// One question on every path, and one as a user; how many of the answers were an agent's own, and the last word.
    fn ask_all(site: &Target, state: State, incident: Incident) -> (usize, usize) {
        let (mut own, mut held) = (0, 0);
        for path in PATHS {
            let what = format!("{path}, {state:?}, {incident:?}");
            let answer = site.get(&format!("/health/{path}")).unwrap_or_else(|error| panic!("{what}: {error}"));
            if let Some(status) = expected(path, state, incident) {
                assert_eq!(answer.status, status, "{what}: {answer:?}");
            }
            let begin = format!(r#"{{"ok":{},"dr-agent":"{path}","status":""#, answer.status == 200);
            assert!(answer.body.starts_with(&begin), "{what}: {answer:?}");
            match answer.header("x-dr-agent").expect("the header") {
                "absent" => held += 1,
                generation => {
                    assert!(generation.parse::<u64>().is_ok(), "{what}: {answer:?}");
                    own += 1;
                }
            }
        }
        let page = site.get("/").expect("a page");
        let fenced = incident == Incident::Fenced;
        assert_eq!((page.status, page.body == SHOP), if fenced { (503, false) } else { (200, true) }, "{page:?}");
        (own, held)
    }

    fn assert_steady(&self, state: State) {
        for _ in 0..2 {
            let (own, held) = Self::ask_all(&target(&self.nginx), state, self.incident);
            let answers = if matches!(state, State::Stopped | State::Frozen) { (0, 5) } else { (5, 0) };
            assert_eq!((own, held), answers, "{state:?}, {:?}", self.incident);
        }
    }

    /// Asks on and on while `change` goes on.
    fn assert_during(&mut self, state: State, change: impl FnOnce(&mut Agent) + Send) {
        let (site, incident, over) = (target(&self.nginx), self.incident, AtomicBool::new(false));
        let agent = &mut self.agent;
        thread::scope(|scope| {
            let over = &over;
            let asking = scope.spawn(move || {
                let (mut own, mut held) = (0, 0);
                while !over.load(Ordering::SeqCst) {
                    let (more_own, more_held) = Self::ask_all(&site, state, incident);
                    own += more_own;
                    held += more_held;
                }
                (own, held)
            });
            change(agent);
            over.store(true, Ordering::SeqCst);
            let (own, held) = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(own > 0 && held > 0, "{state:?}, {incident:?}: {own} own answers, {held} held");
        });
    }
}

#[test]
fn no_stop_crash_or_upgrade_of_the_agent_changes_an_answer_in_the_middle_of_an_incident() {
    let incidents =
        [Incident::None, Incident::RegionClosed, Incident::InstanceClosed, Incident::Draining, Incident::Fenced];
    // Side by side: most of the time goes into waiting for a frozen agent. A panic in one of them is the scope's.
    thread::scope(|scope| {
        for incident in incidents {
            scope.spawn(move || go_through_all_states(Rig::new(incident, "interval = \"1h\"")));
        }
    });
}

fn go_through_all_states(mut rig: Rig) {
    rig.assert_steady(State::Healthy);
    for state in [State::Upgrading, State::CrashLooping, State::Stopped, State::Frozen] {
        match state {
            State::Upgrading => rig.assert_during(state, |agent| {
                for _ in 0..3 {
                    agent.stop();
                    agent.start();
                }
            }),
            State::CrashLooping => {
                rig.assert_during(state, |agent| {
                    agent.kill();
                    agent.crash(12);
                });
                rig.agent.start();
            }
            State::Frozen => {
                rig.agent.freeze();
                rig.assert_steady(state);
                rig.agent.thaw();
                rig.agent.wait_until_it_answers();
            }
            _ => {
                rig.agent.stop();
                rig.assert_steady(state);
                rig.agent.start();
            }
        }
        rig.assert_steady(State::Healthy);
    }
    assert!(!rig.agent.log().contains("panicked"), "{}", rig.agent.log());
}

#[test]
fn a_fault_of_the_last_instance_is_the_agents_word_and_no_markers() {
    // No disk has so much free space, so this one counts as full.
    let mut rig = Rig::new(Incident::None, "low = \"100%\"\nfull = \"100%\"");
    rig.agent.wait_for("/health/instance", 503);
    rig.assert_steady(State::Unhealthy);
    rig.agent.stop();
    rig.assert_steady(State::Stopped);
    rig.agent.scratch.mark("promoted", true);
    assert_eq!(target(&rig.nginx).get("/health/promoted").unwrap().status, 200, "held, as the others");
    rig.agent.start();
    let scratch = &rig.agent.scratch;
    eventually("a marker that this agent does not answer for goes", || {
        (!scratch.has("promoted")).then_some(()).ok_or("not yet")
    });
    rig.agent.wait_for("/health/instance", 503);
    rig.assert_steady(State::Unhealthy);
}

#[test]
fn an_agent_without_descriptors_answers_on() {
    let mut agent = Agent::new(Scratch::new(), "");
    agent.spawn_with_descriptors(40);
    agent.wait_until_it_answers();
    let held: Vec<_> = (0..300).filter_map(|_| agent.public().connect().ok()).collect();
    assert!(held.len() > 100, "{}", agent.log());
    // A quarter of the descriptors are for connections; the listeners, the signals and the probes have sockets too.
    let sockets = sockets(agent.pid());
    assert!(sockets <= 22, "{sockets}");
    for _ in 0..20 {
        assert_eq!(agent.public().get("/health/region").unwrap().status, 200);
    }
    drop(held);
    agent.wait_for("/health/live", 200);
    let files = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    assert!(files < 40, "{files}");
    agent.stop();
}

fn sockets(pid: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("look at its descriptors").flatten();
    files.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))).count()
}
