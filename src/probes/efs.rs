//! The EFS mount: is it mounted, and does it really read and write?
//!
//! This process never touches the mount. What is mounted where it reads from `/proc/self/mountinfo`; everything else
//! is done by one long-lived [`child`], which may hang. At the deadline the child is killed and not waited for: it may
//! be stuck in the kernel for days. While it lives it holds [`lock`], and nobody starts another, not even the next
//! agent; what that one reports is the age of the hang.

pub mod child;
mod lock;
pub(crate) mod mountinfo;
mod tidy;
mod vantage;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use self::child::{Answer, Failure, Step, Task};
use self::lock::Holder;
use self::mountinfo::Mount;
use self::vantage::Vantage;
use crate::clock::BootTime;
use crate::config::EfsProbe;
use crate::health::cause::Cause;
use crate::observation::{EfsFacts, Facts, Finding, Outcome, Stages};
use crate::probes::Probe;
use crate::probes::blocking::Lane;

/// The first argument that makes the `dr-agent` command the child.
pub const CHILD_COMMAND: &str = "efs-child";

/// The lock file and the program are on a disk of this machine, which may hang. One look at a time, however often the
/// probe is built anew.
static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// The running program itself, also after its file was replaced or deleted.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How often a lock that is held is tried again within one attempt, and for how long when its holder is idle: a child
/// that was told to go is gone by then, so this one has work and belongs to a live agent.
const LOCK_RETRY: Duration = Duration::from_millis(20);
const IDLE_HOLDER_LIMIT: Duration = Duration::from_millis(500);

// Stages of this process; those of the child are its steps.
const STAGE_MOUNTINFO: &str = "mountinfo";
const STAGE_LOCK: &str = "lock";
const STAGE_SPAWN: &str = "spawn";
const STAGE_CHILD: &str = "child";
const STAGE_VANTAGE: &str = "vantage";

/// What the probe needs to know of the agent that it is part of.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where the lock file is. Not on the mount.
    pub state_dir: PathBuf,
    /// File name of this instance's canary.
    pub instance: String,
    /// The id of this boot.
    pub boot: String,
    /// The AWS region, by which the mount target's host name is known when the mount goes through a local proxy.
    pub region: Option<String>,
    /// Whether it may end a child that an agent before this one left hanging. `check` may not: it can be root's, and
    /// which process that is it has only by the word of a file that root did not write.
    pub ends_others: bool,
}

/// The probe.
#[derive(Debug)]
pub struct Efs {
    config: EfsProbe,
    context: Context,
    program: PathBuf,
    vantage: Vantage,
    /// What the last look at mountinfo found.
    mount: Option<Mount>,
    /// Who had the lock when this attempt last tried to take it.
    holder: Option<Holder>,
    worker: Option<Worker>,
    /// The last worker that was killed, until it has been reaped. If one was killed before it, tokio reaps that.
    killed: Option<Child>,
    /// The child that hangs, found in this attempt: its process id and since when.
    hung: Option<(u32, Duration)>,
    /// What the look at the mount target because of that found.
    target_accepts: Option<bool>,
}

/// A child that takes requests.
#[derive(Debug)]
struct Worker {
    process: Child,
    pid: u32,
    answers: Lines<BufReader<UnixStream>>,
    /// Since when it has been in an operation.
    busy_since: Option<BootTime>,
}

impl Efs {
    #[must_use]
    pub fn new(config: &EfsProbe, context: &Context) -> Self {
        let target = config.file_system.as_ref().zip(context.region.as_ref());
        let target = target.map(|(id, region)| format!("{id}.efs.{region}.amazonaws.com"));
        Self {
            config: config.clone(),
            context: context.clone(),
            program: THIS_PROGRAM.into(),
            vantage: Vantage::new(target),
            mount: None,
            holder: None,
            worker: None,
            killed: None,
            hung: None,
            target_accepts: None,
        }
    }

