//! One instance of a region: nginx with the shipped file, the agent in a boot of its own, the app's files, and what
//! starts the root helper.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::agent::Agent;
use super::imds::Imds;
use super::nginx::Nginx;
use super::repoint::Proxy;
use super::shop::Shop;
use super::site::{self, Scratch};
use super::{agent_binary, free_port};

/// An instance. Dropped, everything of it ends.
#[derive(Debug)]
pub struct Instance {
    pub id: String,
    pub region: &'static str,
    /// The agent's program: another release's, where two are to work together.
    pub program: PathBuf,
    /// If its app goes by way of one.
    pub proxy: Option<Proxy>,
    pub agent: Agent,
    pub nginx: Nginx,
    /// What stands for systemd's path unit.
    pub unit: Option<PathUnit>,
    imds: Imds,
    is_running: bool,
    boots: u32,
}

impl Instance {
    /// A machine that has just started, with nothing of an earlier one, and no agent yet.
    pub fn launch(id: &str, region: &'static str, group: &str) -> Self {
        let scratch = Scratch::new();
        for dir in ["app", "bin", "control", "helper"] {
            fs::create_dir(scratch.path(dir)).expect("create a folder");
        }
        let nginx = site::start(&scratch, "", "");
        let imds = Imds::of(id, &format!("{region}a"), group);
        let agent = Agent::new(scratch, "");
        fs::copy("/etc/hosts", agent.scratch.path("hosts")).expect("copy the hosts");
        let mut instance = Self {
            id: id.to_owned(),
            region,
            program: agent_binary().into(),
            proxy: None,
            agent,
            nginx,
            unit: None,
            imds,
            is_running: false,
            boots: 0,
        };
        instance.reboot();
        instance
    }

    /// The machine starts anew: another boot id, an empty `/run`; what is on disk stays.
    pub fn reboot(&mut self) {
        self.kill();
        self.nginx.kill();
        self.unit = None;
        self.boots += 1;
        let id = self.id.trim_start_matches("i-");
        write(&self.boot_file(), &format!("{id}-0000-4000-8000-{:012x}\n", self.boots));
        for dir in ["control", "control-result", "http"] {
            drop(fs::remove_dir_all(self.agent.scratch.path(dir)));
        }
        // As systemd-tmpfiles does it.
        drop(fs::remove_file(self.agent.scratch.markers().join("promoted")));
        fs::create_dir(self.agent.scratch.path("control")).expect("create a folder");
        self.unit = Some(PathUnit::of(self));
    }

    /// Its app goes by way of the database proxy, which does not run yet; its port.
    pub fn add_proxy(&mut self) -> u16 {
        let port = free_port();
        self.proxy = Some(Proxy::of(&self.agent.scratch, port));
        port
    }

    fn boot_file(&self) -> PathBuf {
        self.agent.scratch.path("boot_id")
    }

    /// Names as this machine resolves them.
    pub fn hosts(&self, text: &str) {
        write(&self.agent.scratch.path("hosts"), text);
    }

    pub fn runs(&self) -> bool {
        self.is_running
    }

    /// Starts the agent, and after a boot what starts after it: the boot gate, then nginx.
    pub fn start(&mut self, variables: &[(String, String)]) {
        let scratch = &self.agent.scratch;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]).arg(
            "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"",
        );
        command.args([self.boot_file(), scratch.path("hosts")]);
        command.arg(&self.program).args(["run", "--config"]).arg(self.agent.config());
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.imds.endpoint());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        self.agent.spawn_as(&mut command);
        self.is_running = true;
        if !self.nginx.runs() {
            let mut gate = Command::new("unshare");
            gate.args(["--mount", "sh", "-c"])
                .arg("mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"")
                .args([&self.boot_file(), &self.program])
                .args(["helper", "gate-open", "--wait", "12s", "--config"])
                .arg(self.agent.config())
                .env("STATE_DIRECTORY", self.agent.scratch.path("helper"));
            let output = gate.stdin(Stdio::null()).output().expect("run the gate");
            assert!(output.status.success(), "{}", outcome(&output));
            self.nginx.start_again();
        }
    }

    /// Another release is installed: its agent and its root helper from now on.
    pub fn install(&mut self, program: PathBuf) {
        self.kill();
        self.program = program;
        self.unit = Some(PathUnit::of(self));
    }

    /// SIGKILL for the agent.
    pub fn kill(&mut self) {
        self.agent.kill();
        self.is_running = false;
    }

    /// A command of the agent's; its output.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--config").arg(self.agent.config());
        command.stdin(Stdio::null()).output().expect("run the agent")
    }

    /// The state as the agent keeps it on disk; looking at it wakes nobody.
    pub fn state(&self) -> String {
        self.memory()["state"].as_str().unwrap_or("-").to_owned()
    }

    /// What authority remembers, from disk.
    pub fn memory(&self) -> Value {
        let text = fs::read_to_string(self.agent.scratch.state().join("state.json")).unwrap_or_default();
        serde_json::from_str::<Value>(&text).map_or(Value::Null, |mut state| state["authority"].take())
    }

    /// Its app.
    pub fn shop(&self) -> Shop {
        Shop { files: self.agent.scratch.path("app"), port: self.nginx.port }
    }
}

/// What a command said.
pub fn outcome(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn write(path: &PathBuf, text: &str) {
    // In place: it may be mounted elsewhere.
    fs::write(path, text).expect("write a file");
}

/// What systemd's path unit does: it starts the helper when the request is written. What is written while the helper
/// runs it does not see.
#[derive(Debug)]
pub struct PathUnit {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PathUnit {
    pub fn of(instance: &Instance) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, request) = (Arc::clone(&stop), instance.agent.scratch.path("control/request/repoint-apply"));
        let mut helper = Command::new(&instance.program);
        helper
            .args(["helper", "repoint-apply", "--config"])
            .arg(instance.agent.config())
            .env("STATE_DIRECTORY", instance.agent.scratch.path("helper"))
            .env("PATH", instance.agent.scratch.programs())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let written = move || fs::metadata(&request).map(|meta| (meta.mtime(), meta.mtime_nsec())).ok();
        let thread = thread::spawn(move || {
            let mut seen = None;
            while !stopped.load(Ordering::SeqCst) {
                if written() != seen {
                    seen = written();
                    drop(helper.status());
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for PathUnit {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
