//! `dr-agent helper gate-open`: it waits when it should, and always ends well.

use std::fs;
use std::process::{Command, Output, Stdio};

use dr_agent::clock;
use dr_agent::repoint::gate;

use super::{HOSTS, OUTPUTS};
use crate::support::repoint::Machine;
use crate::support::{Process, agent_binary};

fn command(machine: &Machine, wait: &str) -> Command {
    let mut command = Command::new(agent_binary());
    command
        .args(["helper", "gate-open", "--wait", wait, "--config"])
        .arg(machine.config())
        .env("STATE_DIRECTORY", machine.path("helper"))
        .stdin(Stdio::null());
    command
}

fn open(machine: &Machine, wait: &str) -> String {
    let Output { status, stdout, stderr } = command(machine, wait).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn the_gate_waits_for_this_boot_s_decision_and_always_ends_well() {
    let machine = Machine::new(HOSTS, OUTPUTS);
    assert!(open(&machine, "1h").contains("nothing to wait for"));
    machine.decide("a-1");
    assert!(open(&machine, "200ms").contains("did not decide in time"));
    fs::write(machine.path("agent.toml"), "damaged").unwrap();
    open(&machine, "200ms");
    machine.configure(HOSTS, OUTPUTS);

    let run = machine.path("run");
    gate::say_decided(&run, "an earlier boot").unwrap();
    let mut waiting = Process::start(command(&machine, "1h").stdout(Stdio::null()));
    assert_eq!(waiting.0.try_wait().unwrap(), None);
    gate::say_decided(&run, &clock::boot_id().unwrap()).unwrap();
    assert!(waiting.ended().success());
    assert!(open(&machine, "1h").contains("the agent decided"));
}
