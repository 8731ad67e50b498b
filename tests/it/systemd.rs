use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::machine::Machine;
use crate::support::{PATIENCE, Process, agent_binary, eventually, free_port, repository};

/// A folder with a configuration in which nginx is down and everything else is somewhere in the folder.
pub struct AgentFolder(tempfile::TempDir);

impl AgentFolder {
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("make a folder"));
        let dir = folder.0.path().display();
        let (peer, nginx) = (free_port(), free_port());
        let config = format!(
            r#"
schema = 1
deployment = "test"
state_dir = "{dir}/state"

[listen]
public = "unix:{dir}/public.sock"
peer = "127.0.0.1:{peer}"
control = "{dir}/control.sock"

[probe.nginx]
url = "http://127.0.0.1:{nginx}/health/nginx"
"#
        );
        fs::write(folder.path("agent.toml"), config).expect("write the configuration");
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `dr-agent run` with that configuration.
    pub fn agent(&self) -> Command {
        let mut command = Command::new(agent_binary());
        command.args(["run", "--config"]).arg(self.path("agent.toml")).stdin(Stdio::null());
        command
    }
}

/// A stand-in for systemd's end of the notification socket.
pub struct Notifications {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notifications {
    pub fn listen(folder: &AgentFolder) -> Self {
        let path = folder.path("notify");
        let socket = UnixDatagram::bind(&path).expect("bind the notification socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("set the timeout");
        Self { socket, path }
    }

    /// What systemd would set: this socket, and a watchdog of 300 ms, so that a beat comes every 100 ms.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("NOTIFY_SOCKET", self.path.display().to_string()), ("WATCHDOG_USEC", "300000".to_owned())]
    }

    pub fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("the agent says something");
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    }

    /// Skips to a message that begins so, and gives it.
    pub fn wait_for(&self, beginning: &str) -> String {
        let mut heard = Vec::new();
        loop {
            let message = self.next();
            if message.starts_with(beginning) {
                return message;
            }
            assert!(heard.len() < 1_000, "no {beginning} among {heard:?}");
            heard.push(message);
        }
    }
}

/// Sends to a datagram socket until the kernel would make a sender wait.
pub fn fill(path: &Path) {
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("set it");
    while filler.send_to(b"FILLER=1", path).is_ok() {}
}

#[test]
fn systemd_is_told_of_every_step_and_of_the_verdicts() {
    let folder = AgentFolder::new();
    let notifications = Notifications::listen(&folder);
    let mut agent = Process::start(folder.agent().envs(notifications.environment()));
    assert_eq!(notifications.next(), "READY=1", "nothing comes before it");
    let settled = notifications.wait_for("STATUS=instance closed");
    assert!(settled.contains("nginx unhealthy (nginx-"), "{settled}");
    notifications.wait_for("WATCHDOG=1");
    agent.signal("HUP");
    notifications.wait_for("RELOADING=1");
    notifications.wait_for("READY=1");
    notifications.wait_for("WATCHDOG=1");
    agent.signal("TERM");
    notifications.wait_for("STOPPING=1");
    assert!(agent.ended().success());
}

#[test]
fn a_service_manager_that_takes_nothing_holds_nothing_up() {
    let folder = AgentFolder::new();
    let notifications = Notifications::listen(&folder);
    let log = folder.path("log");
    let mut agent = Process::start(
        folder.agent().envs(notifications.environment()).stderr(fs::File::create(&log).expect("make the log")),
    );
    let logged = |text: &str| {
        let log = fs::read_to_string(&log).expect("read the log");
        if log.contains(text) { Ok(()) } else { Err(log) }
    };
    eventually("the agent has started", || logged("nginx is unhealthy"));
    fill(&notifications.path);
    agent.signal("HUP");
    eventually("it still reloads", || logged("was read again"));
    agent.signal("TERM");
    assert!(agent.ended().success());
}

/// The value of a property of the agent's unit.
fn property(machine: &Machine, name: &str) -> String {
    machine.must(&format!("systemctl show dr-agent --property={name} --value")).trim().to_owned()
}

