//! A group of instances as it is in AWS, on one machine: each has a network and mounts of its own, an address that the
//! others can reach, the metadata service at its real address, nginx on port 80, a mount that can hang, and an agent.
//! All have the same configuration, as from one image.

use std::fs::{self, File, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

use super::ask::Target;
use super::aws_proxy::AwsProxy;
use super::imds::Imds;
use super::site::SHOP;
use super::{Process, agent_binary, eventually, repository, signal};

/// Where the metadata service is on an instance.
const IMDS: &str = "169.254.169.254:80";

/// The address of everything that is no instance, such as AWS.
pub const OUTSIDE: &str = "10.99.0.1";

/// The network between the instances.
#[derive(Debug)]
pub struct Network {
    switch: Process,
}

impl Network {
    pub fn start() -> Self {
        let switch = keeper(&["--net"]);
        let network = Self { switch };
        network.ip(&["link", "set", "lo", "up"]);
        network.ip(&["link", "add", "bridge", "type", "bridge"]);
        network.ip(&["address", "add", &format!("{OUTSIDE}/8"), "dev", "bridge"]);
        network.ip(&["link", "set", "bridge", "up"]);
        network.ip(&["route", "add", "default", "dev", "bridge"]);
        network
    }

    /// Runs `ip` on the switch.
    fn ip(&self, arguments: &[&str]) {
        run(inside(&self.switch, &["--net"]).arg("ip").args(arguments));
    }

    /// A command that runs where AWS is.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = inside(&self.switch, &["--net"]);
        command.arg(program);
        command
    }

    /// Listens where AWS is.
    pub fn listen(&self, address: &str) -> TcpListener {
        listen_in(self.switch.pid(), address)
    }

    /// Connects a network of an instance.
    fn connect(&self, instance: &Process, name: &str, address: &str) {
        let outer = format!("v{name}");
        let pid = instance.pid().to_string();
        self.ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        self.ip(&["link", "set", &outer, "master", "bridge", "up"]);
        let ip = |arguments: &[&str]| run(inside(instance, &["--net"]).arg("ip").args(arguments));
        ip(&["link", "set", "lo", "up"]);
        ip(&["address", "add", &format!("{address}/32"), "dev", "eth0"]);
        ip(&["link", "set", "eth0", "up"]);
        ip(&["route", "add", "default", "dev", "eth0"]);
        ip(&["address", "add", "169.254.169.254/32", "dev", "lo"]);
    }

    /// Cuts an instance off, or connects it again.
    pub fn cut(&self, instance: &Instance, is_cut: bool) {
        let state = if is_cut { "down" } else { "up" };
        self.ip(&["link", "set", &format!("v{}", instance.short), state]);
    }
}

/// One instance. Dropped, everything of it ends.
#[derive(Debug)]
pub struct Instance {
    pub id: String,
    pub imds: Imds,
    /// Its name in the network.
    short: String,
    agent: Option<Process>,
    nginx: Option<Process>,
    mount: Option<Process>,
    keeper: Process,
    /// What is at [`Fleet::here`] for it.
    folder: PathBuf,
}

/// Instances from one image.
#[derive(Debug)]
pub struct Fleet {
    pub network: Network,
    pub instances: Vec<Instance>,
    /// For each agent beside its own: where AWS is, and credentials.
    pub variables: Vec<(String, String)>,
    /// TOML at the end of everybody's configuration.
    pub extra: String,
    /// TOML at its top.
    pub top: String,
    /// What the instances' mounts say they are a mount of.
    pub source: String,
    folder: TempDir,
}

