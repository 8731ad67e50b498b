use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::hangfs::{HangFs, Options};
use crate::support::site::{self, Scratch};
use crate::support::tcp::{Server, wait_for_end};
use crate::support::{agent_binary, eventually, signal};

/// Probed so often that a test has not long to wait.
const SOON: &str = "interval = \"500ms\"\nfast_interval = \"100ms\"\ntimeout = \"400ms\"\n";

/// Times of two reports differ by what passes between reading one clock and the other.
const CLOCKS: SignedDuration = SignedDuration::from_millis(500);

fn status(agent: &Agent) -> Result<Value, String> {
    let answer = agent.control().get("/status").map_err(|error| format!("{error}\n{}", agent.log()))?;
    if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{answer:?}")) }
}

fn names(report: &Value) -> Vec<&str> {
    report["components"].as_array().unwrap().iter().map(|component| component["name"].as_str().unwrap()).collect()
}

fn component<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    report["components"].as_array()?.iter().find(|component| component["name"] == name)
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// Waits for a report that `is` as it should be.
fn until(what: &str, agent: &Agent, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let report = status(agent)?;
        if is(&report) { Ok(report) } else { Err(format!("{report:#}\n{}", agent.log())) }
    })
}

/// Waits until the component is unhealthy with this cause, found by this process in an attempt of its own.
fn until_unhealthy(agent: &Agent, name: &str, cause: &str) {
    until(&format!("{name}: {cause}"), agent, |report| {
        component(report, name).is_some_and(|seen| {
            seen["status"] == "unhealthy" && seen["cause"] == cause && seen["failures"].as_u64() > Some(0)
        })
    });
}

/// All components but `gone` have the status they had, since when they had it.
#[track_caller]
fn assert_kept(before: &Value, after: &Value, gone: Option<&str>) {
    for name in names(before).into_iter().filter(|&name| Some(name) != gone) {
        let (old, new) = (component(before, name).unwrap(), component(after, name));
        let new = new.unwrap_or_else(|| panic!("{name} is gone: {after:#}"));
        assert_eq!((&old["status"], &old["cause"]), (&new["status"], &new["cause"]), "{name}");
        let moved = time(&new["since"]).duration_since(time(&old["since"])).abs();
        assert!(moved < CLOCKS, "{name}: {} became {}", old["since"], new["since"]);
    }
}

#[test]
fn a_reload_changes_what_the_file_changes_and_a_bad_file_changes_nothing() {
    let scratch = Scratch::new();
    let nginx = site::start(&scratch, "", "");
    let base = format!(
        "[probe.nginx]\nurl = \"{}\"\npid_file = \"{}\"\n{SOON}[probe.wiring]\ninterval = \"1h\"\n\
         [probe.host]\ninterval = \"1h\"\n",
        nginx.url("/health/nginx"),
        nginx.pid_file().display(),
    );
    let silent = Server::start(|mut stream| wait_for_end(&mut stream));
    let app = format!("[probe.app]\nurl = \"http://{}/\"\n{SOON}", silent.address);
    let exec = "[probe.exec.queue]\ncommand = [\"/bin/true\"]\n";
    let mut agent = Agent::new(scratch, &format!("{base}{app}"));
    agent.start();
    // Old enough for a status that begins anew to be told from one that is kept.
    let is_old = |report: &Value, name: &str, status: &str| {
        component(report, name).is_some_and(|seen| {
            let age = time(&report["at"]).duration_since(time(&seen["since"]));
            seen["status"] == status && age > SignedDuration::from_secs(2)
        })
    };
    let before = until("all are settled", &agent, |report| {
        names(report).into_iter().all(|name| component(report, name).unwrap()["status"] != "starting")
            && is_old(report, "nginx", "healthy")
            && is_old(report, "app", "unhealthy")
    });

    // A bad file.
    agent.configure(&format!("{base}{app}[probe.exec.queue]\ncommand = 5\n[verdct]\n"));
    signal(agent.pid(), "HUP");
    let told = until("the problems show", &agent, |report| {
        report["agent"]["config_problems"].as_array().is_some_and(|problems| problems.len() > 1)
    });
    assert!(told["agent"]["config_problems"].to_string().contains("probe.exec.queue.command"), "{told:#}");
    assert_eq!(names(&told), names(&before));
    assert_kept(&before, &told, None);
    for verdict in ["instance", "region"] {
        let (old, new) = (&before["verdicts"][verdict], &told["verdicts"][verdict]);
        assert_eq!((&old["code"], &old["state"]), (&new["code"], &new["state"]), "{verdict}");
    }

    // Good files: one probe more, then another one less. Only they are touched.
    for (extra, gone) in [(format!("{app}{exec}"), None), (exec.to_owned(), Some("app"))] {
        agent.configure(&format!("{base}{extra}"));
        signal(agent.pid(), "HUP");
        let report = until("it is in force", &agent, |report| {
            let passes = component(report, "queue").is_some_and(|seen| seen["status"] == "healthy");
            passes && component(report, "app").is_none() == gone.is_some()
        });
        assert_eq!(report["agent"]["config_problems"], Value::Array(vec![]), "{report:#}");
        assert_kept(&before, &report, gone);
    }
    agent.stop();
}

