//! exec: a program of the operator's, with the exit codes of Nagios plugins: 0 ok, 1 warning, 2 critical, else unknown.
//!
//! It runs as the agent's user with nothing of the agent's environment. Only root may be able to change what is run.
//! At the deadline its whole process group is killed.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::config::ExecProbe;
use crate::health::cause::Cause;
use crate::observation::{Finding, Outcome, Stages};
use crate::probes::Probe;
use crate::probes::blocking::Lane;
use crate::telemetry::ErrorChain;

/// The whole environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Output that is kept. Its first line is the finding's detail.
const KEEP: usize = 4 * 1024;

/// Output after which nothing more is read: the program then waits in its write until the deadline.
const READ: usize = 1024 * 1024;

/// What a process that left the group may keep the output open after the program has ended.
const LINGER: Duration = Duration::from_millis(100);

/// The kernel gives up after as many symbolic links.
const LINKS: u32 = 40;

/// The probe.
#[derive(Debug)]
pub struct Exec {
    command: Vec<String>,
    timeout: Duration,
    /// Looking at the program and starting it hang when its disk does.
    lane: Lane,
}

/// Why a program was not started.
#[derive(Debug, Error)]
enum StartError {
    #[error("{0}")]
    NotTrusted(String),
    #[error("cannot look at `{path}`")]
    Look {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("cannot start `{program}`")]
    Spawn {
        program: String,
        #[source]
        error: io::Error,
    },
    #[error("no command")]
    Empty,
}

impl Exec {
    #[must_use]
    pub fn new(probe: &ExecProbe) -> Self {
        Self { command: probe.command.clone(), timeout: probe.schedule.timeout, lane: Lane::new() }
    }
}

impl Probe for Exec {
    async fn attempt(&mut self, stages: &mut Stages) -> Outcome {
        stages.enter("start");
        let command = self.command.clone();
        let ended = match self.lane.run(move || start(&command)).await {
            Ok(Ok(running)) => {
                stages.enter("run");
                running.end().await
            }
            Ok(Err(error @ StartError::NotTrusted(_))) => {
                return Outcome::Fail(Finding::new(Cause::ExecNotTrusted, ErrorChain(&error).to_string()));
            }
            Ok(Err(error)) => return Outcome::Fail(Finding::new(Cause::CouldNotRun, ErrorChain(&error).to_string())),
            Err(error) => return Outcome::Fail(Finding::new(Cause::CouldNotRun, error.to_string())),
        };
        stages.leave();
        match ended {
            Ok((status, line)) => judge(status, &line),
            Err(error) => Outcome::Fail(Finding::new(Cause::CouldNotRun, error.to_string())),
        }
    }

    /// Never "could not run": after that the probe would be built anew, with a lane that does not know what hangs.
    async fn overdue(&mut self, stages: &Stages) -> Finding {
        let after = format!("after {} ms", self.timeout.as_millis());
        let detail = match stages.current() {
            Some("run") => format!("killed {after}"),
            _ => format!("not even started {after}: does the disk with the program hang?"),
        };
        Finding::new(Cause::ExecTimeout, detail)
    }
}

fn judge(status: ExitStatus, line: &str) -> Outcome {
    let cause = match status.code() {
        Some(0) => return Outcome::Pass,
        Some(1) => Cause::ExecWarning,
        Some(2) => Cause::ExecCritical,
        _ => Cause::CouldNotRun,
    };
    let detail = match (cause, line) {
        (_, "") => format!("{status}, no output"),
        (Cause::CouldNotRun, line) => format!("{status}: {line}"),
        (_, line) => line.to_owned(),
    };
    Outcome::Fail(Finding::new(cause, detail))
}

/// Looks at the program and starts it. Blocking: a new process is there only when its file was read.
fn start(command: &[String]) -> Result<Running, StartError> {
    let [program, arguments @ ..] = command else { return Err(StartError::Empty) };
    trust(Path::new(program))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| StartError::Spawn { program: program.clone(), error })?;
    let stdout = child.stdout.take();
    if let Some(id) = child.id() {
        // When memory runs out the agent is the last to be killed, and a program that inherits that must not be. It
        // fails only for one that has ended, and where the agent is spared less than others.
        let _not_spared = fs::write(format!("/proc/{id}/oom_score_adj"), "0");
    }
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    Ok(Running { child, stdout, group })
}

/// Follows the path as the kernel will and refuses it where anybody but root could put something else in its place.
fn trust(program: &Path) -> Result<(), StartError> {
    let not_trusted = |text: String| Err(StartError::NotTrusted(text));
    if !program.is_absolute() {
        return not_trusted(format!("`{}` is not an absolute path", program.display()));
    }
    let mut at = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = program.components().map(|part| part.as_os_str().to_owned()).collect();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::CurDir) => continue,
            Some(Component::ParentDir) => drop(at.pop()),
            Some(Component::RootDir) => at = PathBuf::from("/"),
            _ => at.push(&part),
        }
        let look = |error| StartError::Look { path: at.clone(), error };
        let found = fs::symlink_metadata(&at).map_err(look)?;
        if found.is_symlink() {
            links += 1;
            if links > LINKS {
                return not_trusted(format!("`{}` leads through too many links", program.display()));
            }
            let target = fs::read_link(&at).map_err(look)?;
            at.pop();
            for part in target.components().rev().map(Component::as_os_str).map(OsStr::to_owned) {
                ahead.push_front(part);
            }
            continue;
        }
        if found.uid() != 0 {
            return not_trusted(format!("`{}` belongs to uid {}", at.display(), found.uid()));
        }
        if found.mode() & 0o022 != 0 {
            return not_trusted(format!("`{}` has mode {:04o}", at.display(), found.mode() & 0o7777));
        }
    }
    Ok(())
}

/// A started program. Dropped, it and its process group are killed, and the runtime reaps it.
#[derive(Debug)]
struct Running {
    child: Child,
    stdout: Option<ChildStdout>,
    group: Option<Pid>,
}

impl Running {
    /// Waits for its end, and takes its processes down with it.
    async fn end(mut self) -> io::Result<(ExitStatus, String)> {
        let mut kept = Vec::new();
        let mut read = 0;
        let mut stdout = self.stdout.take();
        let status = {
            let output = async {
                if let Some(stdout) = &mut stdout {
                    read_into(&mut kept, &mut read, stdout).await;
                }
                pending().await
            };
            tokio::select! {
                status = self.child.wait() => status?,
                status = output => status,
            }
        };
        self.kill_group();
        if let Some(stdout) = &mut stdout {
            // What it wrote last is still in the pipe.
            let _ = timeout(LINGER, read_into(&mut kept, &mut read, stdout)).await;
        }
        Ok((status, first_line(&kept)))
    }

    /// Whoever is left in the group keeps its number from being given away; when nobody is, the number was the
    /// program's own until a moment ago.
    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            // It fails when nobody is left, which is what it is for.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Reads until the end of `stdout` or [`READ`], keeps the first [`KEEP`] bytes. Nothing is lost when it is dropped.
async fn read_into(kept: &mut Vec<u8>, read: &mut usize, stdout: &mut ChildStdout) {
    let mut chunk = [0; 4096];
    while *read < READ {
        match stdout.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                *read += length;
                kept.extend_from_slice(&chunk[..length.min(KEEP.saturating_sub(kept.len()))]);
            }
        }
    }
}

/// The first line, without what could disturb a terminal or a log.
fn first_line(output: &[u8]) -> String {
    let line = output.split(|&byte| byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned()
}
