//! A state directory on a disk that is really full, and has room again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::agent::Agent;
use crate::support::site::Scratch;
use crate::support::{agent_binary, eventually};

/// A file system of 256 KiB; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).expect("make the mount point");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=755", "dr-agent-test"])
            .arg(&at)
            .status()
            .expect("run mount");
        assert!(mounted.success(), "this test needs root, to mount a tmpfs at {}", at.display());
        Self(at)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Not a byte is left.
    fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).expect("make the filler");
        for size in [4_096, 1] {
            while filler.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("remove the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: an agent that is still there must not keep it.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
        // The agent's folder could not be removed as long as this was in it.
        drop(fs::remove_dir_all(self.0.parent().unwrap_or(&self.0)));
    }
}

fn command(agent: &Agent, words: &[&str]) -> Output {
    Command::new(agent_binary()).args(words).arg("--config").arg(agent.config()).output().expect("run it")
}

fn stands(file: &Path) -> Result<(), String> {
    if file.is_file() { Ok(()) } else { Err(format!("{} is not there", file.display())) }
}

#[test]
fn a_full_disk_costs_memory_across_restarts_and_no_answer() {
    let scratch = Scratch::new();
    let disk = Disk::mount(scratch.state());
    let mut agent = Agent::new(scratch, "[probe.nginx]\nurl = \"http://127.0.0.1:1/\"\n");
    disk.fill();
    agent.start();
    agent.wait_for("/health/instance", 503);
    let told = command(&agent, &["drain", "--reason", "full", "--force"]);
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && said.contains("No space left"), "{said}");

    // Room again: what could not be written is written, without a restart.
    disk.free();
    let state = agent.scratch.state();
    eventually("the state is saved", || stands(&state.join("state.json")));
    let told = command(&agent, &["drain", "--reason", "swap", "--force"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let marker = agent.scratch.markers().join("draining");
    eventually("the marker is set", || stands(&marker));

    // Full once more: what was asked for outlives a crash, and ends when it is told to.
    disk.fill();
    agent.kill();
    agent.start();
    agent.wait_for("/health/instance", 503);
    let state_of = |agent: &Agent| agent.public().get("/health/instance").expect("an answer").json();
    assert_eq!(state_of(&agent)["state"], "draining");
    let told = command(&agent, &["undrain"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    assert_ne!(state_of(&agent)["state"], "draining");
    eventually("the marker is cleared", || if marker.exists() { Err("it stands") } else { Ok(()) });
    agent.stop();
}
