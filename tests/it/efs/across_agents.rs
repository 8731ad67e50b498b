//! What one agent leaves to the next: killed agents, replaced binaries, a hundred hangs.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use dr_agent::clock;
use dr_agent::health::cause::Cause;
use dr_agent::observation::{Component, Facts, Finding, Outcome};
use dr_agent::probes::efs::{Context, Efs};
use dr_agent::probes::observe;
use serde::{Deserialize, Serialize};
use tokio::runtime;

use super::{TIMEOUT, config, context, nobody_probes, probing};
use crate::support::hangfs::{HangFs, children_of};
use crate::support::{PATIENCE, Process, agent_binary, eventually, free_port, signal};

/// What [`agent_process`] prints of each attempt.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    finding: Option<Finding>,
    hung_child: Option<u32>,
    hung_seconds: Option<u64>,
}

impl Report {
    fn cause(&self) -> Option<Cause> {
        self.finding.as_ref().map(|finding| finding.cause)
    }
}

/// Not a test: the agent of the tests below, as a process that can be killed and looked at in /proc. Observes once for
/// each line it reads.
#[test]
#[ignore = "the process that other tests start"]
fn agent_process() {
    let Some(mount) = std::env::var_os("EFS_TEST_MOUNT") else { return };
    let state = std::env::var_os("EFS_TEST_STATE").unwrap();
    let new =
        || Efs::new(&config(Path::new(&mount)), &context(Path::new(&state))).with_program(Path::new(agent_binary()));
    let mut efs = new();
    // One thread for what may block, and always the same: a second one would be counted as something left behind, and
    // one that never came back would stop all that follows.
    let mut runtime = runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).thread_keep_alive(PATIENCE * 100).build().unwrap();
    for line in std::io::stdin().lines() {
        let deadline = if line.unwrap() == "hang" { TIMEOUT } else { PATIENCE };
        let observation = runtime.block_on(observe(&mut efs, Component::Efs, deadline));
        let finding = match observation.outcome {
            Outcome::Pass => None,
            Outcome::Fail(finding) => Some(finding),
        };
        if finding.as_ref().is_some_and(|finding| finding.cause == Cause::CouldNotRun) {
            efs = new();
        }
        let Facts::Efs(facts) = observation.facts else { panic!("{:?}", observation.facts) };
        let report = Report { finding, hung_child: facts.hung_child, hung_seconds: facts.hung_seconds };
        println!("{}", serde_json::to_string(&report).unwrap());
    }
}