    /// Runs another program as the child: a test's own program is not the agent.
    #[doc(hidden)]
    #[must_use]
    pub fn with_program(mut self, program: &Path) -> Self {
        self.program = program.into();
        self
    }

    async fn probe(&mut self, stages: &mut Stages) -> Result<(), Finding> {
        self.hung = None;
        self.target_accepts = None;
        self.holder = None;
        stages.enter(STAGE_MOUNTINFO);
        self.find_mount()?;

        self.reap();
        if self.worker.is_none() {
            stages.enter(STAGE_LOCK);
            let lock_file = self.take_lock(stages).await?;
            stages.enter(STAGE_SPAWN);
            let worker =
                self.start_worker(lock_file).await.map_err(|error| could_not_run("cannot start its child", &error))?;
            self.worker = Some(worker);
        }
        stages.enter(STAGE_CHILD);
        let result = self.operate(stages).await;
        stages.leave();
        match result {
            Ok(outcome) => outcome,
            Err(error) => {
                // It ended by itself, or does not speak as it should; the next attempt starts another.
                self.kill_worker();
                Err(could_not_run("lost its child", &error))
            }
        }
    }

    /// Whether the right file system is mounted at the path. The text comes from the kernel's memory: no file system
    /// is asked, so reading it cannot hang.
    fn find_mount(&mut self) -> Result<(), Finding> {
        self.mount = None;
        let mountinfo = fs::read("/proc/self/mountinfo")
            .map_err(|error| could_not_run("cannot read /proc/self/mountinfo", &error))?;
        self.mount = mountinfo::find(&mountinfo, &self.config.path);
        let path = self.config.path.display();
        let Some(mount) = &self.mount else {
            return Err(Finding::new(Cause::EfsNotMounted, format!("nothing is mounted at {path}")));
        };
        if mount.fs_type == "autofs" {
            let detail = format!("only an automount point is at {path}");
            return Err(Finding::new(Cause::EfsNotMounted, detail));
        }
        if !self.config.types.contains(&mount.fs_type) {
            let detail = format!(
                "{path} is a mount of {} of type {}, not {}",
                mount.source,
                mount.fs_type,
                self.config.types.join(" or ")
            );
            return Err(Finding::new(Cause::EfsWrongSource, detail));
        }
        if let Some(expected) = &self.config.file_system
            && mount.has_named_source()
            && !mount.source.contains(expected.as_str())
        {
            let detail = format!("{path} is a mount of {}, not of {expected}", mount.source);
            return Err(Finding::new(Cause::EfsWrongSource, detail));
        }
        Ok(())
    }

