use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dr_agent::config::ExecProbe;
use dr_agent::health::cause::Cause;
use dr_agent::health::component::Schedule;
use dr_agent::observation::{Component, Finding, Observation, Outcome};
use dr_agent::probes::exec::Exec;
use dr_agent::probes::observe;
use tempfile::TempDir;

use crate::support::PATIENCE;

const LONG: Duration = Duration::from_secs(20);
/// Enough to begin on a busy machine.
const SHORT: Duration = Duration::from_secs(2);

fn exec(command: &[&str], timeout: Duration) -> Exec {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    let schedule = Schedule { interval: 2 * timeout, timeout, fast_interval: None, fall: 2, rise: 2 };
    Exec::new(&ExecProbe { schedule, command })
}

async fn look(command: &[&str], deadline: Duration) -> Observation {
    observe(&mut exec(command, deadline), Component::Exec("queue".into()), deadline).await
}

async fn shell(script: &str) -> Outcome {
    look(&["/bin/sh", "-c", script], LONG).await.outcome
}

fn failed(cause: Cause, detail: &str) -> Outcome {
    Outcome::Fail(Finding::new(cause, detail))
}

/// A folder in which every component of the path is root's: `/tmp` is not.
fn root_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("dr-agent-test-").tempdir_in("/var/lib");
    let folder = folder.expect("this test needs root, to make programs that are trusted");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn wait_until(what: &str, check: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !check() {
        assert!(std::time::Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn exit_codes_are_those_of_nagios() {
    assert_eq!(shell("echo fine").await, Outcome::Pass);
    assert_eq!(shell("echo 80 waiting; exit 1").await, failed(Cause::ExecWarning, "80 waiting"));
    assert_eq!(shell("echo 200 waiting; exit 2").await, failed(Cause::ExecCritical, "200 waiting"));
    assert_eq!(shell("echo no idea; exit 3").await, failed(Cause::CouldNotRun, "exit status: 3: no idea"));
    assert_eq!(shell("exit 77").await, failed(Cause::CouldNotRun, "exit status: 77, no output"));
    assert_eq!(shell("kill -9 $$").await, failed(Cause::CouldNotRun, "signal: 9 (SIGKILL), no output"));
}

#[tokio::test]
async fn of_the_output_the_first_line_counts_without_what_disturbs_a_terminal() {
    let outcome = shell(r"printf ' \033[31mred\007 \303 line\nsecond\n'; echo noise >&2; exit 1").await;
    assert_eq!(outcome, failed(Cause::ExecWarning, "[31mred \u{fffd} line"));
}

#[tokio::test]
async fn output_is_capped_and_does_not_block_the_program() {
    let Outcome::Fail(finding) = shell("head -c 300000 /dev/zero | tr '\\0' x; exit 2").await else { panic!("passed") };
    assert_eq!((finding.cause, finding.detail.len()), (Cause::ExecCritical, 4096));
}

#[tokio::test]
async fn it_gets_nothing_of_the_agents_surroundings() {
    // `sh` adds PWD, OLDPWD, SHLVL and _ by itself; `env` shows what it was given.
    let environment = look(&["/usr/bin/env", "sh", "-c", "env -0 | tr '\\0' ' '; exit 1"], LONG).await.outcome;
    let Outcome::Fail(finding) = environment else { panic!("passed") };
    let names: Vec<_> =
        finding.detail.split(' ').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).collect();
    assert!(names.contains(&"PATH"), "{finding:?}");
    assert!(names.iter().all(|name| ["PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(name)), "{finding:?}");
    assert_eq!(shell("pwd; exit 1").await, failed(Cause::ExecWarning, "/"));
    assert_eq!(shell("read line || echo no input; exit 1").await, failed(Cause::ExecWarning, "no input"));
}

/// The unit protects the agent (`OOMScoreAdjust=`). Any value that is not the usual one shows what is inherited, and
/// who raised its own may go back without a privilege.
#[tokio::test]
async fn when_memory_runs_out_a_program_is_not_spared_as_the_agent_is() {
    let own = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(own).unwrap();
    fs::write(own, "500").unwrap();
    let outcome = shell("until grep -qx 0 /proc/$$/oom_score_adj; do sleep 0.01; done").await;
    fs::write(own, before.trim()).unwrap();
    assert_eq!(outcome, Outcome::Pass);
}

#[tokio::test]
async fn at_the_deadline_the_whole_group_is_killed_and_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("pids");
    let text = format!("sleep 1000 & echo $$ $! > {}; wait", note.display());
    let seen = look(&["/bin/sh", "-c", &text], SHORT).await;
    assert_eq!(seen.outcome, failed(Cause::ExecTimeout, "killed after 2000 ms"));
    assert_eq!(seen.stages.last().map(|stage| stage.name), Some("run"));
    let pids = fs::read_to_string(&note).expect("the program began");
    let pids: Vec<_> = pids.split_whitespace().collect();
    assert_eq!(pids.len(), 2);
    wait_until("the program is reaped", || !Path::new("/proc").join(pids[0]).exists()).await;
    // Its child is reaped by init, or by nobody in a container without one.
    wait_until("its child is dead", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pids[1])).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it() {
    let Outcome::Fail(finding) = shell("sleep 1000 & echo $!; exit 1").await else { panic!("passed") };
    assert_eq!(finding.cause, Cause::ExecWarning, "it did not wait for the holder of its output");
    wait_until("the background process is dead", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", finding.detail)).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
}

#[tokio::test]
async fn a_program_that_ignores_signals_and_writes_without_end_is_killed_too() {
    let seen = look(&["/bin/sh", "-c", "trap '' TERM INT PIPE; while :; do echo more; done"], SHORT).await;
    assert_eq!(seen.outcome, failed(Cause::ExecTimeout, "killed after 2000 ms"));
}

#[tokio::test]
async fn what_cannot_be_started_could_not_run() {
    for command in [&["/nonexistent/check"][..], &["/etc/hostname"], &[]] {
        let Outcome::Fail(finding) = look(command, LONG).await.outcome else { panic!("passed") };
        assert_eq!(finding.cause, Cause::CouldNotRun, "{command:?}: {finding:?}");
    }
}

#[tokio::test]
async fn only_what_root_alone_can_change_is_run() {
    async fn cause_of(program: &Path) -> Option<Cause> {
        match look(&[program.to_str().unwrap()], LONG).await.outcome {
            Outcome::Pass => None,
            Outcome::Fail(finding) => Some(finding.cause),
        }
    }
    let folder = root_folder();
    let program = folder.path().join("check");
    script(&program, "#!/bin/sh\nexit 0\n");
    assert_eq!(cause_of(&program).await, None);

    let link = folder.path().join("link");
    symlink("./check", &link).unwrap();
    assert_eq!(cause_of(&link).await, None, "a link of root's to a program of root's");

    let set = |mode| fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o775, 0o757] {
        set(mode);
        assert_eq!(cause_of(&program).await, Some(Cause::ExecNotTrusted), "{mode:o}");
        assert_eq!(cause_of(&link).await, Some(Cause::ExecNotTrusted), "{mode:o} through a link");
    }
    set(0o755);
    chown(&program, Some(65534), None).unwrap();
    assert_eq!(cause_of(&program).await, Some(Cause::ExecNotTrusted), "another owner");
    chown(&program, Some(0), None).unwrap();
    assert_eq!(cause_of(&program).await, None);

    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    script(&inner.join("check"), "#!/bin/sh\nexit 0\n");
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(cause_of(&inner.join("check")).await, Some(Cause::ExecNotTrusted), "anybody can replace it");
    assert_eq!(cause_of(&inner.join("../check")).await, Some(Cause::ExecNotTrusted), "anybody can redirect `inner`");

    // A link that anybody can turn elsewhere, in the middle of a chain.
    symlink(&program, inner.join("hop")).unwrap();
    let chain = folder.path().join("chain");
    symlink(inner.join("hop"), &chain).unwrap();
    assert_eq!(cause_of(&chain).await, Some(Cause::ExecNotTrusted));

    let round = folder.path().join("round");
    symlink(&round, &round).unwrap();
    assert_eq!(cause_of(&round).await, Some(Cause::ExecNotTrusted));

    let in_tmp = tempfile::tempdir_in("/tmp").unwrap();
    let outside: PathBuf = in_tmp.path().join("check");
    script(&outside, "#!/bin/sh\nexit 0\n");
    assert_eq!(cause_of(&outside).await, Some(Cause::ExecNotTrusted), "under a directory that all may write");
    assert_eq!(cause_of(Path::new("bin/true")).await, Some(Cause::ExecNotTrusted), "not absolute");
}