impl Fleet {
    /// No instance yet.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("dr-agent-fleet-").tempdir().expect("create a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("open the folder for workers");
        fs::create_dir(folder.path().join("here")).expect("create the place of the instances");
        Self {
            network: Network::start(),
            instances: Vec::new(),
            variables: Vec::new(),
            extra: String::new(),
            top: String::new(),
            source: "fs-0abc12345".to_owned(),
            folder,
        }
    }

    /// The path at which every instance has its own folder.
    fn here(&self) -> PathBuf {
        self.folder.path().join("here")
    }

    /// Starts an instance of the group `web` with everything on it but the agent.
    pub fn launch(&mut self, id: &str, zone: &str, address: &str) -> &mut Instance {
        // A network device's name has at most 15 characters.
        let short = id[id.len().saturating_sub(12)..].to_owned();
        let folder = self.folder.path().join(id);
        for name in ["", "mount", "control", "state", "http", "nginx"] {
            fs::create_dir_all(folder.join(name)).expect("create a folder");
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("open the folder for workers");
        let keeper = keeper(&["--net", "--mount"]);
        self.network.connect(&keeper, &short, address);
        let here = self.here();
        run(inside(&keeper, &["--mount"]).args(["mount", "--bind"]).args([&folder, &here]));
        let imds = Imds::on(
            listen_in(keeper.pid(), IMDS),
            &[
                ("instance-id", id),
                ("placement/region", &zone[..zone.len() - 1]),
                ("placement/availability-zone", zone),
                ("tags/instance/aws:autoscaling:groupName", "web"),
            ],
        );
        let mut instance =
            Instance { id: id.to_owned(), imds, short, agent: None, nginx: None, mount: None, keeper, folder };
        instance.mount_efs(&here, &self.source);
        instance.start_nginx(&here, address);
        self.instances.push(instance);
        self.instances.last_mut().expect("just pushed")
    }

    /// Starts the agent of instance `number`.
    pub fn start_agent(&mut self, number: usize) {
        let here = self.here();
        let instance = &mut self.instances[number];
        let text = format!(
            "schema = 1\ndeployment = \"shop\"\nstate_dir = \"{0}/state\"\n{1}\n[listen]\n\
             public = \"unix:{0}/http/public.sock\"\npeer = \"0.0.0.0:8484\"\ncontrol = \"{0}/control/control.sock\"\n\
             [probe.nginx]\nurl = \"http://127.0.0.1/health/nginx\"\npid_file = \"{0}/nginx/nginx.pid\"\n\
             [probe.efs]\npath = \"{0}/mount\"\ntypes = [\"fuse.hangfs\"]\n{2}\n",
            here.display(),
            self.top,
            self.extra,
        );
        fs::write(instance.folder.join("agent.toml"), text).expect("write the configuration");
        let log = File::options().create(true).append(true).open(instance.folder.join("log")).expect("open the log");
        let mut command = inside(&instance.keeper, &["--net", "--mount"]);
        command.arg(agent_binary()).args(["run", "--config"]).arg(here.join("agent.toml"));
        command.env_remove("NOTIFY_SOCKET").envs(self.variables.iter().map(|(name, value)| (name, value)));
        instance.agent = Some(Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log)));
    }

    /// Writes a file that all instances can read, and gives its path.
    pub fn put(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("write a file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set its mode");
        path
    }

    /// Runs a command of the agent's on `instance`, and gives what it printed.
    pub fn command(&self, instance: &Instance, arguments: &[&str]) -> String {
        let mut command = inside(&instance.keeper, &["--net", "--mount"]);
        command.arg(agent_binary()).args(arguments).arg("--config").arg(self.here().join("agent.toml"));
        let output = command.stdin(Stdio::null()).output().expect("run the agent");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// The Auto Scaling group terminates it.
    pub fn terminate(&mut self, number: usize) {
        self.instances.remove(number);
    }

    /// AWS is there, behind `proxy`, which [`Network::listen`]s at [`OUTSIDE`].
    pub fn use_aws(&mut self, proxy: &AwsProxy) {
        let mut environment = proxy.environment();
        environment.retain(|(name, _)| *name != "AWS_ENDPOINT_URL");
        self.variables.extend(environment.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self.variables.push(("AWS_ENDPOINT_URL".to_owned(), format!("http://{OUTSIDE}:{}", proxy.port)));
    }
}

impl Instance {
    fn mount_efs(&mut self, here: &Path, source: &str) {
        let python = repository().join(".cache/venv/bin/python");
        let mut command = inside(&self.keeper, &["--mount"]);
        command.arg(python).arg(repository().join("tests/hangfs.py"));
        command.args([here.join("mount"), here.join("control")]).args(["--source", source]);
        self.mount = Some(Process::start(command.stdin(Stdio::null())));
        let mounts = format!("/proc/{}/mountinfo", self.keeper.pid());
        let mount = here.join("mount");
        eventually("the mount", || {
            let mountinfo = fs::read_to_string(&mounts).map_err(|error| error.to_string())?;
            mountinfo.contains(&*mount.to_string_lossy()).then_some(()).ok_or_else(|| "not in mountinfo".to_owned())
        });
    }

    fn start_nginx(&mut self, here: &Path, address: &str) {
        let at = here.join("nginx");
        let at = at.display();
        let included = super::site::shipped(&here.join("http/public.sock"), &here.join("state/public"));
        fs::write(self.folder.join("nginx/dr-agent.conf"), included).expect("write the include");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
            .concat();
        // Not on all addresses: the metadata service, which really is elsewhere, has one here.
        let text = format!(
            "worker_processes 1; pid {at}/nginx.pid; error_log {at}/error.log; daemon off;\n\
             events {{ worker_connections 256; }}\nhttp {{ access_log off; {temporary}\n\
             server {{ listen 127.0.0.1:80; listen {address}:80; include {at}/dr-agent.conf; location / {{ return 200 \"{}\"; }} }} }}\n",
            SHOP.replace('\n', "\\n"),
        );
        fs::write(self.folder.join("nginx/nginx.conf"), text).expect("write nginx.conf");
        let mut command = inside(&self.keeper, &["--net", "--mount"]);
        command.args(["nginx", "-e", &format!("{at}/error.log"), "-c", &format!("{at}/nginx.conf")]);
        self.nginx = Some(Process::start(command.stdin(Stdio::null()).stdout(Stdio::null())));
        let pid_file = self.folder.join("nginx/nginx.pid");
        eventually("nginx starts", || fs::metadata(&pid_file).map(drop));
    }

    /// nginx and its workers are killed.
    pub fn kill_nginx(&mut self) {
        let master = self.nginx.take().expect("it runs");
        let workers = fs::read_to_string(format!("/proc/{0}/task/{0}/children", master.pid())).unwrap_or_default();
        drop(master);
        for worker in workers.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            signal(worker, "KILL");
        }
    }

    /// From now on every operation on its mount hangs.
    pub fn freeze_efs(&self) {
        fs::write(self.folder.join("control/freeze"), "").expect("write control file");
    }

    pub fn thaw_efs(&self) {
        fs::remove_file(self.folder.join("control/freeze")).expect("remove control file");
    }

    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    pub fn public(&self) -> Target {
        Target::unix(self.folder.join("http/public.sock"))
    }

    pub fn control(&self) -> Target {
        Target::unix(self.folder.join("control/control.sock"))
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What the agent knows, as `status --format json` has it.
    pub fn report(&self) -> Result<Value, String> {
        let answer = self.control().get("/status").map_err(|error| format!("{error}\n{}", self.log()))?;
        serde_json::from_str(&answer.body).map_err(|error| error.to_string())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.nginx.is_some() {
            self.kill_nginx();
        }
        // The end of the file system's daemon releases whoever waits in it.
        self.mount = None;
        self.agent = None;
    }
}

/// A process that keeps name spaces of its own.
fn keeper(spaces: &[&str]) -> Process {
    let mut command = Command::new("unshare");
    command.args(spaces).args(["--", "sleep", "infinity"]);
    let keeper = Process::start(command.stdin(Stdio::null()));
    let program = format!("/proc/{}/comm", keeper.pid());
    eventually("unshare", || match fs::read_to_string(&program) {
        Ok(name) if name.trim() == "sleep" => Ok(()),
        other => Err(format!("{other:?}: this test needs root and name spaces")),
    });
    keeper
}

/// A command in the name spaces of a process; the program follows.
fn inside(keeper: &Process, spaces: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &keeper.pid().to_string()]).args(spaces).arg("--");
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A listener in the network of a process. The socket stays there, whoever uses it.
fn listen_in(pid: u32, address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().expect("an address");
    let space = File::open(format!("/proc/{pid}/ns/net")).expect("open the name space");
    let enter = move || {
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter the name space");
        eventually("the address", || TcpListener::bind(address))
    };
    thread::spawn(enter).join().expect("listen")
}