    /// Reaps what was killed and forgets a worker that ended by itself between two attempts.
    fn reap(&mut self) {
        let has_ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)));
        self.killed.take_if(has_ended);
        self.worker.take_if(|worker| has_ended(&mut worker.process));
        // An attempt that nobody asked about was given up in the middle: its answers would be taken for the next one's.
        if self.worker.as_ref().is_some_and(|worker| worker.busy_since.is_some()) {
            self.kill_worker();
        }
    }

    /// Takes the lock that only one child can have. Fails with the hang of whoever has it.
    async fn take_lock(&mut self, stages: &mut Stages) -> Result<File, Finding> {
        let path = self.context.state_dir.join("efs.lock");
        let failed = |error: io::Error| could_not_run(&format!("cannot lock {}", path.display()), &error);
        let began = Instant::now();
        loop {
            let (at, boot) = (path.clone(), self.context.boot.clone());
            let taken = LANE.run(move || lock::take(&at, &boot)).await;
            let holder = match taken.unwrap_or_else(|error| Err(error.into())).map_err(failed)? {
                Ok(file) => return Ok(file),
                Err(holder) => holder,
            };
            self.holder.clone_from(&holder);
            match holder.as_ref().and_then(|holder| Some((holder.pid, holder.busy_for(BootTime::now())?))) {
                Some((pid, busy_for)) if busy_for >= self.config.schedule.timeout => {
                    // It may have been left by an agent that was killed before it could do this, and hang in a mount
                    // that is gone from here: nobody else would ever end it. The pid is the holder's own word, and
                    // the lock, tried just now, says that it lives.
                    if self.context.ends_others
                        && let Some(pid) = pid.try_into().ok().and_then(Pid::from_raw)
                    {
                        let _ended_just_now = kill_process(pid, Signal::KILL);
                    }
                    stages.enter(STAGE_VANTAGE);
                    return Err(self.hung(pid, busy_for, "an operation").await);
                }
                Some(_) => {}
                None if began.elapsed() < IDLE_HOLDER_LIMIT => {}
                None => {
                    let age = holder.map_or_else(String::new, |holder| {
                        let start = BootTime::from_boot(Duration::from_millis(holder.start));
                        let age = BootTime::now().since(start).as_secs();
                        format!(": its child (pid {}) has held the lock for {age} s and is idle", holder.pid)
                    });
                    return Err(Finding::new(Cause::CouldNotRun, format!("probed by the running agent{age}")));
                }
            }
            sleep(LOCK_RETRY).await;
        }
    }

    /// Starts the child: with a socket and the lock file, and nothing else of this process.
    async fn start_worker(&self, lock_file: File) -> io::Result<Worker> {
        let (ours, its) = BlockingStream::pair()?;
        ours.set_nonblocking(true)?;
        let answers = BufReader::new(UnixStream::from_std(ours)?).lines();
        let task = Task {
            mount: self.config.path.clone(),
            instance: self.context.instance.clone().into(),
            boot: self.context.boot.clone(),
            read_only: self.config.read_only,
            heir: None,
        };
        let mut command = Command::new(&self.program);
        command
            .arg0("dr-agent")
            .arg(CHILD_COMMAND)
            .args(task.arguments())
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(OwnedFd::from(its))
            .stdout(lock_file)
            .stderr(Stdio::null())
            .kill_on_drop(true);
        // Blocking: a new process is there only when its file was read.
        let process = LANE.run(move || command.spawn()).await??;
        let pid = process.id().unwrap_or_default();
        Ok(Worker { process, pid, answers, busy_since: None })
    }

    /// One request and its answers. The error is one of the conversation, not of the mount.
    async fn operate(&mut self, stages: &mut Stages) -> io::Result<Result<(), Finding>> {
        let Some(worker) = &mut self.worker else { return Err(io::ErrorKind::NotConnected.into()) };
        worker.busy_since = Some(BootTime::now());
        worker.answers.get_mut().write_all(b"\n").await?;
        let mut step = None;
        loop {
            let line = worker.answers.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let result = match serde_json::from_str(&line)? {
                Answer::Step(next) => {
                    stages.enter(next.name());
                    step = Some(next);
                    continue;
                }
                Answer::Done(micros) => {
                    let (took, limit) = (Duration::from_micros(micros), self.config.latency_limit);
                    if took > limit {
                        let detail = format!("it took {:.3} s, the limit is {limit:?}", took.as_secs_f64());
                        Err(Finding::new(Cause::EfsSlow, detail))
                    } else {
                        Ok(())
                    }
                }
                Answer::Failed(failure) => Err(finding(step, failure)),
            };
            worker.busy_since = None;
            return Ok(result);
        }
    }

    /// Kills the worker without waiting for it.
    fn kill_worker(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            // It can only fail because it has ended already.
            drop(worker.process.start_kill());
            self.killed = Some(worker.process);
        }
    }

    /// What a hang of `pid` means, after a look at the server. Takes less than a second.
    async fn hung(&mut self, pid: u32, age: Duration, what: &str) -> Finding {
        self.hung = Some((pid, age));
        let Some(mount) = &self.mount else { return Finding::new(Cause::EfsHung, format!("{what} hangs")) };
        let view = self.vantage.look(mount).await;
        self.target_accepts = view.target_accepts;
        let detail = format!("{what} (pid {pid}) has not returned for {:.1} s; {}", age.as_secs_f64(), view.words);
        Finding::new(view.cause, detail)
    }
}

