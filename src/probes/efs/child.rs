//! The expendable child: the only process that touches the mount, and the one that may hang.
//!
//! Its standard input is a socket on which each request is an empty line and each answer a line of JSON; its standard
//! output is the locked lock file. It names every step before it takes it, so that whoever waits knows where it hangs.
//! It holds nothing open on the mount between two requests, so it never keeps one from being unmounted.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::lock::{self, Holder};
use super::tidy;
use crate::clock::BootTime;

/// The directory at the root of the mount that holds a canary for each instance.
const DIRECTORY: &str = ".dr-agent";
/// Bytes in a canary.
const CANARY_LENGTH: usize = 64;
/// How often old canaries are looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(3_600);
/// What a badly called command exits with.
const USAGE: u8 = 64;

/// A step of the operation, in which it may fail or hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    Statvfs,
    /// The mount's root and its first entry (read-only).
    List,
    /// The canary's directory.
    Directory,
    Mkdir,
    /// The canary, created or truncated.
    Open,
    Write,
    Fsync,
    Close,
    /// The canary again, afresh, for reading.
    Reopen,
    Read,
    /// Canaries of instances that are gone, looked for and removed.
    Tidy,
}

impl Step {
    const ALL: [Self; 11] = [
        Self::Statvfs,
        Self::List,
        Self::Directory,
        Self::Mkdir,
        Self::Open,
        Self::Write,
        Self::Fsync,
        Self::Close,
        Self::Reopen,
        Self::Read,
        Self::Tidy,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Statvfs => "statvfs",
            Self::List => "list",
            Self::Directory => "directory",
            Self::Mkdir => "mkdir",
            Self::Open => "open",
            Self::Write => "write",
            Self::Fsync => "fsync",
            Self::Close => "close",
            Self::Reopen => "reopen",
            Self::Read => "read",
            Self::Tidy => "tidy",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }
}

/// What the child says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    /// This step begins.
    Step(Step),
    /// The operation succeeded, in so many microseconds.
    Done(u64),
    /// The last step named failed.
    Failed(Failure),
}

/// Why a step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Failure {
    /// With this error number of the system.
    Errno(i32),
    /// The canary read back is not the one written.
    Mismatch,
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Errno(error.raw_os_error())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Only an end of file too soon has no number.
        error.raw_os_error().map_or(Self::Mismatch, Self::Errno)
    }
}

/// What the child is to do, as its command line has it: MOUNT, INSTANCE, BOOT, `rw` or `ro`.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) mount: PathBuf,
    /// The canary's file name.
    pub(super) instance: OsString,
    pub(super) boot: String,
    pub(super) read_only: bool,
    /// Who is to have what root makes on the mount: the lock file's owner. Not on the command line.
    pub(super) heir: Option<Heir>,
}

/// A user and a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heir {
    user: Uid,
    group: Gid,
}

impl Heir {
    /// The owner of the lock file, which is the agent's user also where `dr-agent check` runs as root. `None` if that is
    /// who this process is.
    fn of(lock_file: impl AsFd) -> Result<Option<Self>, Errno> {
        let found = rustix::fs::fstat(lock_file)?;
        let (user, group) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
        Ok((geteuid().is_root() && !user.is_root()).then_some(Self { user, group }))
    }

    /// Gives it what `file` is, also if that was opened only as a path. A server that lets nobody do this is obeyed.
    fn inherits(self, file: impl AsFd) -> Result<(), Errno> {
        match rustix::fs::chownat(file, c"", Some(self.user), Some(self.group), AtFlags::EMPTY_PATH) {
            Err(Errno::PERM) => Ok(()),
            other => other,
        }
    }
}

impl Task {
    pub(super) fn arguments(&self) -> [OsString; 4] {
        let mode = if self.read_only { "ro" } else { "rw" };
        [self.mount.clone().into(), self.instance.clone(), self.boot.clone().into(), mode.into()]
    }

    fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        Some(Self {
            mount: args.next()?.into(),
            instance: args.next()?,
            boot: args.next()?.into_string().ok()?,
            read_only: match args.next()?.to_str()? {
                "ro" => true,
                "rw" => false,
                _ => return None,
            },
            heir: None,
        })
    }

    /// The whole operation; `step` is told of each step before it is taken.
    fn operate(&self, canary: &[u8; CANARY_LENGTH], step: &mut impl FnMut(Step)) -> Result<(), Failure> {
        // Nothing here is cached by an NFS client for long: statvfs never is, and an open asks the server.
        step(Step::Statvfs);
        rustix::fs::statvfs(&self.mount)?;
        if self.read_only {
            step(Step::List);
            let Some(entry) = fs::read_dir(&self.mount)?.next() else { return Ok(()) };
            return match entry?.metadata() {
                // The site removed it in between: the file system answers.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error.into()),
                Ok(_) => Ok(()),
            };
        }

        let directory = self.directory(step)?;
        step(Step::Open);
        let mut file = self.open_to_write(&directory)?;
        step(Step::Write);
        file.write_all(canary)?;
        step(Step::Fsync);
        file.sync_all()?;
        step(Step::Close);
        drop(file);
        step(Step::Reopen);
        let mut file = self.open(&directory, OFlags::RDONLY)?;
        step(Step::Read);
        let mut found = [0; CANARY_LENGTH];
        file.read_exact(&mut found)?;
        if found == *canary { Ok(()) } else { Err(Failure::Mismatch) }
    }

    /// Removes what instances that are gone left behind, after an operation that succeeded. A failure is no finding:
    /// the mount works.
    fn tidy(&self, step: &mut impl FnMut(Step)) {
        step(Step::Tidy);
        let directory = self.mount.join(DIRECTORY);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (Ok(directory), Ok(own)) =
            (rustix::fs::open(&directory, flags, Mode::empty()), CString::new(self.instance.as_bytes()))
        else {
            return;
        };
        let _ = tidy::remove_old(directory, &own);
    }

    /// The canary's directory, made if it is not there. A symbolic link is not followed: whoever may write to the
    /// mount must not choose what this process truncates.
    fn directory(&self, step: &mut impl FnMut(Step)) -> Result<OwnedFd, Failure> {
        let path = self.mount.join(DIRECTORY);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::open(&path, OFlags::PATH | flags, Mode::empty());
        step(Step::Directory);
        match open() {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        step(Step::Mkdir);
        let is_ours = match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o770)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        step(Step::Directory);
        let directory = open()?;
        if let Some(heir) = self.heir.filter(|_| is_ours) {
            heir.inherits(&directory)?;
        }
        Ok(directory)
    }

    /// The canary, created or truncated. One that was there already keeps its owner.
    fn open_to_write(&self, directory: &OwnedFd) -> Result<File, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        if let Some(heir) = self.heir {
            match self.open(directory, flags | OFlags::EXCL) {
                Ok(file) => return heir.inherits(&file).map(|()| file),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        self.open(directory, flags)
    }

    fn open(&self, directory: &OwnedFd, flags: OFlags) -> Result<File, Errno> {
        // Not blocking: opening a FIFO that somebody left there must not look like a hung mount.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(directory, Path::new(&self.instance), flags, Mode::from_raw_mode(0o640)).map(File::from)
    }

    /// 64 bytes that no other operation writes.
    fn canary(&self, number: u64) -> [u8; CANARY_LENGTH] {
        let text = format!("{:<36.36} {:010} {number:015}", self.boot, process::id());
        let mut canary = [b' '; CANARY_LENGTH];
        canary.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        canary[CANARY_LENGTH - 1] = b'\n';
        canary
    }
}

