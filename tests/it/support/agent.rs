//! The real agent binary with a folder, a configuration and addresses of its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::ask::Target;
use super::site::Scratch;
use super::{Process, agent_binary, eventually, free_port};

/// An agent that can be started, stopped, frozen, killed and started again.
#[derive(Debug)]
pub struct Agent {
    pub scratch: Scratch,
    pub peer_port: u16,
    process: Option<Process>,
}

impl Agent {
    /// Writes the configuration: own addresses and state directory, and `extra` TOML after them. Not started yet.
    pub fn new(scratch: Scratch, extra: &str) -> Self {
        let agent = Self { peer_port: free_port(), scratch, process: None };
        agent.configure(extra);
        agent
    }

    pub fn configure(&self, extra: &str) {
        let text = format!(
            "schema = 1\ndeployment = \"test\"\nstate_dir = \"{}\"\n\n[listen]\npublic = \"unix:{}\"\n\
             peer = \"127.0.0.1:{}\"\ncontrol = \"{}\"\n\n{extra}\n",
            self.scratch.state().display(),
            self.scratch.socket().display(),
            self.peer_port,
            self.control_socket().display(),
        );
        fs::write(self.config(), text).expect("write the configuration");
    }

    pub fn config(&self) -> PathBuf {
        self.scratch.path("agent.toml")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.scratch.path("control/control.sock")
    }

    pub fn public(&self) -> Target {
        Target::unix(self.scratch.socket())
    }

    pub fn control(&self) -> Target {
        Target::unix(self.control_socket())
    }

    pub fn peer(&self) -> Target {
        Target::port(self.peer_port)
    }

    /// Starts it and does not wait for anything.
    pub fn spawn(&mut self) {
        let mut command = Command::new(agent_binary());
        command.arg("run").arg("--config").arg(self.config());
        self.spawn_as(&mut command);
    }

    /// Starts it with these variables and waits until it answers.
    pub fn start_with(&mut self, variables: &[(&str, &str)]) {
        let mut command = Command::new(agent_binary());
        command.arg("run").arg("--config").arg(self.config()).envs(variables.iter().copied());
        self.spawn_as(&mut command);
        self.wait_until_it_answers();
    }

    /// Starts it with at most so many descriptors.
    pub fn spawn_with_descriptors(&mut self, limit: u32) {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n $0 && exec \"$@\"", &limit.to_string(), agent_binary()]);
        command.arg("run").arg("--config").arg(self.config());
        self.spawn_as(&mut command);
    }

    /// Starts it by this command and does not wait for anything.
    pub fn spawn_as(&mut self, command: &mut Command) {
        assert!(self.process.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.scratch.path("log")).expect("open the log");
        command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(Process::start(command));
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_until_it_answers();
    }

    pub fn wait_until_it_answers(&self) {
        eventually("the agent answers", || {
            self.public().get("/health/live").map(drop).map_err(|error| format!("{error}\n{}", self.log()))
        });
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// What it wrote to stderr, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path("log")).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// SIGTERM; waits for its end and checks that it ended well and in time.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal("TERM");
        let status =
            eventually("the agent ends", || process.0.try_wait().expect("look at the agent").ok_or_else(|| self.log()));
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.process.as_ref().expect("it runs").signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.as_ref().expect("it runs").signal("CONT");
    }

    /// Waits until the public socket answers `path` with `status`.
    pub fn wait_for(&self, path: &str, status: u16) {
        eventually(&format!("{path} is {status}"), || match self.public().get(path) {
            Ok(answer) if answer.status == status => Ok(()),
            other => Err(format!("{other:?}\n{}", self.log())),
        });
    }

    /// Lets it live for a moment and kills it, so many times; it is left dead.
    pub fn crash(&mut self, times: u32) {
        for round in 0..times {
            self.spawn();
            // Now before it listens, now after.
            std::thread::sleep(Duration::from_millis(u64::from(round % 4) * 150));
            self.kill();
        }
    }
}