/// Whatever hangs around it, the agent ends when told to, comes back with the same finding after a crash, and goes on
/// after a pause.
fn survives_signals(name: &str, cause: &str, config: &str) {
    let mut agent = Agent::new(Scratch::new(), &format!("{config}[verdict]\nstart_limit = \"1s\"\n"));
    agent.start();
    until_unhealthy(&agent, name, cause);

    let generation = |report: &Value| report["agent"]["generation"].as_u64();
    agent.freeze();
    agent.thaw();
    let first = generation(&status(&agent).expect("it answers"));
    until("it goes on", &agent, |report| generation(report) > first);
    until_unhealthy(&agent, name, cause);

    let restarts: [fn(&mut Agent); 2] = [Agent::stop, Agent::kill];
    for end in restarts {
        end(&mut agent);
        agent.start();
        until_unhealthy(&agent, name, cause);
    }
    agent.stop();
}

#[test]
fn signals_work_while_the_database_is_silent() {
    let silent = Server::start(|mut stream| wait_for_end(&mut stream));
    let config = format!(
        "[probe.database]\nuser = \"u\"\n{SOON}[region.a-1]\ndatabase = \"127.0.0.1:{}\"\n",
        silent.address.port()
    );
    survives_signals("database", "database-timeout", &config);
}

#[test]
fn signals_work_while_nginx_accepts_and_says_nothing() {
    let silent = Server::start(|mut stream| wait_for_end(&mut stream));
    let config = format!("[probe.nginx]\nurl = \"http://{}/health/nginx\"\n{SOON}", silent.address);
    survives_signals("nginx", "nginx-timeout", &config);
}

#[test]
fn signals_work_while_the_mount_hangs() {
    let fs = HangFs::start_with(&Options { frozen: true, ..Options::default() });
    let config = format!(
        "[probe.efs]\npath = \"{}\"\ntypes = [\"fuse.hangfs\"]\ninterval = \"2s\"\ntimeout = \"1s\"\n",
        fs.path().display()
    );
    survives_signals("efs", "efs-hung", &config);
}

/// However often a reload is asked for while the disk with the file hangs, it costs one thread and holds up nothing.
#[test]
fn reloads_from_a_disk_that_hangs_are_no_more_than_one() {
    let mut agent = Agent::new(Scratch::new(), "");
    // Gone before the agent, which cannot be killed while it waits for it.
    let disk = HangFs::start();
    std::fs::copy(agent.config(), disk.backing().join("agent.toml")).unwrap();
    agent.spawn_as(Command::new(agent_binary()).args(["run", "--config"]).arg(disk.path().join("agent.toml")));
    agent.wait_until_it_answers();
    let given_up =
        |agent: &Agent| agent.log().lines().filter(|line| line.contains("the file could not be read")).count();
    disk.freeze();
    for times in 1..=2 {
        signal(agent.pid(), "HUP");
        eventually("it is given up", || if given_up(&agent) == times { Ok(()) } else { Err(agent.log()) });
        assert_eq!(threads_in_fuse(agent.pid()), 1, "{times} reloads");
    }
    disk.thaw();
    eventually("nothing waits", || match threads_in_fuse(agent.pid()) {
        0 => Ok(()),
        waiting => Err(format!("{waiting} threads")),
    });
    signal(agent.pid(), "HUP");
    until("it is in force", &agent, |report| report["agent"]["config_problems"] == Value::Array(vec![]));

    disk.freeze();
    signal(agent.pid(), "HUP");
    eventually("it is being read", || match threads_in_fuse(agent.pid()) {
        1 => Ok(()),
        waiting => Err(format!("{waiting} threads")),
    });
    signal(agent.pid(), "TERM");
    eventually("it stops", || if agent.log().contains("stopping") { Ok(()) } else { Err(agent.log()) });
    assert_eq!(given_up(&agent), 2, "it waited for the disk: {}", agent.log());
    // The kernel lets no process go while a thread of it waits like this.
    disk.thaw();
    agent.stop();
}

