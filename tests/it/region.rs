//! Who names the region: the instance metadata service, and before it answers the state of this instance.

use std::fs;

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::imds::Imds;
use crate::support::site::Scratch;
use crate::support::{eventually, signal};

const INSTANCE: &str = "i-0123456789abcdef0";

/// Two regions, each with a database of its own, at ports where nobody listens.
const REGIONS: &str = "home = \"a-1\"\n[probe.nginx]\ninterval = \"1h\"\n[probe.wiring]\ninterval = \"1h\"\n\
    [probe.database]\nuser = \"u\"\n\
    [region.a-1]\ndatabase = \"127.0.0.1:1\"\n[region.b-1]\ndatabase = \"127.0.0.1:2\"\n";

/// A metadata service that is not there.
const NOWHERE: &str = "http://127.0.0.1:9";

fn agent() -> Agent {
    let agent = Agent::new(Scratch::new(), REGIONS);
    // A key at the top of the file.
    let text = fs::read_to_string(agent.config()).unwrap().replace("home = \"a-1\"\n", "");
    fs::write(agent.config(), format!("home = \"a-1\"\n{text}")).unwrap();
    agent
}

fn start(agent: &mut Agent, imds: &str) {
    agent.start_with(&[
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds),
        ("STATE_DIRECTORY", &agent.scratch.state().display().to_string()),
    ]);
}

fn until(what: &str, agent: &Agent, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let answer = agent.control().get("/status").map_err(|error| format!("{error}\n{}", agent.log()))?;
        let report = answer.json();
        if is(&report) { Ok(report) } else { Err(format!("{report:#}\n{}", agent.log())) }
    })
}

/// The region and its database are known.
fn is_in(region: &str, port: u16) -> impl Fn(&Value) -> bool {
    move |report| {
        let database = report["components"].as_array().unwrap().iter().find(|c| c["name"] == "database");
        report["agent"]["region"] == region
            && database.is_some_and(|database| database["target"] == format!("127.0.0.1:{port}"))
    }
}

fn saved_region(agent: &Agent) -> String {
    let text = fs::read(agent.scratch.state().join("state.json")).unwrap_or_default();
    let state: Value = serde_json::from_slice(&text).unwrap_or_default();
    state["owner"]["region"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_last_good_file_too_gets_the_region_that_only_the_metadata_service_knows() {
    let imds = in_region(INSTANCE, "b-1");
    let mut agent = agent();
    start(&mut agent, &imds.endpoint());
    until("the region is known", &agent, is_in("b-1", 2));
    agent.stop();

    let bad = fs::read_to_string(agent.config()).unwrap() + "[verdct]\n";
    fs::write(agent.config(), bad).unwrap();
    fs::remove_file(agent.scratch.state().join("state.json")).unwrap();
    start(&mut agent, &imds.endpoint());
    let report = until("the region is known", &agent, is_in("b-1", 2));
    assert!(report["agent"]["config_problems"].to_string().contains("verdct"), "{report:#}");
    agent.stop();
}

/// An image of a running machine, copied to the other region.
#[test]
fn the_metadata_service_outranks_the_region_in_the_state() {
    let mut agent = agent();
    let home = in_region(INSTANCE, "a-1");
    start(&mut agent, &home.endpoint());
    until("the region is known", &agent, is_in("a-1", 1));
    eventually("it is saved", || if saved_region(&agent) == "a-1" { Ok(()) } else { Err(agent.log()) });
    agent.stop();

    // Before anybody says otherwise the state is believed.
    start(&mut agent, NOWHERE);
    until("the region is remembered", &agent, is_in("a-1", 1));
    agent.stop();

    let peer = in_region("i-0fedcba9876543210", "b-1");
    start(&mut agent, &peer.endpoint());
    let report = until("the region is this one", &agent, is_in("b-1", 2));
    assert_eq!(report["agent"]["instance"], "i-0fedcba9876543210");
    eventually("it is saved", || if saved_region(&agent) == "b-1" { Ok(()) } else { Err(agent.log()) });
    assert!(agent.log().contains("is forgotten"), "{}", agent.log());
    agent.stop();
}

/// The built-in defaults name no region; the repaired file does.
#[test]
fn a_reload_that_first_needs_the_region_knows_it() {
    let imds = in_region(INSTANCE, "b-1");
    let mut agent = Agent::new(Scratch::new(), "");
    start(&mut agent, &imds.endpoint());
    until("the region is known", &agent, |report| report["agent"]["region"] == "b-1");
    agent.configure(REGIONS.trim_start_matches("home = \"a-1\"\n"));
    let text = fs::read_to_string(agent.config()).unwrap();
    fs::write(agent.config(), format!("home = \"a-1\"\n{text}")).unwrap();
    signal(agent.pid(), "HUP");
    until("the region is known", &agent, is_in("b-1", 2));
    agent.stop();
}

fn in_region(instance: &str, region: &str) -> Imds {
    Imds::start(&[("instance-id", instance), ("placement/region", region)])
}
