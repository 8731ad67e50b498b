//! The root helper of repointing, with folders and a `systemctl` of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use dr_agent::helper::Paths;
use dr_agent::repoint::VERB;
use dr_agent::repoint::apply::Applied;
use dr_agent::repoint::decision::{self, Decision};

use super::site::Scratch;
use super::{agent_binary, eventually, repository};

/// Two regions and whatever outputs a test wants.
#[derive(Debug)]
pub struct Machine {
    pub scratch: Scratch,
    ids: std::cell::Cell<u32>,
}

impl Machine {
    /// `repoint`: the table and its outputs, in which `{dir}` is the machine's folder. Hosts: of the two regions.
    pub fn new(hosts: [&str; 2], repoint: &str) -> Self {
        let machine = Self { scratch: Scratch::new(), ids: std::cell::Cell::new(0) };
        for dir in ["state", "run", "run/request", "app", "bin"] {
            fs::create_dir_all(machine.path(dir)).expect("make the folders");
        }
        machine.configure(hosts, repoint);
        // It tells what it is asked, and says that the app runs.
        machine.scratch.systemctl("case \"$1\" in show) printf 'LoadState=loaded\\nActiveState=active\\n';; esac");
        machine
    }

    pub fn configure(&self, [a, b]: [&str; 2], repoint: &str) {
        let dir = self.scratch.0.path().display().to_string();
        let text = format!(
            "schema = 1\ndeployment = \"test\"\nhome = \"a-1\"\nstate_dir = \"{dir}/state\"\n[listen]\n\
             control = \"{dir}/run/control.sock\"\n[region.a-1]\ndatabase = \"{a}\"\n[region.b-1]\ndatabase = \"{b}\"\n{}\n",
            repoint.replace("{dir}", &dir)
        );
        fs::write(self.config(), text).expect("write the configuration");
    }

    pub fn config(&self) -> PathBuf {
        self.path("agent.toml")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// The text of a file of the app's.
    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path("app").join(name)).unwrap_or_default()
    }

    /// Writes a decision as the agent does.
    pub fn decide(&self, writer: &str) -> Decision {
        self.decide_as(writer, |_| {})
    }

    pub fn decide_as(&self, writer: &str, change: impl FnOnce(&mut Decision)) -> Decision {
        self.ids.set(self.ids.get() + 1);
        let mut decision = Decision {
            id: format!("{:032x}", self.ids.get()),
            writer: writer.to_owned().into(),
            reader: "a-1".to_owned().into(),
            epoch: u64::from(self.ids.get()),
            state: "owner".to_owned(),
            only_new: false,
            rollback: None,
        };
        change(&mut decision);
        decision::write(&self.path("state"), &self.path("run"), &decision).expect("write the decision");
        decision
    }

    /// The helper as systemd starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(agent_binary());
        command
            .args(["helper", "repoint-apply", "--config"])
            .arg(self.config())
            .env("STATE_DIRECTORY", self.path("helper"))
            .env("PATH", self.scratch.programs())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self) -> Output {
        self.command().output().expect("run the helper")
    }

    /// Runs it for `decision`, and gives its result.
    pub fn apply(&self, decision: &Decision) -> Applied {
        let output = self.run();
        let applied = self.newest().filter(|applied| applied.done.id == decision.id);
        let applied = applied.unwrap_or_else(|| panic!("no result: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(output.status.success(), applied.done.ok, "{applied:?}");
        applied
    }

    pub fn newest(&self) -> Option<Applied> {
        self.paths().newest(VERB)
    }

    pub fn paths(&self) -> Paths {
        Paths::of(&self.path("run/control.sock"))
    }

    /// Decides, applies, and checks that it went well.
    pub fn repoint(&self, writer: &str) -> Applied {
        let applied = self.apply(&self.decide(writer));
        assert!(applied.done.ok, "{applied:?}");
        applied
    }
}

impl Scratch {
    /// Replaces the `systemctl` that the helper finds. Each call is noted in the file `called` before `script` runs.
    pub fn systemctl(&self, script: &str) {
        let path = self.path("bin/systemctl");
        let called = self.path("called");
        fs::write(&path, format!("#!/bin/sh\necho \"$@\" >>{}\n{script}\n", called.display()))
            .expect("write systemctl");
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("make it a program");
    }

    /// What `systemctl` was asked since the last time, one call a line.
    pub fn called(&self) -> String {
        let path = self.path("called");
        let text = fs::read_to_string(&path).unwrap_or_default();
        drop(fs::remove_file(path));
        text
    }

    /// `PATH` for the helper, in which that one comes first.
    pub fn programs(&self) -> String {
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("bin").display())
    }
}

/// The database proxy as it is shipped, in a folder, with a `systemctl` that starts, reloads and stops it.
#[derive(Debug)]
pub struct Proxy {
    /// Where it is to listen.
    pub port: u16,
    folder: PathBuf,
    systemctl: PathBuf,
}

impl Proxy {
    /// For the output `database-proxy.conf` in the folder `app`.
    pub fn of(scratch: &Scratch, port: u16) -> Self {
        let folder = scratch.path("app");
        let at = folder.display();
        let shipped = repository().join("packaging/nginx/database-proxy.conf");
        let text = fs::read_to_string(shipped).expect("read the shipped file");
        let changes = [
            ("/run/dr-agent-database-proxy.pid", format!("{at}/proxy.pid")),
            ("syslog:server=unix:/dev/log,nohostname,tag=dr_agent_database_proxy", format!("{at}/proxy.log")),
            ("/var/lib/dr-agent-helper", at.to_string()),
            ("16384", "256".to_owned()),
            ("worker_rlimit_nofile 65536;", String::new()),
        ];
        let text = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "the shipped file has no `{from}` any more");
            text.replace(from, to)
        });
        fs::write(folder.join("nginx.conf"), text).expect("write nginx.conf");
        // As the unit does it.
        scratch.systemctl(&format!(
            "nginx='nginx -e {at}/proxy.log -c {at}/nginx.conf'
             pid=$(cat {at}/proxy.pid 2>/dev/null)
             case \"$1\" in
             start) [ -n \"$pid\" ] || $nginx ;;
             try-reload-or-restart) [ -z \"$pid\" ] || {{ $nginx -t -q && kill -HUP $pid; }} ;;
             stop) [ -z \"$pid\" ] || {{ kill -TERM $pid; while [ -e {at}/proxy.pid ]; do sleep 0.02; done; }} ;;
             esac"
        ));
        Self { port, folder, systemctl: scratch.path("bin/systemctl") }
    }

    /// The file that says where it leads.
    pub fn conf(&self) -> PathBuf {
        self.folder.join("database-proxy.conf")
    }

    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.join("proxy.pid")).ok()?.trim().parse().ok()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("proxy.log")).unwrap_or_default()
    }

    /// Starts it without the helper.
    pub fn start(&self) {
        let status = Command::new(&self.systemctl).arg("start").status().expect("start the proxy");
        assert!(status.success(), "it does not start: {}", self.log());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return;
        }
        drop(Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status());
        if !std::thread::panicking() {
            eventually("the proxy ends", || if self.pid().is_none() { Ok(()) } else { Err("it runs") });
        }
    }
}
