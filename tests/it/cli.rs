//! The command line: exit codes, which stream gets what, what a person is told.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::support::{Process, agent_binary, eventually, free_port};

/// The agent's command in a clean environment, with a configuration of its own.
struct Folder(TempDir, #[allow(dead_code, reason = "keeps the port")] TcpSocket);

impl Folder {
    /// Nothing listens anywhere: not nginx, not the agent.
    fn new(more: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Bound and never listened on: connections are refused, and no other test gets the port.
        let refusing = TcpSocket::new_v4().unwrap();
        refusing.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = refusing.local_addr().unwrap().port();
        let folder = Self(dir, refusing);
        let path = folder.path();
        let text = format!(
            "schema = 1\ndeployment = \"test\"\nstate_dir = \"{0}/state\"\n[listen]\ncontrol = \"{0}/control.sock\"\n\
             [probe.nginx]\nurl = \"http://127.0.0.1:{port}/health/nginx\"\npid_file = \"{0}/nginx.pid\"\n{more}",
            path.display()
        );
        fs::write(folder.config(), text).unwrap();
        // A master that is gone, whatever else runs on this machine: no process has this number.
        fs::write(path.join("nginx.pid"), "4194305\n").unwrap();
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn config(&self) -> PathBuf {
        self.path().join("agent.toml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(agent_binary());
        command.args(args).arg("--config").arg(self.config()).env("NO_COLOR", "1").env("TZ", "UTC");
        command
    }

    fn run(&self, args: &[&str]) -> Told {
        Told::of(self.command(args).output().unwrap())
    }
}

/// What a command said.
struct Told {
    exit: i32,
    out: String,
    err: String,
}

impl Told {
    fn of(output: Output) -> Self {
        Self {
            exit: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[test]
fn wrong_usage_is_64_and_on_stderr() {
    let folder = Folder::new("");
    for args in [
        &["frobnicate"][..],
        &[],
        &["drain"],
        &["drain", "--reason", "x", "--for", "25h"],
        &["hold"],
        &["hold", "--release", "--reason", "x"],
        &["history", "--since", "yesterday"],
        &["explain", "weather"],
        &["check", "--format", "xml"],
    ] {
        let told = folder.run(args);
        assert_eq!((told.exit, told.out.as_str()), (64, ""), "{args:?}: {}", told.err);
        assert!(!told.err.is_empty(), "{args:?}");
    }
}

#[test]
fn help_lists_the_exit_codes_and_every_command_has_examples() {
    let help = Told::of(Command::new(agent_binary()).arg("--help").output().unwrap());
    assert_eq!((help.exit, help.err.as_str()), (0, ""));
    insta::assert_snapshot!(help.out, @r"
    Tells the truth about this web instance to its load balancer, Route 53 and you

    Usage: dr-agent [OPTIONS] <COMMAND>

    Commands:
      run        Run the agent until SIGTERM; SIGHUP reads the configuration again
      check      Look at everything once, with or without a running agent, and say what to do
      bootstrap  Make this machine an instance of its region: secrets, mount, journal; systemd starts it
      status     What the running agent knows
      explain    Why a verdict is what it is: each component's row of the cause table as it applies now
      history    What changed, when and why
      drain      Ask the load balancer to stop sending requests to this instance
      undrain    End a drain
      hold       Keep the agent from repairing or replacing this instance; verdicts do not change
      config     Check or show the configuration
      database   What the database must have for the agent
      authority  Who owns the data: this region or the other one, and why
      fence      Close this region on purpose, open it again, and see how far that is
      drill      Rehearse a failure, for a while: of this region, or of one component here
      key        Keys by which agents know each other
      helper     What needs root, for a request of the agent; systemd starts it
      version    The version and what it was built with

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Everywhere:
          --config <PATH>  The configuration file [default: /etc/dr-agent/agent.toml]

    Exit codes:
       0  ok, or done
       1  degraded: it works, but something is not as it should be
       2  unhealthy: something is broken, or an answer is 503
       3  unknown: something could not be told
      64  wrong usage, or refused
      69  the agent is not running, or ended by itself
      77  no permission
      78  the configuration is bad
    ");
    let commands = help.out.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut seen = 0;
    for command in commands.map(|line| line.split_whitespace().next().unwrap()) {
        let help = Told::of(Command::new(agent_binary()).args([command, "--help"]).output().unwrap());
        assert!(help.out.contains("Examples:\n  dr-agent "), "{command}: {}", help.out);
        assert!(help.out.contains("--config <PATH>"), "{command}");
        let with_region = matches!(command, "run" | "check");
        assert_eq!(help.out.contains("--region <NAME>"), with_region, "{command}");
        seen += 1;
    }
    assert_eq!(seen, 17);
}

#[test]
fn without_an_agent_it_is_69_with_the_command_that_starts_it() {
    let folder = Folder::new("");
    for args in
        [&["status"][..], &["explain"], &["history"], &["drain", "--reason", "x"], &["undrain"], &["hold", "--release"]]
    {
        let told = folder.run(args);
        assert_eq!((told.exit, told.out.as_str()), (69, ""), "{args:?}: {}", told.err);
        assert!(told.err.contains("the agent is not running") && told.err.contains("hint: start it"), "{}", told.err);
    }
}

#[test]
fn an_agent_that_does_not_answer_is_69_within_its_second() {
    let folder = Folder::new("");
    let _silent = UnixListener::bind(folder.path().join("control.sock")).unwrap();
    let told = folder.run(&["status"]);
    assert_eq!(told.exit, 69, "{}", told.err);
    assert!(told.err.contains("does not answer") && told.err.contains("hint:"), "{}", told.err);
}

#[test]
fn a_socket_that_this_user_may_not_use_is_77() {
    let folder = Folder::new("");
    let socket = folder.path().join("control.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = folder.command(&["status"]);
    if rustix::process::geteuid().is_root() {
        // Through the link: the path to the binary may be closed to others.
        let link = fs::File::open(agent_binary()).unwrap();
        let copy = folder.path().join("dr-agent");
        std::io::copy(&mut &link, &mut fs::File::create(&copy).unwrap()).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        command = Command::new(copy);
        command.args(["status", "--config"]).arg(folder.config()).env("NO_COLOR", "1").uid(65_534).gid(65_534);
    } else {
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let told = Told::of(command.output().unwrap());
    assert_eq!(told.exit, 77, "{}", told.err);
    assert!(told.err.contains("hint: ") && told.err.contains("dr-agent-admin"), "{}", told.err);
}

#[test]
fn a_bad_configuration_is_78_line_by_line() {
    let folder = Folder::new("[probe.efs]\npath = \"/x\"\ntimeout = 3\n[verdct]\n");
    for command in ["check", "show"] {
        let told = folder.run(&["config", command]);
        assert_eq!((told.exit, told.out.as_str()), (78, ""), "{}", told.err);
        assert!(told.err.contains("agent.toml:11: `probe.efs.timeout = 3`: a duration needs a unit"), "{}", told.err);
        assert!(told.err.contains("did you mean `verdict`?"), "{}", told.err);
    }
    fs::set_permissions(folder.config(), fs::Permissions::from_mode(0o666)).unwrap();
    let told = folder.run(&["config", "check"]);
    assert_eq!(told.exit, 78);
    assert!(told.err.contains("chmod go-w"), "{}", told.err);
    fs::remove_file(folder.config()).unwrap();
    assert_eq!(folder.run(&["config", "check"]).exit, 78, "a file that was named must be there");
}

#[test]
fn a_region_that_only_the_other_instances_have_is_checked_too() {
    let folder = Folder::new(
        "[probe.database]\nuser = \"u\"\n[region.a-1]\ndatabase = \"db\"\n[region.b-1]\nurl = \"https://b\"\n",
    );
    fs::write(folder.config(), "home = \"a-1\"\n".to_owned() + &fs::read_to_string(folder.config()).unwrap()).unwrap();
    let told = folder.run(&["config", "check", "--region", "a-1"]);
    assert_eq!(told.exit, 78);
    assert!(told.err.contains("the region's table needs `database"), "{}", told.err);
}

#[test]
fn what_show_prints_is_a_file() {
    let folder =
        Folder::new("[replace]\nsustain = \"7m\"\n[cloudwatch]\nnamespace = \"Shop\"\n[repoint]\napply = \"none\"\n");
    let told = folder.run(&["config", "show"]);
    assert_eq!(told.exit, 0, "{}", told.err);
    assert!(told.out.contains("\n[probe.nginx]\ninterval = \"2s\"\n"), "{}", told.out);
    // What it prints is a file.
    fs::write(folder.config(), &told.out).unwrap();
    let again = folder.run(&["config", "show"]);
    assert_eq!((again.exit, again.out), (0, told.out));
}

#[test]
fn check_needs_no_agent_and_says_what_is_broken_and_what_to_do() {
    let folder = Folder::new("");
    let told = folder.run(&["check", "--as-me"]);
    assert_eq!(told.exit, 2, "{}\n{}", told.out, told.err);
    assert!(told.out.starts_with("UNHEALTHY  nginx "), "{}", told.out);
    for part in ["hint:", "Verdicts", "What works now", "the agent is not running", "promotion and fencing are off"] {
        assert!(told.out.contains(part), "no `{part}` in {}", told.out);
    }
    assert!(!told.out.contains('\x1b'), "colour in a pipe");
}

#[test]
fn check_in_json_has_its_version_and_the_same_verdicts() {
    let folder = Folder::new("");
    let told = folder.run(&["check", "--as-me", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((told.exit, &json["schema"], &json["kind"]), (2, &1.into(), &"check".into()));
    assert_eq!(json["verdicts"]["instance"]["code"], 503);
    assert_eq!(json["verdicts"]["promoted"]["code"], 503);
    assert_eq!(json["components"][0]["name"], "nginx");
    assert_eq!(json["components"][0]["cause"], "nginx-master-gone");
}

#[test]
fn check_without_an_agent_answers_from_what_one_would_start_from_and_says_what_nginx_answers_meanwhile() {
    let folder = Folder::new("[region.a-1]\ndatabase = \"db\"\n");
    let state = folder.path().join("state");
    fs::create_dir_all(state.join("public")).unwrap();
    fs::write(state.join("public/region-closed"), "").unwrap();
    let check = |format: &[&str]| folder.run(&[&["check", "--as-me", "--region", "a-1"], format].concat());
    let json = || -> serde_json::Value { serde_json::from_str(&check(&["--format", "json"]).out).unwrap() };
    let told = json();
    let region = &told["verdicts"]["region"];
    assert_eq!((&region["code"], &region["state"]), (&503.into(), &"closed".into()), "{told:#}");
    assert_eq!((&told["held"]["instance"], &told["held"]["region"]), (&200.into(), &503.into()), "{told:#}");
    let page = || check(&[]).out.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = page();
    assert!(text.contains("nginx answers instance 200, region 503, promoted 503 (markers: region-closed)"), "{text}");

    // nginx, which is dead here, was healthy once and nobody could serve since long before the restart.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mut saved = serde_json::json!({
        "version": 1, "owner": {"deployment": "test", "region": "a-1"}, "boot": boot.trim(),
        "holds": {"capacity": {"secs": 1, "nanos": 0}},
    });
    let write = |saved: &serde_json::Value| fs::write(state.join("state.json"), saved.to_string()).unwrap();
    fs::remove_file(state.join("public/region-closed")).unwrap();
    assert_eq!(json()["verdicts"]["region"]["holds"], serde_json::json!([]), "never seen healthy: it closes nothing");
    saved["ever_healthy"] = serde_json::json!({"nginx": json()["components"][0]["target"]});
    write(&saved);
    let told = json();
    let hold = &told["verdicts"]["region"]["holds"][0];
    assert_eq!((&hold["on"], &hold["due_in_seconds"]), (&"capacity".into(), &0.into()), "{told:#}");

    // What an agent would set aside is only told of.
    saved["owner"]["deployment"] = "another".into();
    write(&saved);
    let text = page();
    assert!(text.contains("sets it aside"), "{text}");
    assert_eq!(fs::read_to_string(state.join("state.json")).unwrap(), saved.to_string());
}

#[test]
fn check_ends_although_the_agent_and_a_probe_hang() {
    let folder = Folder::new("");
    let _silent = UnixListener::bind(folder.path().join("control.sock")).unwrap();
    // Accepts and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = fs::read_to_string(folder.config()).unwrap();
    let url = format!("[probe.app]\nurl = \"http://127.0.0.1:{port}/\"\ninterval = \"10m\"\ntimeout = \"5m\"\n");
    fs::write(folder.config(), text + &url).unwrap();
    let began = Instant::now();
    let told = folder.run(&["check", "--as-me"]);
    assert!(began.elapsed() < Duration::from_secs(25), "it waited for the probe's own five minutes");
    assert_eq!(told.exit, 2);
    assert!(told.out.contains("app does not answer in time"), "{}", told.out);
    assert!(told.out.contains("does not answer on"), "{}", told.out);
}

#[test]
fn check_with_a_bad_file_looks_with_what_would_be_in_force() {
    let folder = Folder::new("[probe.app]\nstatus = 5\n");
    let told = folder.run(&["check", "--as-me"]);
    assert!(matches!(told.exit, 1..=3), "{}", told.err);
    assert!(told.out.contains("`probe.app.status = 5`"), "{}", told.out);
    assert!(told.out.contains("built-in defaults"), "{}", told.out);
}

/// In a mount namespace of its own, so that the machine's accounts stay as they are.
#[test]
fn check_as_root_probes_as_the_agents_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: left out");
        return;
    }
    let folder = Folder::new("");
    let accounts = folder.path().join("passwd");
    fs::write(&accounts, "root:x:0:0::/root:/bin/sh\ndr-agent:x:848:848::/:/usr/sbin/nologin\n").unwrap();
    let script = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&accounts).arg(agent_binary());
    command.args(["check", "--format", "json", "--config"]).arg(folder.config());
    let told = Told::of(command.output().expect("run unshare"));
    let json: serde_json::Value = serde_json::from_str(&told.out).unwrap_or_else(|e| panic!("{e}: {}", told.err));
    assert_eq!(json["agent"]["probed_as"], "user `dr-agent`");
    assert!(told.err.contains("probing as user `dr-agent`"), "{}", told.err);
}

/// A running agent with nothing to watch but a dead nginx and the host.
struct Running {
    folder: Folder,
    agent: Process,
}

impl Running {
    fn start() -> Self {
        let folder = Folder::new("");
        let path = folder.path().display().to_string();
        let listen = format!("[listen]\npublic = \"unix:{path}/public.sock\"\npeer = \"127.0.0.1:{}\"\n", free_port());
        let text = fs::read_to_string(folder.config()).unwrap().replace("[listen]\n", &listen);
        fs::write(folder.config(), text).unwrap();
        let agent = Process::start(folder.command(&["run"]).stderr(Stdio::null()));
        let running = Self { folder, agent };
        running.settles();
        running
    }

    fn restart(&mut self) {
        self.agent.signal("TERM");
        assert!(self.agent.ended().success());
        self.agent = Process::start(self.folder.command(&["run"]).stderr(Stdio::null()));
        self.settles();
    }

    /// 2: it answers, and nginx is not there.
    fn settles(&self) {
        self.until(&["status"], |told| told.exit == 2);
    }

    fn until(&self, args: &[&str], holds: impl Fn(&Told) -> bool) -> Told {
        eventually(&format!("{args:?}"), || {
            let told = self.folder.run(args);
            if holds(&told) { Ok(told) } else { Err(format!("{}: {}{}", told.exit, told.out, told.err)) }
        })
    }
}

#[test]
fn a_running_agent_is_asked_drained_and_undrained() {
    let agent = Running::start();
    let told = agent.folder.run(&["drain", "--reason", "deploy 42"]);
    assert_eq!(told.exit, 64, "the last instance must not be drained by accident: {}", told.err);
    assert!(told.err.contains("hint: `--force` drains it anyway"), "{}", told.err);

    for _ in 0..2 {
        let told = agent.folder.run(&["drain", "--reason", "deploy 42", "--for", "30m", "--force"]);
        assert_eq!((told.exit, told.out.as_str()), (0, ""), "{}", told.err);
        assert!(told.err.contains("ends in 30 min 0 s; `dr-agent undrain` ends it now"), "{}", told.err);
    }
    let status = agent.folder.run(&["status"]);
    assert!(status.out.contains("this instance is draining") && status.out.contains(": deploy 42"), "{}", status.out);
    let explained = agent.folder.run(&["explain", "instance"]);
    assert!(explained.out.starts_with("Can this instance serve?  503 draining"), "{}", explained.out);
    assert!(explained.out.contains("nginx-master-gone: closes the instance"), "{}", explained.out);
    let json: serde_json::Value = serde_json::from_str(&agent.folder.run(&["status", "--format", "json"]).out).unwrap();
    assert_eq!((&json["kind"], &json["latches"][0]["kind"]), (&"live".into(), &"drain".into()));

    for _ in 0..2 {
        assert_eq!(agent.folder.run(&["undrain"]).exit, 0);
    }
    let told = agent.folder.run(&["hold", "--reason", "looking", "--for", "boot"]);
    assert_eq!(told.exit, 0, "{}", told.err);
    let status = agent.folder.run(&["status"]);
    assert!(
        status.out.contains("until the next reboot: looking") && !status.out.contains("draining"),
        "{}",
        status.out
    );
    assert_eq!(agent.folder.run(&["hold", "--release"]).exit, 0);
}

#[test]
fn history_is_cut_to_the_time_asked_for() {
    let agent = Running::start();
    let all = agent.until(&["history", "--since", "-1h"], |told| told.out.contains("nginx-master-gone"));
    assert!(all.out.contains("+00:00"), "local time with its offset: {}", all.out);
    let none = agent.folder.run(&["history", "--until", "2001-01-01"]);
    assert_eq!((none.exit, none.out.as_str()), (0, ""));
    assert!(none.err.contains("nothing changed"), "{}", none.err);
    let json = agent.folder.run(&["history", "--format", "json"]);
    assert!(!serde_json::from_str::<Vec<serde_json::Value>>(&json.out).unwrap().is_empty());
}

#[test]
fn check_beside_a_running_agent_has_its_report_too() {
    let agent = Running::start();
    let told = agent.folder.run(&["check", "--as-me"]);
    assert_eq!(told.exit, 2);
    assert!(!told.out.contains("the agent is not running"), "{}", told.out);
    let json: serde_json::Value =
        serde_json::from_str(&agent.folder.run(&["check", "--as-me", "--format", "json"]).out).unwrap();
    assert_eq!(json["live"]["kind"], "live");
    assert_eq!(json["live"]["components"][0]["name"], "nginx");
}

#[test]
fn a_watch_shows_what_changes_and_ends_on_ctrl_c_with_the_last_exit_code() {
    let mut agent = Running::start();
    let pages = agent.folder.path().join("pages");
    let file = fs::File::create(&pages).expect("make it");
    let mut watch = Process::start(agent.folder.command(&["status", "--watch"]).stdout(file).stderr(Stdio::null()));
    let shown = |text: &str| {
        let pages = fs::read_to_string(&pages).expect("read it");
        if pages.contains(text) { Ok(()) } else { Err(pages) }
    };
    eventually("a first page", || shown("Components"));
    let told = agent.folder.run(&["hold", "--reason", "look closer"]);
    assert_eq!(told.exit, 0, "{}", told.err);
    eventually("the page shows the hold", || shown("look closer"));
    // The agent goes away and comes back; whoever watches stays.
    agent.restart();
    let before = fs::metadata(&pages).expect("it is there").len();
    eventually("it goes on", || if fs::metadata(&pages).unwrap().len() > before { Ok(()) } else { Err("nothing new") });
    watch.signal("INT");
    assert_eq!(watch.ended().code(), Some(2), "as the page said");
}
