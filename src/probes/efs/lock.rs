//! The lock file by which at most one child probes the mount, whoever started it, and what its holder says of itself.
//!
//! The lock is on the open file description that the child has as its standard output, so it lasts exactly as long as
//! the child: also when the agent that started it is gone and the child is stuck in the kernel.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::clock::BootTime;

/// The line is always this long, padded, so that one write replaces it and needs no new space on a full disk.
const LINE_LENGTH: usize = 192;

/// What the holder writes: when it starts, and before and after each operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) pid: u32,
    /// Boot clock, milliseconds.
    pub(super) start: u64,
    /// The boot that `start` and `busy_since` count from.
    pub(super) boot: String,
    /// Since when it has been in its present operation; `None` between two.
    pub(super) busy_since: Option<u64>,
}

impl Holder {
    /// How long it has been in its operation.
    pub(super) fn busy_for(&self, now: BootTime) -> Option<Duration> {
        self.busy_since.map(|since| now.since(BootTime::from_boot(Duration::from_millis(since))))
    }

    /// Replaces the line in the lock file that `file` is.
    pub(super) fn write(&self, file: impl AsFd) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.resize(LINE_LENGTH.max(line.len() + 1), b' ');
        if let Some(end) = line.last_mut() {
            *end = b'\n';
        }
        let written = rustix::io::pwrite(file, &line, 0)?;
        if written == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The holder's line. `None` if it has not written one yet (in this boot), or is just writing it.
    fn read(file: &File, boot: &str) -> Option<Self> {
        let mut buffer = [0; 2 * LINE_LENGTH];
        let length = file.read_at(&mut buffer, 0).ok()?;
        let holder: Self = serde_json::from_slice(buffer.get(..length)?).ok()?;
        (holder.boot == boot).then_some(holder)
    }
}

/// Now, as the line has it.
pub(super) fn milliseconds(at: BootTime) -> u64 {
    at.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
}

/// Takes the lock and gives the file that is locked, or what whoever has it says of itself. Blocking: the disk with the
/// file may hang.
pub(super) fn take(path: &Path, boot: &str) -> io::Result<Result<File, Option<Holder>>> {
    let file = open(path)?;
    Ok(if try_take(&file)? { Ok(file) } else { Err(Holder::read(&file, boot)) })
}

/// Opens the lock file, without taking the lock. When root is the first to need it (`dr-agent check` before the agent ever
/// ran), the file goes to whom the state directory belongs to, or the agent could never take the lock.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let owner = path.parent().and_then(|dir| dir.metadata().ok());
    if let Some(owner) = owner.filter(|_| geteuid().is_root()) {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(file)
}

/// Takes the lock if nobody has it, and then blanks what the last holder wrote: nobody may take that process id for the
/// new holder's. Not truncated, because then a full disk could refuse the next line.
fn try_take(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => file.write_all_at(&[b' '; LINE_LENGTH], 0).map(|()| true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(busy_since: Option<u64>) -> Holder {
        Holder { pid: 4_194_304, start: u64::MAX, boot: "c9f66c0f-0d6c-4a4b-9b2c-0a2b9d1f7e55".into(), busy_since }
    }

    #[test]
    fn what_the_holder_writes_is_what_others_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("efs.lock");
        let file = open(&path).unwrap();
        assert!(try_take(&file).unwrap());
        assert_eq!(Holder::read(&file, "b"), None, "nothing is written yet");
        holder(Some(1)).write(&file).unwrap();
        assert!(try_take(&file).unwrap());
        assert_eq!(Holder::read(&file, &holder(None).boot), None, "the last holder's word is gone");
        for busy_since in [Some(u64::MAX), None] {
            let written = holder(busy_since);
            written.write(&file).unwrap();
            assert_eq!(file.metadata().unwrap().len(), LINE_LENGTH as u64);
            let other = open(&path).unwrap();
            assert!(!try_take(&other).unwrap());
            assert_eq!(Holder::read(&other, &written.boot), Some(written));
            assert_eq!(Holder::read(&other, "another boot"), None);
        }
    }

    #[test]
    fn the_lock_lasts_as_long_as_its_last_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("efs.lock");
        let file = open(&path).unwrap();
        assert!(try_take(&file).unwrap());
        let handed_on = file.try_clone().unwrap();
        drop(file);
        assert!(!try_take(&open(&path).unwrap()).unwrap());
        drop(handed_on);
        assert!(try_take(&open(&path).unwrap()).unwrap());
    }

    #[test]
    fn busy_is_counted_from_the_boot_clock() {
        let now = BootTime::from_boot(Duration::from_secs(100));
        assert_eq!(holder(Some(97_500)).busy_for(now), Some(Duration::from_millis(2_500)));
        assert_eq!(holder(None).busy_for(now), None);
    }

    #[test]
    fn a_lock_that_root_made_is_the_state_directorys_owners() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(848), Some(848)).unwrap();
        let path = dir.path().join("efs.lock");
        drop(open(&path).unwrap());
        let found = path.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (848, 848));
    }
}