/// Runs as the child, with the arguments that follow `efs-child`. Ends when whoever asks is gone.
#[must_use]
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(task) = Task::parse(args) else { return ExitCode::from(USAGE) };
    match serve(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(mut task: Task) -> io::Result<()> {
    // Its death costs nothing: the next attempt starts another. Neither of the two is worth failing for.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let _ = rustix::thread::set_name(c"dr-agent-efs");
    rustix::process::umask(Mode::from_raw_mode(0o007));

    let stdout = io::stdout();
    let lock_file = stdout.as_fd();
    task.heir = Heir::of(lock_file)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut holder = Holder {
        pid: process::id(),
        start: lock::milliseconds(BootTime::now()),
        boot: task.boot.clone(),
        busy_since: None,
    };
    holder.write(lock_file)?;

    let answer = |answer: &Answer| -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        (&socket).write_all(&line)
    };
    // Not at once: `dr-agent check` asks only once and removes nothing.
    let mut tidied = BootTime::now();
    for (number, request) in (0..).zip(BufReader::new(&socket).lines()) {
        request?;
        let began = BootTime::now();
        holder.busy_since = Some(lock::milliseconds(began));
        holder.write(lock_file)?;

        let canary = task.canary(number);
        // That nobody listens any more shows at the next request.
        let mut step = |step| drop(answer(&Answer::Step(step)));
        let stale = Err(Failure::from(Errno::STALE));
        let mut result = task.operate(&canary, &mut step);
        if result == stale {
            // The client has now forgotten the handle: a second try asks for a new one.
            result = task.operate(&canary, &mut step);
        }
        let took = BootTime::now().since(began);
        answer(&match result {
            Ok(()) => Answer::Done(took.as_micros().try_into().unwrap_or(u64::MAX)),
            Err(failure) => Answer::Failed(failure),
        })?;

        // After the answer, which it must not make slow. If it hangs, the next request says where.
        if result.is_ok() && !task.read_only && began.since(tidied) >= TIDY_INTERVAL {
            task.tidy(&mut step);
            tidied = began;
        }
        // After the answer, so that a slow local disk is not taken for the mount.
        holder.busy_since = None;
        holder.write(lock_file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(mount: &Path, read_only: bool) -> Task {
        Task { mount: mount.into(), instance: "i-0abc".into(), boot: "boot".into(), read_only, heir: None }
    }

    fn steps_of(task: &Task) -> (Vec<Step>, Result<(), Failure>) {
        let mut steps = Vec::new();
        let result = task.operate(&task.canary(1), &mut |step| steps.push(step));
        (steps, result)
    }

    #[test]
    fn the_command_line_is_read_as_it_is_written() {
        let task = task(Path::new("/mnt/efs"), true);
        let read = Task::parse(task.arguments().into_iter()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{task:?}"));
        assert!(Task::parse(["/mnt".into(), "i".into(), "b".into(), "rx".into()].into_iter()).is_none());
        assert!(Task::parse(std::iter::empty()).is_none());
    }

    #[test]
    fn steps_are_found_by_their_names() {
        for step in Step::ALL {
            assert_eq!(Step::named(step.name()), Some(step));
            assert_eq!(serde_json::to_value(step).unwrap(), step.name());
        }
        assert_eq!(Step::named("lock"), None);
    }

    #[test]
    fn the_first_operation_makes_the_directory_and_later_ones_do_not() {
        let mount = tempfile::tempdir().unwrap();
        let task = task(mount.path(), false);
        let (steps, result) = steps_of(&task);
        assert_eq!(result, Ok(()));
        let before = [Step::Statvfs, Step::Directory, Step::Mkdir, Step::Directory];
        let after = [Step::Open, Step::Write, Step::Fsync, Step::Close, Step::Reopen, Step::Read];
        assert_eq!(steps, [&before[..], &after[..]].concat());
        assert_eq!(fs::read(mount.path().join(".dr-agent/i-0abc")).unwrap(), task.canary(1));
        let (steps, result) = steps_of(&task);
        assert_eq!(result, Ok(()));
        assert_eq!(steps, [&before[..2], &after[..]].concat());
    }

    #[test]
    fn read_only_writes_nothing() {
        let mount = tempfile::tempdir().unwrap();
        assert_eq!(steps_of(&task(mount.path(), true)), (vec![Step::Statvfs, Step::List], Ok(())));
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_not_followed_and_a_fifo_does_not_block() {
        let elsewhere = tempfile::tempdir().unwrap();
        let mount = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), mount.path().join(".dr-agent")).unwrap();
        let task = task(mount.path(), false);
        let errno = |errno: Errno| Err(Failure::from(errno));
        assert_eq!(steps_of(&task).1, errno(Errno::NOTDIR));
        fs::remove_file(mount.path().join(".dr-agent")).unwrap();

        let directory = mount.path().join(".dr-agent");
        fs::create_dir(&directory).unwrap();
        let victim = elsewhere.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, directory.join("i-0abc")).unwrap();
        assert_eq!(steps_of(&task).1, errno(Errno::LOOP));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");

        fs::remove_file(directory.join("i-0abc")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.join("i-0abc"), Mode::RUSR).unwrap();
        assert_eq!(steps_of(&task).1, errno(Errno::NXIO));
    }

    #[test]
    fn every_canary_is_another_one() {
        let task = task(Path::new("/"), false);
        assert_ne!(task.canary(1), task.canary(2));
        assert!(task.canary(u64::MAX).ends_with(b"\n"));
    }
}
