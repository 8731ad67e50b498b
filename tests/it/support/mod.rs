//! Starts the real parts and takes them down again, also when a test fails.
#![allow(dead_code, reason = "not every theme uses every helper")]

pub mod agent;
pub mod ask;
pub mod aws_proxy;
pub mod fake_member;
pub mod fleet;
pub mod forward;
pub mod hangfs;
pub mod imds;
pub mod installed;
pub mod instance;
pub mod later;
pub mod machine;
pub mod mariadb;
pub mod member;
pub mod moto;
pub mod mysql;
pub mod nginx;
pub mod package;
pub mod regions;
pub mod repoint;
pub mod served;
pub mod shop;
pub mod site;
pub mod tcp;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long a predicate may take to come true before a test gives up. Generous: machines are noisy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `check` gives a value; panics with `what` and the last error after [`PATIENCE`].
pub fn eventually<T, E: std::fmt::Display>(what: &str, check: impl FnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, check)
}

/// The same for what takes longer by its nature.
pub fn within<T, E: std::fmt::Display>(patience: Duration, what: &str, mut check: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match check() {
            Ok(value) => return value,
            Err(error) if Instant::now() >= deadline => panic!("{what}: still not after {patience:?}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A TCP port on loopback that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a free port").local_addr().expect("bound").port()
}

/// A process that is killed and reaped when the test ends, however it ends.
#[derive(Debug)]
pub struct Process(pub Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}")))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("the process ends", || match self.0.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Sends a signal by name (`STOP`, `CONT`, `TERM`, ...).
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Sends a signal by name to one process. After `STOP` it has stopped: `kill` returns before that, and what a thread
/// still took could be answered.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("run kill");
    assert!(status.success(), "kill -s {name} {pid}");
    if name != "STOP" {
        return;
    }
    let tasks = format!("/proc/{pid}/task");
    eventually("every thread has stopped", || {
        let tasks = std::fs::read_dir(&tasks).map_err(|error| error.to_string())?.flatten();
        let states: Vec<_> = tasks.filter_map(|task| hangfs::state_in(&task.path().join("stat"))).collect();
        // One that waits for a dead disk cannot stop, and does nothing either.
        if states.iter().all(|state| matches!(state, 'T' | 'D')) { Ok(()) } else { Err(format!("{states:?}")) }
    });
}

/// The agent binary of this build.
pub fn agent_binary() -> &'static str {
    env!("CARGO_BIN_EXE_dr-agent")
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