/// Where no thread can be started, whatever needs one fails, and nothing else.
#[test]
fn a_reload_without_a_thread_for_it_is_a_problem_and_not_the_end() {
    let mut agent = Agent::new(Scratch::new(), "");
    // Of a user of its own, because root has no such limit. It has no way to the folder of the build.
    let program = agent.scratch.path("dr-agent");
    std::fs::copy(agent_binary(), &program).expect("copy the agent");
    let user = 100_000 + std::process::id();
    std::os::unix::fs::chown(agent.scratch.path(""), Some(user), None).expect("give it the folder");
    let limited = |limit: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user.to_string(), "--clear-groups", "prlimit", limit]);
        command
    };
    // One thread that does everything and one that writes the log.
    agent.spawn_as(limited("--nproc=2:100").arg(program).args(["run", "--config"]).arg(agent.config()));
    agent.wait_until_it_answers();
    signal(agent.pid(), "HUP");
    until("it is told", &agent, |report| report["agent"]["config_problems"].to_string().contains("panicked"));
    assert!(agent.public().get("/health/live").is_ok_and(|answer| answer.status == 200));

    let raised = limited("--nproc=100").args(["--pid", &agent.pid().to_string()]).status();
    assert!(raised.expect("run prlimit").success());
    signal(agent.pid(), "HUP");
    until("it is in force", &agent, |report| report["agent"]["config_problems"] == Value::Array(vec![]));
    agent.stop();
}

/// Threads that wait for an answer of a FUSE daemon.
fn threads_in_fuse(pid: u32) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let waits_in = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("wchan"));
    threads.filter_map(|thread| waits_in(thread).ok()).filter(|function| function == "request_wait_answer").count()
}

/// Somebody else's metrics exporter has the peer port: that costs the peer port, not the health answers.
#[test]
fn a_peer_port_that_is_taken_is_a_problem_and_is_bound_when_it_is_free() {
    let mut agent = Agent::new(Scratch::new(), "");
    let taken = std::net::TcpListener::bind(("127.0.0.1", agent.peer_port)).unwrap();
    agent.start();
    let report = until("the problem is told", &agent, |report| report.to_string().contains("listen.peer"));
    assert_eq!(report["verdicts"]["region"]["code"], 200);
    assert!(agent.scratch.state().join("config.good.toml").exists(), "the file itself is good");

    // A reload finds nothing wrong with the file and does not bind it either.
    let text = std::fs::read_to_string(agent.config()).unwrap();
    std::fs::write(agent.config(), format!("{text}[verdct]\n")).unwrap();
    signal(agent.pid(), "HUP");
    until("both are told", &agent, |report| {
        let problems = report["agent"]["config_problems"].to_string();
        problems.contains("listen.peer") && problems.contains("verdct")
    });
    std::fs::write(agent.config(), text).unwrap();
    signal(agent.pid(), "HUP");
    until("the file's problem is gone", &agent, |report| {
        let problems = report["agent"]["config_problems"].to_string();
        problems.contains("listen.peer") && !problems.contains("verdct")
    });

    drop(taken);
    until("it is no problem any more", &agent, |report| report["agent"]["config_problems"] == Value::Array(vec![]));
    eventually("the peer port answers", || {
        let answer = agent.peer().get("/metrics").map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}
