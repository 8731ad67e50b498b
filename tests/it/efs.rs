//! The EFS probe on a mount that hangs, fails, goes away and comes back; and what is left of it in /proc.

mod across_agents;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dr_agent::clock;
use dr_agent::config::EfsProbe;
use dr_agent::health::cause::Cause;
use dr_agent::health::component::Schedule;
use dr_agent::observation::{Component, EfsFacts, Facts, Finding, Observation, Outcome};
use dr_agent::probes::efs::{Context, Efs};
use dr_agent::probes::observe;
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

use super::support::hangfs::{HangFs, Options, processes_with, state};
use super::support::{PATIENCE, agent_binary, eventually, signal};

/// The probe's deadline where a hang is expected.
const TIMEOUT: Duration = Duration::from_millis(700);

fn config(mount: &Path) -> EfsProbe {
    EfsProbe {
        schedule: Schedule {
            interval: Duration::from_secs(4),
            timeout: TIMEOUT,
            fast_interval: None,
            fall: 2,
            rise: 3,
        },
        path: mount.into(),
        file_system: None,
        types: vec!["nfs4".into(), "fuse.hangfs".into()],
        read_only: false,
        latency_limit: PATIENCE,
    }
}

fn context(state_dir: &Path) -> Context {
    Context {
        state_dir: state_dir.into(),
        instance: "i-0abc".into(),
        boot: clock::boot_id().unwrap(),
        region: Some("ap-south-1".into()),
        ends_others: true,
    }
}

/// A probe with its runtime and its state directory.
struct Bench {
    efs: Efs,
    runtime: Runtime,
    state: TempDir,
}

impl Bench {
    fn new(config: &EfsProbe) -> Self {
        let state = tempfile::tempdir().unwrap();
        let efs = Efs::new(config, &context(state.path())).with_program(Path::new(agent_binary()));
        Self { efs, runtime: runtime(), state }
    }

    fn of(fs: &HangFs) -> Self {
        Self::new(&config(fs.path()))
    }

    /// The probe that the next agent, or `check`, would have: other process state, the same lock file.
    fn another(&self, config: &EfsProbe) -> Self {
        let efs = Efs::new(config, &context(self.state.path())).with_program(Path::new(agent_binary()));
        Self { efs, runtime: runtime(), state: tempfile::tempdir().unwrap() }
    }

    fn observe_within(&mut self, deadline: Duration) -> Observation {
        self.runtime.block_on(observe(&mut self.efs, Component::Efs, deadline))
    }

    /// One attempt that is not expected to hang.
    fn observe(&mut self) -> Observation {
        self.observe_within(PATIENCE)
    }

    fn passes(&mut self) {
        assert_eq!(self.observe().outcome, Outcome::Pass);
    }

    /// One attempt, expected to fail so.
    fn fails(&mut self, cause: Cause) -> String {
        match self.observe().outcome {
            Outcome::Fail(finding) if finding.cause == cause => finding.detail,
            outcome => panic!("not {cause}: {outcome:?}"),
        }
    }

    /// Attempts until one is found to hang: on a busy machine the first may not get as far as the mount.
    fn hangs(&mut self) -> (Observation, EfsFacts) {
        eventually("a hang is found", || {
            let observation = self.observe_within(TIMEOUT);
            match (&observation.outcome, &observation.facts) {
                (Outcome::Fail(Finding { cause: Cause::EfsHung, .. }), Facts::Efs(facts)) => {
                    let facts = facts.clone();
                    Ok((observation, facts))
                }
                (outcome, _) => Err(format!("{outcome:?}")),
            }
        })
    }

    fn recovers(&mut self) {
        eventually("it passes", || match self.observe().outcome {
            Outcome::Pass => Ok(()),
            Outcome::Fail(finding) => Err(format!("{finding:?}")),
        });
    }
}

fn runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn names(observation: &Observation) -> Vec<&'static str> {
    observation.stages.iter().map(|stage| stage.name).collect()
}

/// The children that probe this mount, of whatever agent.
fn probing(mount: &Path) -> Vec<(u32, char)> {
    processes_with(&["efs-child", mount.to_str().unwrap()])
}