impl Probe for Efs {
    async fn attempt(&mut self, stages: &mut Stages) -> Outcome {
        match self.probe(stages).await {
            Ok(()) => Outcome::Pass,
            Err(finding) => Outcome::Fail(finding),
        }
    }

    async fn overdue(&mut self, stages: &Stages) -> Finding {
        let busy = self.worker.as_ref().and_then(|worker| Some((worker.pid, worker.busy_since?)));
        self.kill_worker();
        let stage = stages.current().unwrap_or("start");
        if let (Some(step), Some((pid, since))) = (Step::named(stage), busy) {
            return self.hung(pid, BootTime::now().since(since), step.name()).await;
        }
        // Somebody else's child, in an operation that began after this attempt did or is as old as it.
        if let (STAGE_LOCK | STAGE_VANTAGE, Some(holder)) = (stage, self.holder.take())
            && let Some(age) = holder.busy_for(BootTime::now())
        {
            return self.hung(holder.pid, age, "an operation").await;
        }
        Finding::new(Cause::CouldNotRun, format!("no answer from its child in time (stage {stage})"))
    }

    fn facts(&self) -> Facts {
        let mount = self.mount.as_ref();
        Facts::Efs(EfsFacts {
            source: mount.map(|mount| mount.source.clone()).unwrap_or_default(),
            fs_type: mount.map(|mount| mount.fs_type.clone()).unwrap_or_default(),
            read_only: mount.is_some_and(|mount| mount.read_only),
            hung_child: self.hung.map(|(pid, _)| pid),
            hung_seconds: self.hung.map(|(_, age)| age.as_secs()),
            target_accepts: self.target_accepts,
        })
    }
}

fn could_not_run(what: &str, error: &io::Error) -> Finding {
    Finding::new(Cause::CouldNotRun, format!("{what}: {error}"))
}

/// What a failure in a step of the child means.
fn finding(step: Option<Step>, failure: Failure) -> Finding {
    let name = step.map_or("start", Step::name);
    match failure {
        Failure::Mismatch => Finding::new(Cause::EfsIoError, format!("{name}: the canary read back is another one")),
        Failure::Errno(number) => {
            let error = io::Error::from_raw_os_error(number);
            Finding::new(cause(step, Errno::from_raw_os_error(number)), format!("{name}: {error}"))
        }
    }
}

fn cause(step: Option<Step>, error: Errno) -> Cause {
    match error {
        Errno::STALE => Cause::EfsStaleHandle,
        Errno::ROFS => Cause::EfsReadOnly,
        Errno::ACCESS | Errno::PERM if step == Some(Step::Mkdir) => Cause::EfsNoDirectory,
        Errno::ACCESS | Errno::PERM => Cause::EfsNoPermission,
        Errno::DQUOT | Errno::NOSPC => Cause::EfsQuota,
        // Not a directory, or a symbolic link.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP if matches!(step, Some(Step::Directory | Step::Mkdir)) => {
            Cause::EfsNoDirectory
        }
        // What NFS and FUSE answer when they have lost the server, or it has lost the data.
        Errno::IO
        | Errno::REMOTEIO
        | Errno::NOTCONN
        | Errno::CONNABORTED
        | Errno::CONNREFUSED
        | Errno::CONNRESET
        | Errno::TIMEDOUT
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::SHUTDOWN
        | Errno::PIPE
        | Errno::PROTO
        | Errno::BADMSG
        | Errno::NODEV
        | Errno::UCLEAN => Cause::EfsIoError,
        _ => Cause::CouldNotRun,
    }
}