/// Waits until a property of the agent's unit is as wanted.
fn property_becomes(machine: &Machine, name: &str, wanted: impl Fn(&str) -> bool) -> String {
    eventually(&format!("{name} becomes what it should"), || {
        let value = property(machine, name);
        if wanted(&value) { Ok(value) } else { Err(value) }
    })
}

/// Waits for a journal entry of the agent that has these fields.
fn journal_has(machine: &Machine, matches: &str) -> serde_json::Value {
    eventually(&format!("the journal has {matches}"), || {
        let said = machine.must(&format!("journalctl --quiet --output=json _SYSTEMD_UNIT=dr-agent.service {matches}"));
        match said.lines().last() {
            Some(line) => serde_json::from_str::<serde_json::Value>(line).map_err(|error| error.to_string()),
            None => Err(machine.must("journalctl --quiet --no-pager --unit=dr-agent --lines=30")),
        }
    })
}

/// Installs what a package would, without one.
fn install(machine: &Machine) {
    let file = |path: &str| {
        let path = repository().join("packaging").join(path);
        fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
    };
    machine.put("/usr/bin/dr-agent", fs::read(agent_binary()).expect("read the binary"), 0o755);
    machine.put("/usr/lib/systemd/system/dr-agent.service", file("systemd/dr-agent.service"), 0o644);
    machine.put("/usr/lib/sysusers.d/dr-agent.conf", file("systemd/dr-agent.sysusers.conf"), 0o644);
    machine.put("/usr/lib/tmpfiles.d/dr-agent.conf", file("systemd/dr-agent.tmpfiles.conf"), 0o644);
    machine.put("/etc/nginx/dr-agent.d/dr-agent.conf", file("nginx/dr-agent.conf"), 0o644);
    let site = "server { listen 80 default_server; root /var/www/html; include /etc/nginx/dr-agent.d/*.conf; }\n";
    machine.put("/etc/nginx/sites-available/default", site, 0o644);
    // The watchdog's rule is the unit's; only its period is shorter, to see it within the test.
    let shorter = "[Service]\nWatchdogSec=3\nRestartSec=100ms\n";
    machine.put("/etc/systemd/system/dr-agent.service.d/test.conf", shorter, 0o644);
    machine.must("systemctl daemon-reload && systemd-sysusers && systemd-tmpfiles --create dr-agent.conf");
}