/// A running [`agent_process`].
struct Agent {
    process: Process,
    requests: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Agent {
    fn start(mount: &Path, state: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "efs::across_agents::agent_process", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("EFS_TEST_MOUNT", mount).env("EFS_TEST_STATE", state);
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let requests = process.0.stdin.take().unwrap();
        let reports = BufReader::new(process.0.stdout.take().unwrap()).lines();
        Self { process, requests, reports }
    }

    fn ask(&mut self, request: &str) -> Report {
        writeln!(self.requests, "{request}").unwrap();
        loop {
            let line = self.reports.next().expect("the agent process ended").unwrap();
            if let Some(start) = line.find('{') {
                return serde_json::from_str(&line[start..]).unwrap();
            }
        }
    }

    fn passes(&mut self) {
        eventually("it passes", || match self.ask("pass").finding {
            None => Ok(()),
            Some(finding) => Err(format!("{finding:?}")),
        });
    }

    fn hangs(&mut self) -> Report {
        eventually("a hang is found", || match self.ask("hang") {
            report if report.cause() == Some(Cause::EfsHung) => Ok(report),
            report => Err(format!("{report:?}")),
        })
    }

    /// Descriptors, threads and children that it has.
    fn belongings(&self) -> [usize; 3] {
        let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", self.process.pid())).unwrap().count();
        [count("fd"), count("task"), children_of(self.process.pid()).len()]
    }

    fn zombies(&self) -> Vec<u32> {
        let children = children_of(self.process.pid());
        children.into_iter().filter(|(_, state)| *state == 'Z').map(|(pid, _)| pid).collect()
    }
}

#[test]
fn a_local_disk_that_hangs_costs_an_attempt_and_not_the_agent() {
    let (fs, disk) = (HangFs::start(), HangFs::start());
    let mut agent = Agent::start(fs.path(), disk.path());
    disk.freeze();
    // The second probe of this agent waits for what the first one began.
    for _ in 0..2 {
        let finding = agent.ask("hang").finding.expect("it passed without its lock");
        assert_eq!(finding.cause, Cause::CouldNotRun);
        assert!(finding.detail.ends_with("(stage lock)"), "{}", finding.detail);
    }
    disk.thaw();
    eventually("it passes", || match agent.ask("").finding {
        None => Ok(()),
        Some(finding) => Err(format!("{finding:?}")),
    });
}

#[test]
fn the_next_agent_reports_the_hang_that_a_killed_one_left_and_starts_nothing() {
    let fs = HangFs::start();
    let state_dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(fs.path(), state_dir.path());
    agent.passes();
    fs.freeze();
    let child = agent.hangs().hung_child;
    let mut age = 0;
    for _ in 0..3 {
        agent.process.signal("KILL");
        agent = Agent::start(fs.path(), state_dir.path());
        let report = agent.hangs();
        assert_eq!(report.hung_child, child);
        let detail = report.finding.unwrap().detail;
        assert!(report.hung_seconds.unwrap() >= age, "{detail}");
        age = report.hung_seconds.unwrap();
        assert_eq!(children_of(agent.process.pid()), [], "it started nothing");
        assert_eq!(probing(fs.path()).len(), 1);
    }
    fs.thaw();
    agent.passes();
}

#[test]
fn check_ends_no_process_whatever_the_lock_file_says() {
    let fs = HangFs::start();
    let state_dir = tempfile::tempdir().unwrap();
    let mut victim = Process::start(Command::new("sleep").arg("1000"));
    // Whoever owns the file can write into it what he likes, and hold the lock.
    let lock = fs::File::create(state_dir.path().join("efs.lock")).unwrap();
    lock.lock().unwrap();
    let boot = clock::boot_id().unwrap();
    let line = format!(r#"{{"pid":{},"start":0,"boot":"{boot}","busy_since":0}}"#, victim.pid());
    (&lock).write_all(format!("{line:<191}\n").as_bytes()).unwrap();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let look = |ends_others| {
        let context = Context { ends_others, ..context(state_dir.path()) };
        let mut efs = Efs::new(&config(fs.path()), &context).with_program(Path::new(agent_binary()));
        match runtime.block_on(observe(&mut efs, Component::Efs, PATIENCE)).outcome {
            Outcome::Fail(finding) => assert_eq!(finding.cause, Cause::EfsHung, "{finding:?}"),
            Outcome::Pass => panic!("the lock is taken"),
        }
    };
    look(false);
    assert_eq!(victim.0.try_wait().unwrap(), None, "it lives");
    // An agent ends the child that one before it left.
    look(true);
    victim.ended();
}

#[test]
fn a_killed_agents_idle_child_goes_and_leaves_the_lock_to_the_next() {
    let fs = HangFs::start();
    let state_dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(fs.path(), state_dir.path());
    agent.passes();
    agent.process.signal("KILL");
    let mut next = Agent::start(fs.path(), state_dir.path());
    next.passes();
    assert_eq!(probing(fs.path()).len(), 1);
    drop(next);
    nobody_probes(fs.path());
}

/// Hangs and recoveries of one agent, and restarts in the middle of hangs.
fn cycles(count: usize, freeze: impl Fn(&HangFs)) {
    let fs = HangFs::start();
    let state_dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(fs.path(), state_dir.path());
    let settled = |agent: &mut Agent| {
        agent.passes();
        eventually("everything killed is reaped", || {
            agent.passes();
            match agent.zombies() {
                zombies if zombies.is_empty() => Ok(()),
                zombies => Err(format!("{zombies:?}")),
            }
        });
        agent.belongings()
    };
    let at_first = settled(&mut agent);
    for _ in 0..count {
        freeze(&fs);
        agent.hangs();
        agent.hangs();
        let children = probing(fs.path());
        assert!(children.iter().filter(|(_, state)| *state != 'Z').count() <= 1, "{children:?}");
        fs.thaw();
        assert_eq!(settled(&mut agent), at_first, "descriptors, threads, children");
        assert_eq!(probing(fs.path()).len(), 1);
    }
    for _ in 0..count {
        freeze(&fs);
        agent.hangs();
        agent.process.signal("KILL");
        agent = Agent::start(fs.path(), state_dir.path());
        agent.hangs();
        fs.thaw();
        assert_eq!(settled(&mut agent), at_first, "descriptors, threads, children");
        assert_eq!(probing(fs.path()).len(), 1);
    }
    drop(agent);
    nobody_probes(fs.path());
}

/// How often; the release tests ask for more.
fn count() -> usize {
    std::env::var("EFS_TEST_CYCLES").map_or(4, |count| count.parse().expect("EFS_TEST_CYCLES is a number"))
}

#[test]
fn hangs_that_can_be_killed_leave_nothing_behind() {
    cycles(count(), HangFs::stop);
}

#[test]
fn hangs_that_cannot_be_killed_leave_nothing_behind() {
    cycles(count(), HangFs::freeze);
}

/// A canary that is not `before`.
fn next_canary(fs: &HangFs, before: &[u8]) -> Vec<u8> {
    eventually("the agent writes its canary", || {
        let entries = fs::read_dir(fs.backing().join(".dr-agent")).map_err(|error| error.to_string())?;
        let path = entries.flatten().next().ok_or("no canary yet")?.path();
        match fs::read(path) {
            Ok(canary) if canary.len() == 64 && canary != before => Ok(canary),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn an_agent_whose_binary_was_replaced_or_removed_still_starts_its_child() {
    let fs = HangFs::start();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("state")).unwrap();
    fs::copy(agent_binary(), at("agent")).unwrap();
    fs::write(
        at("agent.toml"),
        format!(
            "schema = 1\ndeployment = \"test\"\nhome = \"ap-south-1\"\nstate_dir = \"{folder}/state\"\n\
             [listen]\npublic = \"unix:{folder}/public.sock\"\npeer = \"127.0.0.1:{port}\"\n\
             control = \"{folder}/control.sock\"\n\
             [probe.efs]\npath = \"{mount}\"\ntypes = [\"fuse.hangfs\"]\ninterval = \"500ms\"\ntimeout = \"400ms\"\n\
             [region.ap-south-1]\n",
            folder = folder.path().display(),
            port = free_port(),
            mount = fs.path().display(),
        ),
    )
    .unwrap();
    let mut command = Command::new(at("agent"));
    command.arg("run").arg("--config").arg(at("agent.toml")).args(["--region", "ap-south-1"]);
    let _agent = Process::start(command.stdin(Stdio::null()).stderr(Stdio::null()));
    let mut canary = next_canary(&fs, b"");

    // As an upgrade does: another file takes the name. Then nothing has it.
    fs::copy("/bin/false", at("new")).unwrap();
    fs::rename(at("new"), at("agent")).unwrap();
    for _ in 0..2 {
        let child = probing(fs.path())[0].0;
        signal(child, "KILL");
        eventually("another child", || match probing(fs.path())[..] {
            [(pid, _)] if pid != child => Ok(()),
            ref other => Err(format!("{other:?}")),
        });
        canary = next_canary(&fs, &canary);
        drop(fs::remove_file(at("agent")));
    }
}
