//! Two regions on one machine: in each a real database, one the primary and the other its replica, and instances with a
//! real nginx, the agent, and the root helper that systemd would start. All have the same configuration.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use dr_agent::config::{Format, HostPort};
use dr_agent::group::membership::{self, Member, Membership};
use dr_agent::repoint::render::{self, Content};
use serde_json::Value;

use super::agent_binary;
use super::instance::{Instance, outcome};
use super::mariadb::{PASSWORD, Server, USER};
use super::shop::{APP, Buyers};
use super::site::Scratch;
use super::within;

/// The region that has the traffic at first, and the other one.
pub const HOME: usize = 0;
pub const PEER: usize = 1;
pub const NAMES: [&str; 2] = ["us-east-1", "eu-west-1"];

/// As tests call them.
pub const WORDS: [&str; 2] = ["home", "peer"];

/// A database starts again, three rounds pass, and the machine is busy.
pub const LONG: Duration = Duration::from_secs(90);

/// A port where nobody listens.
pub const NOBODY: u16 = 9;

/// Two regions. What is dropped first is named first.
#[derive(Debug)]
pub struct Site {
    pub groups: [Vec<Instance>; 2],
    pub databases: [Server; 2],
    /// By who looks and at what: the port at which a region's agents find a region's database.
    pub ports: [[u16; 2]; 2],
    /// The host likewise.
    pub hosts: [[&'static str; 2]; 2],
    /// A region whose agents do not reach the other one at all.
    pub is_isolated: [bool; 2],
    /// By region: the names that its instances can resolve, as in `/etc/hosts`; empty for the machine's own.
    pub names: [String; 2],
    /// By port of an agent's or a web server's: where everybody else finds it instead.
    pub ways: BTreeMap<u16, u16>,
    /// Variables of every agent.
    pub variables: Vec<(String, String)>,
    /// TOML of `[authority]` beside the regions.
    pub waits: String,
    files: Scratch,
    launched: usize,
}

impl Site {
    /// The app's files are there, as a bootstrap writes them: home's database is the writer.
    pub fn bootstrap(&self) {
        for (region, group) in self.groups.iter().enumerate() {
            let at =
                |of: usize| Some(HostPort { host: self.hosts[region][of].to_owned(), port: self.ports[region][of] });
            let content = Content { writer: at(HOME), reader: at(region), state: "none".to_owned(), epoch: 0 };
            for instance in group {
                for (format, name) in [(Format::Env, "database.env"), (Format::Json, "database.json")] {
                    let path = instance.agent.scratch.path("app").join(name);
                    fs::write(path, render::text(format, &content, &[])).expect("write the app's file");
                }
                if let Some(proxy) = &instance.proxy {
                    let resolvers = render::resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
                    let listen = Format::Proxy((Ipv4Addr::LOCALHOST, proxy.port).into());
                    fs::write(proxy.conf(), render::text(listen, &content, &resolvers))
                        .expect("write the proxy's file");
                    proxy.start();
                }
            }
        }
    }

    /// Both databases with the schema, a table of the app's, and so many instances with agents that run.
    pub fn start(agents: [usize; 2]) -> Self {
        let mut site = Self::build(agents);
        site.grant();
        site.start_agents();
        site
    }

    /// The same, and the first row is written: home owns the data, the peer stands by.
    pub fn initialised(agents: [usize; 2]) -> Self {
        let site = Self::start(agents);
        site.init();
        site
    }

    /// The parts, without the schema and without an agent that runs.
    pub fn build(agents: [usize; 2]) -> Self {
        let home = Server::for_replicas(&["--innodb-flush-log-at-trx-commit=1"]);
        home.sql(&format!(
            "CREATE USER '{APP}'@'%' IDENTIFIED BY '{PASSWORD}';
             CREATE DATABASE {APP};
             CREATE TABLE {APP}.orders (number BIGINT PRIMARY KEY, at TIMESTAMP(6) NOT NULL DEFAULT UTC_TIMESTAMP(6));
             GRANT ALL ON {APP}.* TO '{APP}'@'%';"
        ));
        let peer = Server::replica_of(&home);
        let files = Scratch::new();
        let bundle = [&home, &peer].map(|server| fs::read_to_string(server.ca()).expect("read an authority"));
        for (name, text, mode) in [
            ("ca.pem", bundle.concat(), 0o644),
            ("password", PASSWORD.to_owned(), 0o600),
            ("group.key", "5".repeat(64), 0o600),
        ] {
            fs::write(files.path(name), text).expect("write a file");
            fs::set_permissions(files.path(name), Permissions::from_mode(mode)).expect("set its mode");
        }
        let mut site = Self {
            groups: [Vec::new(), Vec::new()],
            ports: [[home.port, peer.port]; 2],
            hosts: [["127.0.0.1"; 2]; 2],
            databases: [home, peer],
            is_isolated: [false; 2],
            names: [String::new(), String::new()],
            ways: BTreeMap::new(),
            variables: [
                ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
                ("HOME", "/nonexistent"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            waits: "poll = \"500ms\"\nboot_wait = \"3s\"\ntakeover_wait = \"6s\"".to_owned(),
            files,
            launched: 0,
        };
        for (region, count) in agents.into_iter().enumerate() {
            for _ in 0..count {
                site.launch(region);
            }
        }
        site
    }

    /// The keys of the deployment.
    pub fn key_file(&self) -> PathBuf {
        self.files.path("group.key")
    }

    /// What `dr-agent database grants` prints, as it is printed.
    pub fn grant(&self) {
        let password = fs::File::open(self.files.path("password")).expect("open the password");
        let printed = Command::new(agent_binary())
            .args(["database", "grants", "--password-stdin"])
            .stdin(password)
            .output()
            .expect("run the agent");
        assert!(printed.status.success(), "{printed:?}");
        self.databases[HOME].sql(&String::from_utf8(printed.stdout).expect("text"));
        self.databases[PEER].catch_up(&self.databases[HOME]);
    }

    /// One more instance of a region, without its agent.
    pub fn launch(&mut self, region: usize) {
        self.launched += 1;
        let id = format!("i-{:08x}", self.launched);
        self.groups[region].push(Instance::launch(&id, NAMES[region], &format!("web-{}", NAMES[region])));
    }

    /// Instance `number` of a region is terminated, and another one is launched in its place, from the same image.
    pub fn replace(&mut self, region: usize, number: usize) {
        self.groups[region].remove(number);
        self.launch(region);
        let fresh = self.groups[region].pop().expect("just launched");
        self.groups[region].insert(number, fresh);
    }

    pub fn start_agents(&mut self) {
        for region in [HOME, PEER] {
            self.start_region(region);
        }
    }

    /// Writes the configuration of a region's instances and starts the agents that do not run.
    pub fn start_region(&mut self, region: usize) {
        for number in 0..self.groups[region].len() {
            self.start_agent(region, number);
        }
    }

    pub fn start_agent(&mut self, region: usize, number: usize) {
        let text = self.configuration(region, number);
        let membership = self.membership(region);
        let (variables, names) = (self.variables.clone(), self.names[region].clone());
        let instance = &mut self.groups[region][number];
        if instance.runs() {
            return;
        }
        fs::write(instance.agent.config(), text).expect("write the configuration");
        fs::create_dir_all(instance.agent.scratch.state()).expect("create the state directory");
        membership::save(&instance.agent.scratch.state(), &membership).expect("write the members");
        if !names.is_empty() {
            instance.hosts(&names);
        }
        instance.start(&variables);
    }

    fn membership(&self, region: usize) -> Membership {
        let member = |instance: &Instance| Member {
            instance: instance.id.clone(),
            zone: format!("{}a", NAMES[region]),
            address: "127.0.0.1".parse().expect("an address"),
            port: Some(self.way_to(instance.agent.peer_port)),
        };
        Membership {
            group: format!("web-{}", NAMES[region]),
            at: jiff::Timestamp::now(),
            members: self.groups[region].iter().map(member).collect(),
            desired: None,
        }
    }

    fn way_to(&self, port: u16) -> u16 {
        self.ways.get(&port).copied().unwrap_or(port)
    }

    fn configuration(&self, region: usize, number: usize) -> String {
        let instance = &self.groups[region][number];
        let scratch = &instance.agent.scratch;
        let at = |name: &str| scratch.path(name).display().to_string();
        let file = |name: &str| self.files.path(name).display().to_string();
        let table = |of: usize| {
            let is_cut = of != region && self.is_isolated[region];
            let database = if is_cut { NOBODY } else { self.ports[region][of] };
            let front =
                if is_cut { NOBODY } else { self.groups[of].first().map_or(NOBODY, |one| self.way_to(one.nginx.port)) };
            format!(
                "[region.{}]\ndatabase = \"{}:{database}\"\nurl = \"http://127.0.0.1:{front}\"\n",
                NAMES[of], self.hosts[region][of]
            )
        };
        format!(
            r#"schema = 1
deployment = "shop"
home = "{home}"
key_file = "{key}"
state_dir = "{state}"
[listen]
public = "unix:{socket}"
peer = "127.0.0.1:{peer}"
control = "{control}"
[probe.nginx]
url = "{nginx}"
pid_file = "{pid}"
[probe.wiring]
interval = "1h"
[probe.database]
user = "{USER}"
password_file = "{password}"
tls_ca = "{ca}"
interval = "1s"
timeout = "900ms"
[verdict]
hold_database = "5s"
reopen = "1s"
{regions}
[authority]
regions = ["{home}", "{other}"]
{waits}
[repoint]
apply = "none"
verify = "sql"
[[repoint.output]]
format = "env"
path = "{app}/database.env"
[[repoint.output]]
format = "json"
path = "{app}/database.json"
{proxy}
"#,
            home = NAMES[HOME],
            other = NAMES[PEER],
            key = file("group.key"),
            state = at("state"),
            socket = scratch.socket().display(),
            peer = instance.agent.peer_port,
            control = instance.agent.control_socket().display(),
            nginx = instance.nginx.url("/health/nginx"),
            pid = instance.nginx.pid_file().display(),
            password = file("password"),
            ca = file("ca.pem"),
            regions = table(HOME) + &table(PEER),
            waits = self.waits,
            app = at("app"),
            proxy = instance.proxy.as_ref().map_or_else(String::new, |proxy| {
                let (port, conf) = (proxy.port, proxy.conf());
                format!(
                    "[[repoint.output]]\nformat = \"proxy\"\nlisten = \"127.0.0.1:{port}\"\npath = \"{}\"\n",
                    conf.display()
                )
            }),
        )
    }

    /// `authority init` at home, waited for until everybody is where he should be.
    pub fn init(&self) {
        self.tried(HOME, "authority init", &["authority", "init", "--reason", "a test"]);
        self.is(HOME, "OWNER writer=home page=200 region=200 promoted=200");
        self.is(PEER, "STANDBY writer=home page=200 region=200 promoted=503");
    }

    /// A command on a region's first instance, until it succeeds.
    pub fn tried(&self, region: usize, what: &str, arguments: &[&str]) -> Output {
        within(LONG, what, || {
            let output = self.groups[region][0].command(arguments);
            if output.status.success() { Ok(output) } else { Err(outcome(&output)) }
        })
    }

    /// A command on a region's first instance that succeeds; what it printed.
    pub fn command(&self, region: usize, arguments: &[&str]) -> String {
        let output = self.groups[region][0].command(arguments);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", outcome(&output), self.log());
        outcome(&output)
    }

    /// Waits until every instance of a region shows this; see [`Instance::shows`].
    #[track_caller]
    pub fn is(&self, region: usize, wanted: &str) {
        for instance in &self.groups[region] {
            within(LONG, &format!("{} of {} is {wanted}", instance.id, NAMES[region]), || {
                let shows = self.shows(instance);
                if shows == wanted { Ok(()) } else { Err(format!("it is {shows}\n{}", self.log())) }
            });
        }
    }

    /// Waits until every agent of a region decides that it is superseded, whomever its app may write to.
    pub fn is_closed(&self, region: usize) {
        for instance in &self.groups[region] {
            within(LONG, &format!("{} of {} is closed", instance.id, NAMES[region]), || {
                let shows = self.shows(instance);
                let is_shut = shows.ends_with("page=503 region=503 promoted=503");
                let answers = instance.agent.public().get("/health/live").is_ok();
                if answers && is_shut && shows.starts_with("SUPERSEDED") { Ok(()) } else { Err(self.log()) }
            });
        }
    }

    /// An instance now, in words: the state, and what the app, users, Route 53 see.
    pub fn shows(&self, instance: &Instance) -> String {
        let names = |port| (0..2).find(|of| self.ports.iter().any(|seen| seen[*of] == port)).map(|of| WORDS[of]);
        let writer = match instance.shop().writer() {
            None => "-".to_owned(),
            Some(Err(words)) => words,
            Some(Ok(None)) => "none".to_owned(),
            Some(Ok(Some(port))) => names(port).map_or_else(|| format!("port {port}"), str::to_owned),
        };
        let [page, region, promoted] =
            ["/", "/health/region", "/health/promoted"].map(|path| instance.shop().code(path));
        format!("{} writer={writer} page={page} region={region} promoted={promoted}", instance.state())
    }

    /// Orders by way of a region's first instance, from this number on.
    pub fn buyers(&self, region: usize, first: u64) -> Buyers {
        Buyers::of(self.groups[region][0].shop(), first)
    }

    /// A user's order by way of an instance: its app writes to the database that the outputs name.
    pub fn order(&self, region: usize, number: u64) -> Result<(), String> {
        self.groups[region][0].shop().order(number)
    }

    /// The orders in a region's database.
    pub fn orders(&self, region: usize) -> Vec<u64> {
        let rows = self.databases[region].sql(&format!("SELECT number FROM {APP}.orders ORDER BY number"));
        rows.lines().map(|row| row.parse().expect("a number")).collect()
    }

    /// The rows of `authority` in a region's database, as `EPOCH REGION KIND` in the order of their numbers.
    pub fn epochs(&self, region: usize) -> Vec<String> {
        let rows = self.databases[region].sql("SELECT epoch, region, kind FROM dr_agent.authority ORDER BY epoch");
        let words =
            |row: &str| (0..2).fold(row.replace('\t', " "), |row, region| row.replace(NAMES[region], WORDS[region]));
        rows.lines().map(words).collect()
    }

    /// Waits until the peer's database was seen replicating, by a row that came back.
    pub fn enrolled(&self, region: usize) {
        within(LONG, "the replica is in the roll", || {
            let sql = format!("SELECT COUNT(*) FROM dr_agent.roll WHERE region = '{}'", NAMES[region]);
            let rows = self.databases[region].sql(&sql);
            if rows == "0" { Err(self.log()) } else { Ok(()) }
        });
    }

    /// A region is lost: its agents, its web servers, its database.
    pub fn lose(&mut self, region: usize) {
        for instance in &mut self.groups[region] {
            instance.kill();
            instance.nginx.kill();
        }
        self.databases[region].kill();
    }

    /// Every instance of a region is restarted; what was not lost with `/run` is there.
    pub fn reboot(&mut self, region: usize) {
        for instance in &mut self.groups[region] {
            instance.reboot();
        }
        self.start_region(region);
    }

    /// Every agent of a region is killed and started again, with a new configuration if there is one.
    pub fn restart(&mut self, region: usize) {
        for instance in &mut self.groups[region] {
            instance.kill();
        }
        self.start_region(region);
    }

    /// Waits until `authority show` of a region's first instance has it.
    #[track_caller]
    pub fn shows_that(&self, region: usize, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        within(LONG, what, || {
            let shown = self.shown(region);
            if is(&shown) { Ok(shown) } else { Err(format!("{shown:#}\n{}", self.log())) }
        })
    }

    /// What every agent wrote to its log, and what it thinks.
    pub fn log(&self) -> String {
        let of = |instance: &Instance| {
            let log = instance.agent.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            format!("--- {} of {}: {}\n{last}\n", instance.id, instance.region, self.shows(instance))
        };
        self.groups.iter().flatten().map(of).collect()
    }

    /// `authority show` of a region's first instance; text if it has no answer.
    pub fn shown(&self, region: usize) -> Value {
        let output = self.groups[region][0].command(&["authority", "show", "--format", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| outcome(&output).into())
    }
}