/// One boot for everything that needs a real systemd.
#[test]
fn the_unit_under_a_real_systemd() {
    let Some(machine) = Machine::boot() else { return };
    machine.must("systemctl stop nginx");
    install(&machine);

    // It starts without network, web server, mount and configuration, and `start` returns when it is ready.
    machine.must("systemctl start dr-agent");
    assert_eq!(property(&machine, "ActiveState"), "active");
    property_becomes(&machine, "StatusText", |text| text.contains("nginx unhealthy (nginx-"));

    // The journal has fields, not prose.
    let started = journal_has(&machine, "MESSAGE_ID=bd214b5c0c1f76a28e007b4ae2b6bdb9");
    assert_eq!(started["VERSION"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&started["SYSLOG_IDENTIFIER"], &started["PRIORITY"]), (&"dr-agent".into(), &"5".into()), "{started}");
    let fell = journal_has(&machine, "MESSAGE_ID=8e7e74b4ac6d2986c1da5fe107068701 COMPONENT=nginx TO=unhealthy");
    assert_eq!((&fell["CAUSE"], &fell["PRIORITY"]), (&"nginx-master-gone".into(), &"3".into()), "{fell}");
    assert!(fell["MESSAGE"].as_str().is_some_and(|message| message.contains("nginx is unhealthy")), "{fell}");

    // A transition shows in the status line and in the journal. The master of nginx is visible from the sandbox.
    machine.must("systemctl start nginx");
    property_becomes(&machine, "StatusText", |text| text.starts_with("instance serving") && !text.contains("nginx "));
    journal_has(&machine, "MESSAGE_ID=8e7e74b4ac6d2986c1da5fe107068701 COMPONENT=nginx TO=healthy");

    // The sandbox: who it is, what it may do, what it sees of mounts made later.
    let pid = property(&machine, "MainPID");
    let status = machine.must(&format!("cat /proc/{pid}/status"));
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field of the status");
        line.split_whitespace().nth(1).expect("a value").to_owned()
    };
    assert_eq!(
        (field("Uid:").as_str(), field("CapBnd:").as_str(), field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()),
        ("848", "0000000000000000", "1", "2")
    );
    machine.must("systemd-analyze security --threshold=20 --no-pager dr-agent.service");
    let seen = || machine.must(&format!("grep ' /mnt/efs ' /proc/{pid}/mountinfo || true"));
    machine.must("mkdir -p /mnt/efs && mount -t tmpfs -o mode=1777 later /mnt/efs");
    let line = eventually("a mount made later is visible", || Some(seen()).filter(|l| !l.is_empty()).ok_or("not yet"));
    assert!(line.split_whitespace().any(|options| options.starts_with("rw")), "{line}");
    machine.must(&format!("nsenter -t {pid} -m -S 848 -G 848 touch /mnt/efs/canary && test -e /mnt/efs/canary"));
    machine.must("umount /mnt/efs");
    eventually("and so is its end", || if seen().is_empty() { Ok(()) } else { Err(seen()) });
    let modes = "stat -c '%a %U:%G' /var/lib/dr-agent /run/dr-agent-http /run/dr-agent/control.sock";
    let modes = machine.must(modes);
    assert_eq!(modes, "755 dr-agent:dr-agent\n755 dr-agent:dr-agent\n660 dr-agent:dr-agent-admin\n");
    machine.must(
        "su -s /bin/sh www-data -c 'curl -fsS --unix-socket /run/dr-agent-http/public.sock http://a/health/live'",
    );

    // Reload with a good file, then with a bad one, which changes nothing; then a start with the bad one.
    let good = "schema = 1\ndeployment = \"shop\"\n";
    machine.put("/etc/dr-agent/agent.toml", good, 0o644);
    machine.must("systemctl reload dr-agent");
    journal_has(&machine, "MESSAGE_ID=6434c07cbae2c086b8ab0c86045229e9");
    machine.put("/etc/dr-agent/agent.toml", "schema = 1\nno such key\n", 0o644);
    machine.must("systemctl reload dr-agent");
    journal_has(&machine, "MESSAGE_ID=51437e4d851e59916063c052b1d964f7");
    property_becomes(&machine, "ActiveState", |state| state == "active");
    assert_eq!(property(&machine, "MainPID"), pid, "neither reload restarts it");
    machine.must("systemctl restart dr-agent");
    property_becomes(&machine, "StatusText", |text| text.contains("configuration: "));
    assert_eq!((property(&machine, "ActiveState"), property(&machine, "NRestarts")), ("active".into(), "0".into()));
    machine.put("/etc/dr-agent/agent.toml", good, 0o644);

    // Frozen, it is killed by the watchdog and comes back; crashed, it comes back.
    let frozen = property(&machine, "MainPID");
    machine.must(&format!("kill -STOP {frozen}"));
    property_becomes(&machine, "NRestarts", |count| count == "1");
    journal_killed(&machine, "watchdog");
    property_becomes(&machine, "ActiveState", |state| state == "active");
    machine.must(&format!("kill -KILL {}", property(&machine, "MainPID")));
    property_becomes(&machine, "NRestarts", |count| count == "2");
    property_becomes(&machine, "ActiveState", |state| state == "active");
    property_becomes(&machine, "StatusText", |text| text.starts_with("instance serving"));

    // SIGTERM ends it by itself, before systemd would lose patience and kill it.
    machine.must("systemctl stop dr-agent");
    assert_eq!((property(&machine, "Result"), property(&machine, "ExecMainStatus")), ("success".into(), "0".into()));
}

/// systemd's own entry on how the unit failed.
fn journal_killed(machine: &Machine, result: &str) {
    eventually("systemd says why it failed", || {
        let said = machine.must("journalctl --quiet --output=cat UNIT=dr-agent.service");
        if said.contains(&format!("Failed with result '{result}'")) { Ok(()) } else { Err(said) }
    });
}