fn nobody_probes(mount: &Path) {
    eventually("no child is left", || match probing(mount) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

#[test]
fn a_mount_that_works_passes_again_and_again_with_one_child() {
    let fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    let first = bench.observe();
    assert_eq!(first.outcome, Outcome::Pass);
    let canary = ["open", "write", "fsync", "close", "reopen", "read"];
    assert_eq!(
        names(&first),
        [&["mountinfo", "lock", "spawn", "child", "statvfs", "directory", "mkdir", "directory"][..], &canary].concat()
    );
    let path = fs.backing().join(".dr-agent/i-0abc");
    let written = fs::read(&path).unwrap();
    assert_eq!(written.len(), 64);
    assert!(written.starts_with(clock::boot_id().unwrap().as_bytes()));
    let Facts::Efs(facts) = first.facts else { panic!("{:?}", first.facts) };
    assert_eq!((facts.source.as_str(), facts.fs_type.as_str()), ("hangfs", "fuse.hangfs"));
    assert!(!facts.read_only);

    let child = probing(fs.path());
    assert_eq!(child.len(), 1, "{child:?}");
    let again = bench.observe();
    assert_eq!(again.outcome, Outcome::Pass);
    assert_eq!(names(&again), [&["mountinfo", "child", "statvfs", "directory"][..], &canary].concat());
    assert_ne!(fs::read(&path).unwrap(), written, "the nonce changes");
    assert_eq!(probing(fs.path())[0].0, child[0].0, "the same child");
    drop(bench);
    nobody_probes(fs.path());
}

#[test]
fn the_child_has_nothing_of_the_agent_and_is_the_first_to_go() {
    let fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    bench.passes();
    let pid = probing(fs.path())[0].0;
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let lock = bench.state.path().join("efs.lock");
    let socket = fs::read_link(proc.join("fd/0")).unwrap();
    assert!(socket.display().to_string().starts_with("socket:"), "{socket:?}");
    assert_eq!(fs::read_link(proc.join("fd/1")).unwrap(), lock);
    assert_eq!(fs::read_link(proc.join("fd/2")).unwrap(), Path::new("/dev/null"));
    for entry in fs::read_dir(proc.join("fd")).unwrap().flatten() {
        let (name, target) = (entry.file_name(), fs::read_link(entry.path()).unwrap());
        // What whoever started the tests left open for every program is not the agent's.
        let inherited = fs::read_link(Path::new("/proc/self/fd").join(&name)).is_ok_and(|ours| ours == target);
        let number: u32 = name.to_str().unwrap().parse().unwrap();
        assert!(number <= 2 || inherited || target == socket, "{number}: {target:?}");
    }
    assert_eq!(fs::read(proc.join("environ")).unwrap(), b"");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read_to_string(proc.join("oom_score_adj")).unwrap().trim(), "1000");
    assert_eq!(fs::read_dir(proc.join("task")).unwrap().count(), 1);
}

#[test]
fn what_root_makes_before_the_agent_has_ever_run_is_the_agents() {
    use std::os::unix::fs::{MetadataExt, chown};
    const AGENT: u32 = 848;
    assert!(rustix::process::geteuid().is_root(), "only root can give files away");
    let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
    let fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    chown(bench.state.path(), Some(AGENT), Some(AGENT)).unwrap();
    bench.passes();
    let made = fs.backing().join(".dr-agent");
    assert_eq!(owner(&bench.state.path().join("efs.lock")), (AGENT, AGENT));
    assert_eq!(owner(&made), (AGENT, AGENT));
    assert_eq!(owner(&made.join("i-0abc")), (AGENT, AGENT));

    // What was there before is left to whoever has it.
    let canary = made.join("i-0abc");
    chown(&canary, Some(AGENT + 1), None).unwrap();
    // Another child.
    bench.efs = Efs::new(&config(fs.path()), &context(bench.state.path())).with_program(Path::new(agent_binary()));
    bench.passes();
    assert_eq!(owner(&canary).0, AGENT + 1);
}

#[test]
fn a_bare_directory_is_not_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(&config(folder.path()));
    bench.fails(Cause::EfsNotMounted);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was written into it");
}

#[test]
fn what_is_unmounted_is_missed_and_what_is_mounted_again_is_found() {
    let mut fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    bench.passes();
    fs.unmount();
    bench.fails(Cause::EfsNotMounted);
    fs.mount(&Options::default());
    bench.passes();
}

#[test]
fn another_type_or_another_source_is_wrong() {
    let fs =
        HangFs::start_with(&Options { source: Some("fs-0999.efs.ap-south-1.amazonaws.com:/"), ..Options::default() });
    let mut other_type = config(fs.path());
    other_type.types = vec!["nfs4".into()];
    let detail = Bench::new(&other_type).fails(Cause::EfsWrongSource);
    assert!(detail.contains("fuse.hangfs") && detail.contains("nfs4"), "{detail}");
    let mut other_source = config(fs.path());
    other_source.file_system = Some("fs-0123".into());
    let detail = Bench::new(&other_source).fails(Cause::EfsWrongSource);
    assert!(detail.contains("fs-0999") && detail.contains("fs-0123"), "{detail}");
    let mut right = config(fs.path());
    right.file_system = Some("fs-0999".into());
    Bench::new(&right).passes();
}

