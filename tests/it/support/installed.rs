//! A booted machine with nginx, a site, and the package as `rpm` installs it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use dr_agent::telemetry::event::AGENT_STARTED;

use super::machine::{Machine, Said};
use super::package::package;
use super::{eventually, within};

/// As the README says: one line in the server block.
const SITE: &str = "server {\n  listen 80 default_server;\n  include /etc/nginx/dr-agent.d/*.conf;\n  \
                    location / { default_type text/plain; return 200 \"shop\\n\"; }\n}\n";

/// What [`Installed::looks`] says of an instance that serves.
pub const WELL: &str = "instance=200 region=200 page=200 markers= agent=active nginx=active";

/// The same in a region that is fenced: the instance can serve, the region may not.
pub const FENCED: &str = "instance=200 region=503 page=503 markers=fenced agent=active nginx=active";

/// What one question got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: String,
    /// `X-Dr-Agent`: a generation, `absent` or `stale`.
    pub by: String,
    pub body: String,
}

/// The machine.
#[derive(Debug)]
pub struct Installed {
    pub machine: Machine,
}

impl Installed {
    /// Boots it and installs the package, which starts nothing. `None` where no machine can be booted.
    pub fn new() -> Option<Self> {
        Self::of(&package(1))
    }

    /// The same with this package.
    pub fn of(package: &Path) -> Option<Self> {
        let machine = Machine::boot()?;
        machine.put("/etc/nginx/sites-available/default", SITE, 0o644);
        machine.must("systemctl reload-or-restart nginx");
        let installed = Self { machine };
        let said = installed.rpm_of("--install", package);
        assert!(said.ok, "{}{}", said.out, said.err);
        installed.machine.must("nginx -t && systemctl reload nginx");
        Some(installed)
    }

    /// The same, and the agent runs and serves.
    pub fn running() -> Option<Self> {
        let installed = Self::new()?;
        installed.machine.must("systemctl enable --quiet --now dr-agent");
        installed.becomes("/health/instance", "200");
        Some(installed)
    }

    /// Runs `rpm` with the package of this release number. The machine is Debian's: nothing that the package requires is in
    /// the database, and `rpm` has to be told that this is meant.
    pub fn rpm(&self, action: &str, release: u32) -> Said {
        self.rpm_of(action, &package(release))
    }

    /// The same with this package.
    pub fn rpm_of(&self, action: &str, package: &Path) -> Said {
        let path = "/root/dr-agent.rpm";
        self.machine.put(path, fs::read(package).expect("read the package"), 0o644);
        self.machine.run(&format!("rpm {action} --force-debian --nodeps {path}"))
    }

    /// Removes the package.
    pub fn erase(&self) -> Said {
        self.machine.run("rpm --erase --force-debian dr-agent")
    }

    /// Asks nginx once.
    pub fn ask(&self, path: &str) -> Answer {
        let said =
            self.machine.run(&format!("curl --silent --max-time 5 --write-out '{WORDS}' http://127.0.0.1{path}"));
        answers(&said.out).pop().expect("curl says what it got")
    }

    /// Waits until nginx answers with this code.
    pub fn becomes(&self, path: &str, code: &str) -> Answer {
        eventually(&format!("{path} is {code}"), || match self.ask(path) {
            answer if answer.code == code => Ok(answer),
            answer => Err(format!("{answer:?}\n{}", self.log())),
        })
    }

    /// Waits until the running agent itself answers.
    pub fn agent_answers(&self, path: &str) -> Answer {
        eventually(&format!("the agent answers {path}"), || match self.ask(path) {
            answer if answer.by.parse::<u64>().is_ok() => Ok(answer),
            answer => Err(format!("{answer:?}\n{}", self.log())),
        })
    }