#[test]
fn a_mount_by_address_has_no_name_to_compare() {
    let fs = HangFs::start_with(&Options { source: Some("127.0.0.1:/"), ..Options::default() });
    let mut proxied = config(fs.path());
    proxied.file_system = Some("fs-0123".into());
    Bench::new(&proxied).passes();
}

#[test]
fn hung_from_the_start_and_whoever_waits_cannot_be_killed() {
    let fs = HangFs::start_with(&Options { frozen: true, ..Options::default() });
    let mut bench = Bench::of(&fs);
    let (first, facts) = bench.hangs();
    assert_eq!(first.stages.last().unwrap().name, "statvfs", "{:?}", first.stages);
    let child = facts.hung_child.unwrap();
    // It was killed, and cannot go; nobody starts another.
    let mut age = 0;
    for _ in 0..3 {
        let Facts::Efs(facts) = bench.hangs().0.facts else { panic!() };
        assert_eq!(facts.hung_child, Some(child));
        assert!(facts.hung_seconds.unwrap() >= age);
        age = facts.hung_seconds.unwrap();
        assert_eq!(probing(fs.path()).len(), 1);
    }
    assert_eq!(state(child), Some('D'));
    fs.thaw();
    bench.recovers();
    eventually("the killed child is reaped", || {
        bench.passes();
        if state(child).is_none() { Ok(()) } else { Err(format!("{:?}", state(child))) }
    });
}

#[test]
fn hung_later_and_whoever_waits_can_be_killed() {
    let fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    bench.passes();
    fs.stop();
    let children: Vec<_> = (0..3).map(|_| bench.hangs().1.hung_child.unwrap()).collect();
    fs.thaw();
    bench.recovers();
    for child in children {
        eventually("the killed child is reaped", || {
            bench.passes();
            if state(child).is_none() { Ok(()) } else { Err(format!("{child} {:?}", state(child))) }
        });
    }
    assert_eq!(probing(fs.path()).len(), 1);
}

#[test]
fn the_stage_in_which_it_hangs_is_known() {
    for step in ["fsync", "write", "read"] {
        let fs = HangFs::start();
        let mut bench = Bench::of(&fs);
        bench.passes();
        fs.freeze_operations(step);
        let observation = bench.observe_within(5 * TIMEOUT);
        assert_eq!(observation.stages.last().unwrap().name, step, "{observation:?}");
        let Outcome::Fail(finding) = observation.outcome else { panic!("{step} passed") };
        assert_eq!(finding.cause, Cause::EfsHung);
        assert!(finding.detail.starts_with(step), "{}", finding.detail);
    }
}

#[test]
fn a_hang_that_an_administrator_aborts_is_an_error_and_a_new_mount_cures_it() {
    let mut fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    bench.passes();
    fs.freeze();
    let child = bench.hangs().1.hung_child.unwrap();
    fs.abort();
    eventually("the child can go", || match state(child) {
        None | Some('Z') => Ok(()),
        other => Err(format!("{other:?}")),
    });
    bench.fails(Cause::EfsIoError);
    fs.thaw();
    let _old = fs.replace();
    bench.recovers();
}