    /// Asks nginx for `path` about fifty times a second, until [`Asking::end`].
    pub fn keep_asking(&self, path: &str) -> Asking<'_> {
        let name = path.trim_matches('/').replace('/', "-");
        let name = format!("asking-{}", if name.is_empty() { "site" } else { &name });
        let command = format!(
            "exec curl --silent --rate 50/s --max-time 5 --write-out \"{WORDS}\" \"http://127.0.0.1{path}?[1-1000000]\" >/root/{name}"
        );
        // It is read from now on, also before the unit has begun.
        self.machine.must(&format!(": >/root/{name} && systemd-run --quiet --collect --unit={name} sh -c '{command}'"));
        let asking = Asking { installed: self, name };
        asking.more();
        asking
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.machine.must(&format!("systemctl show {unit} --property={name} --value")).trim().to_owned()
    }

    /// Waits until a property of a unit is as wanted.
    pub fn property_becomes(&self, unit: &str, name: &str, wanted: &str) {
        within(std::time::Duration::from_secs(60), &format!("{name} of {unit} is {wanted}"), || {
            let value = self.property(unit, name);
            if value == wanted { Ok(()) } else { Err(format!("{value}\n{}", self.log())) }
        });
    }

    /// The names of the markers that stand, one a line.
    pub fn markers(&self) -> String {
        self.machine.must("ls /var/lib/dr-agent/public")
    }

    /// How it looks to those around it: what nginx tells the load balancer, Route 53 and a user; the markers; the units.
    pub fn looks(&self) -> String {
        let [instance, region, page] = ["/health/instance", "/health/region", "/"].map(|path| self.ask(path).code);
        let markers = self.markers().split_whitespace().collect::<Vec<_>>().join(",");
        let [agent, nginx] = ["dr-agent", "nginx"].map(|unit| self.property(unit, "ActiveState"));
        format!("instance={instance} region={region} page={page} markers={markers} agent={agent} nginx={nginx}")
    }

    /// Waits until it looks like this, with the agent itself answering, whose start is in the journal. Its process id.
    pub fn settles(&self, wanted: &str) -> String {
        self.agent_answers("/health/instance");
        eventually(&format!("it looks like {wanted}"), || match self.looks() {
            looks if looks == wanted => Ok(()),
            looks => Err(format!("{looks}\n{}", self.log())),
        });
        let pid = self.property("dr-agent", "MainPID");
        let started = self.machine.journal_has(&format!("MESSAGE_ID={AGENT_STARTED} _PID={pid}"));
        let version = self.machine.must("rpm --query --queryformat '%{VERSION}' dr-agent");
        let fields = ["_SYSTEMD_UNIT", "VERSION"].map(|name| started[name].as_str());
        assert_eq!(fields, [Some("dr-agent.service"), Some(version.as_str())], "{started}");
        pid
    }

    fn log(&self) -> String {
        self.machine.run("journalctl --quiet --no-pager --lines=40").out
    }
}

/// Questions that go on.
#[derive(Debug)]
pub struct Asking<'a> {
    installed: &'a Installed,
    name: String,
}

impl Asking<'_> {
    fn read(&self) -> Vec<Answer> {
        answers(&self.installed.machine.must(&format!("cat /root/{}", self.name)))
    }

    /// Waits until ten more questions were answered.
    pub fn more(&self) {
        let wanted = self.read().len() + 10;
        eventually("ten more answers", || match self.read().len() {
            found if found >= wanted => Ok(()),
            found => Err(format!("{found} of {wanted}")),
        });
    }

    /// Ends them; every one must have been answered with this code. Says how many there were, and how many of them without
    /// the agent.
    pub fn end(self, code: &str) -> String {
        self.more();
        self.installed.machine.must(&format!("systemctl stop {}", self.name));
        let answers = self.read();
        let wrong: Vec<_> = answers.iter().filter(|answer| answer.code != code).collect();
        let held = answers.iter().filter(|answer| answer.by == "absent").count();
        assert!(wrong.is_empty(), "{}: of {} answers {}: {wrong:?}", self.name, answers.len(), wrong.len());
        format!("{}: {} answers, {held} of them nginx's own; none was lost or wrong", self.name, answers.len())
    }
}

/// What curl says after each body.
const WORDS: &str = "\\n#%{http_code} %header{x-dr-agent}\\n";

fn answers(said: &str) -> Vec<Answer> {
    let mut body = String::new();
    let mut answers = Vec::new();
    for line in said.lines() {
        match line.strip_prefix('#') {
            Some(words) => {
                let (code, by) = words.split_once(' ').unwrap_or((words, ""));
                answers.push(Answer { code: code.to_owned(), by: by.to_owned(), body: std::mem::take(&mut body) });
            }
            None if line.is_empty() => {}
            None => writeln!(body, "{line}").expect("a string takes it"),
        }
    }
    answers
}