#[test]
fn a_hung_mount_that_was_covered_by_a_good_one_hangs_no_more() {
    let mut fs = HangFs::start();
    let mut first = Bench::of(&fs);
    first.passes();
    fs.stop();
    // The agent is killed before it can kill its child, which so hangs in the old mount for ever.
    let hung = first.runtime.block_on(async {
        let mut stages = dr_agent::observation::Stages::default();
        let attempt = dr_agent::probes::Probe::attempt(&mut first.efs, &mut stages);
        drop(tokio::time::timeout(TIMEOUT, attempt).await);
        probing(fs.path())[0].0
    });
    let mut next = first.another(&config(fs.path()));
    std::mem::forget(first.efs);
    let _old = fs.replace();
    let Outcome::Fail(finding) = next.observe_within(TIMEOUT * 3).outcome else { panic!("passed beside a hung child") };
    assert_eq!(finding.cause, Cause::EfsHung);
    next.recovers();
    drop(first.runtime);
    eventually("it was killed", || match state(hung) {
        None | Some('Z') => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn errors_are_told_from_each_other() {
    let fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    for (lines, cause) in [
        ("mkdir 13", Cause::EfsNoDirectory),
        ("mkdir 30", Cause::EfsReadOnly),
        ("mkdir 28", Cause::EfsQuota),
        ("statfs 5", Cause::EfsIoError),
        ("statfs 107", Cause::EfsIoError),
    ] {
        fs.fail(lines);
        let detail = bench.fails(cause);
        assert!(detail.starts_with(lines.split(' ').next().unwrap().trim_start_matches("statfs")), "{lines}: {detail}");
    }
    fs.stop_failing();
    bench.passes();
    for (lines, cause) in [
        ("open 13", Cause::EfsNoPermission),
        ("open 1", Cause::EfsNoPermission),
        ("open 30", Cause::EfsReadOnly),
        ("write 122", Cause::EfsQuota),
        ("write 28", Cause::EfsQuota),
        ("fsync 5", Cause::EfsIoError),
        ("fsync 110", Cause::EfsIoError),
        ("read 112", Cause::EfsIoError),
        ("open 116", Cause::EfsStaleHandle),
        ("statfs 116", Cause::EfsStaleHandle),
        ("statfs 12", Cause::CouldNotRun),
    ] {
        fs.fail(lines);
        let detail = bench.fails(cause);
        assert!(detail.contains("(os error"), "{lines}: {detail}");
    }
    // A handle that is stale once is opened again.
    fs.fail("fsync 116 once");
    let observation = bench.observe();
    assert_eq!(observation.outcome, Outcome::Pass);
    assert_eq!(names(&observation).iter().filter(|name| **name == "fsync").count(), 2);
    assert_eq!(probing(fs.path()).len(), 1, "an error costs no child");
}

#[test]
fn a_read_only_mount_is_a_fault_only_where_it_should_be_written() {
    let mut fs = HangFs::start();
    Bench::of(&fs).passes();
    fs.unmount();
    fs.mount(&Options { read_only: true, ..Options::default() });
    let mut writer = Bench::of(&fs);
    writer.fails(Cause::EfsReadOnly);
    drop(writer);

    let mut reader = config(fs.path());
    reader.read_only = true;
    let mut reader = Bench::new(&reader);
    let observation = reader.observe();
    assert_eq!(observation.outcome, Outcome::Pass);
    assert_eq!(names(&observation), ["mountinfo", "lock", "spawn", "child", "statvfs", "list"]);
    assert!(matches!(observation.facts, Facts::Efs(EfsFacts { read_only: true, .. })));
    fs.freeze();
    reader.hangs();
}

#[test]
fn a_dead_daemon_is_an_error_at_once() {
    let mut fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    bench.passes();
    fs.kill_daemon();
    let detail = bench.fails(Cause::EfsIoError);
    assert!(detail.starts_with("statvfs: Transport endpoint is not connected"), "{detail}");
}

#[test]
fn slow_is_not_hung() {
    let fs = HangFs::start();
    let mut slow = config(fs.path());
    slow.latency_limit = Duration::from_millis(50);
    let mut bench = Bench::new(&slow);
    fs.delay(0.1);
    bench.fails(Cause::EfsSlow);
    assert_eq!(probing(fs.path()).len(), 1);
}

#[test]
fn a_child_that_dies_is_replaced() {
    let fs = HangFs::start();
    let mut bench = Bench::of(&fs);
    bench.passes();
    let first = probing(fs.path())[0].0;
    signal(first, "KILL");
    bench.recovers();
    let second = probing(fs.path());
    assert_eq!(second.len(), 1);
    assert_ne!(second[0].0, first);
    assert_eq!(state(first), None, "it is reaped");
}

#[test]
fn a_child_that_cannot_be_started_is_unknown_not_unhealthy() {
    let fs = HangFs::start();
    let state_dir = tempfile::tempdir().unwrap();
    let efs = Efs::new(&config(fs.path()), &context(state_dir.path()));
    let mut bench = Bench { efs: efs.with_program(Path::new("/nowhere")), runtime: runtime(), state: state_dir };
    bench.fails(Cause::CouldNotRun);
    // One that is no such child.
    bench.efs = Efs::new(&config(fs.path()), &context(bench.state.path())).with_program(Path::new("/bin/true"));
    bench.fails(Cause::CouldNotRun);
    bench.efs = Efs::new(&config(fs.path()), &context(Path::new("/nowhere")));
    bench.fails(Cause::CouldNotRun);
    assert_eq!(probing(fs.path()), []);
}

#[test]
fn who_cannot_take_the_lock_says_what_the_holder_does() {
    let fs = HangFs::start();
    let mut agent = Bench::of(&fs);
    agent.passes();
    let mut check = agent.another(&config(fs.path()));
    let detail = check.fails(Cause::CouldNotRun);
    assert!(detail.contains("probed by the running agent") && detail.contains("idle"), "{detail}");
    fs.freeze();
    agent.hangs();
    let (_, facts) = check.hangs();
    assert_eq!(facts.hung_child, Some(probing(fs.path())[0].0));
    assert_eq!(probing(fs.path()).len(), 1);
    fs.thaw();
    // Not its state directory, which is also the other's.
    drop(agent.efs);
    check.recovers();
}
