//! host: space, inodes and writability of local file systems; memory and the pressure on memory and I/O.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, StatVfs, StatVfsMountFlags, StatxFlags, statvfs, statx};
use rustix::io::Errno;
use sysinfo::{MemoryRefreshKind, System};

use crate::config::HostProbe;
use crate::health::cause::Cause;
use crate::observation::{DiskFacts, Facts, Finding, HostFacts, Outcome, Stages};
use crate::probes::blocking::Lane;
use crate::probes::{Probe, worst};

/// One look at a time in this process, however often the probe is built anew.
static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// The path that the look in progress is at.
static LOOKING_AT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The probe.
#[derive(Debug)]
pub struct Host {
    probe: HostProbe,
    facts: Option<HostFacts>,
}

impl Host {
    #[must_use]
    pub fn new(probe: &HostProbe) -> Self {
        Self { probe: probe.clone(), facts: None }
    }
}

impl Probe for Host {
    async fn attempt(&mut self, stages: &mut Stages) -> Outcome {
        self.facts = None;
        stages.enter("look");
        let probe = self.probe.clone();
        match LANE.run(move || look(&probe)).await {
            Ok((facts, findings)) => {
                self.facts = Some(facts);
                worst(findings)
            }
            Err(error) => Outcome::Fail(Finding::new(Cause::CouldNotRun, error.to_string())),
        }
    }

    async fn overdue(&mut self, _stages: &Stages) -> Finding {
        let at = looking_at(|at| at.clone());
        let what = at.map_or_else(|| "this machine".to_owned(), |path| format!("`{}`", path.display()));
        Finding::new(Cause::CouldNotRun, format!("looking at {what} hangs"))
    }

    fn facts(&self) -> Facts {
        self.facts.clone().map_or(Facts::None, Facts::Host)
    }
}

fn looking_at<T>(with: impl FnOnce(&mut Option<PathBuf>) -> T) -> T {
    with(&mut LOOKING_AT.lock().unwrap_or_else(PoisonError::into_inner))
}

/// All of it, blocking.
fn look(probe: &HostProbe) -> (HostFacts, Vec<Finding>) {
    let mut facts = HostFacts::default();
    let mut findings = Vec::new();
    for path in &probe.paths {
        looking_at(|at| *at = Some(path.clone()));
        match look_at_disk(path, probe, &mut findings) {
            Ok(disk) => facts.disks.push(disk),
            Err(error) => findings.push(Finding::new(Cause::CouldNotRun, format!("`{}`: {error}", path.display()))),
        }
    }
    looking_at(|at| *at = None);
    if let Ok(mut system) = System::new() {
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        facts.memory_available = system.available_memory();
        facts.memory_total = system.total_memory();
    }
    facts.memory_pressure = pressure("/proc/pressure/memory");
    facts.io_pressure = pressure("/proc/pressure/io");
    let limit = probe.pressure_percent;
    for (cause, what, share) in
        [(Cause::MemoryPressure, "memory", facts.memory_pressure), (Cause::IoPressure, "I/O", facts.io_pressure)]
    {
        if let Some(share) = share.filter(|&share| share > limit) {
            let detail = format!("tasks waited for {what} in {share:.0} % of the last 60 s, the limit is {limit} %");
            findings.push(Finding::new(cause, detail));
        }
    }
    (facts, findings)
}

fn look_at_disk(path: &Path, probe: &HostProbe, findings: &mut Vec<Finding>) -> io::Result<DiskFacts> {
    let stat = statvfs(path)?;
    let is_flagged = stat.f_flag.contains(StatVfsMountFlags::RDONLY);
    let write = try_to_write(path);
    let disk = DiskFacts {
        path: path.display().to_string(),
        free_percent: free_space(&stat),
        free_inodes_percent: free_inodes(&stat),
        read_only: if is_flagged {
            // Our view may be narrower than the file system is: the unit's sandbox mounts some paths read-only.
            file_system_is_read_only(path) == Some(true)
        } else {
            // ext4 refuses writes after an error without changing any flag.
            matches!(write, Err(Errno::ROFS))
        },
    };
    let mut found = |cause, what: String| findings.push(Finding::new(cause, format!("`{}`: {what}", path.display())));
    if disk.read_only {
        found(Cause::DiskReadOnly, "read-only".to_owned());
        return Ok(disk);
    }
    match write {
        Err(Errno::IO) => found(Cause::DiskReadOnly, format!("cannot be written: {}", Errno::IO)),
        Err(Errno::NOSPC) if disk.free_inodes_percent.is_some_and(|free| free < probe.full_percent) => {}
        Err(Errno::NOSPC) => found(Cause::DiskFull, format!("cannot be written: {}", Errno::NOSPC)),
        Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(error.into()),
        // Whatever else it is (no right, a quota of the agent's own), it does not make the disk bad.
        _ => {}
    }
    for (free, what, full) in
        [(Some(disk.free_percent), "space", Cause::DiskFull), (disk.free_inodes_percent, "inodes", Cause::DiskNoInodes)]
    {
        match free {
            Some(free) if free < probe.full_percent => found(full, format!("{free:.1} % of {what} free")),
            Some(free) if free < probe.low_percent => {
                found(Cause::DiskNearlyFull, format!("{free:.1} % of {what} free"));
            }
            _ => {}
        }
    }
    Ok(disk)
}

/// The share of space that a process without privileges can still use, as `df` counts it.
fn free_space(stat: &StatVfs) -> f64 {
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    // A file system without blocks of its own is not full.
    share(stat.f_bavail, used.saturating_add(stat.f_bavail)).unwrap_or(100.0)
}

/// `None` where inodes are not counted, as in btrfs.
fn free_inodes(stat: &StatVfs) -> Option<f64> {
    share(stat.f_favail, stat.f_files)
}

#[allow(clippy::cast_precision_loss, reason = "a share, shown with one decimal")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

/// Writes a byte to a file without a name, which is gone when it is closed or the agent is killed. Where the agent may
/// not write, or which is no directory, nothing is tried.
fn try_to_write(path: &Path) -> Result<(), Errno> {
    if !path.is_dir() {
        return Ok(());
    }
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    tempfile::tempfile_in(path).map_err(errno)?.write_all(b"?").map_err(errno)
}

/// Whether the file system itself is read-only, and not only the way in which it is mounted here. `None` when
/// `/proc/self/mountinfo` does not tell.
fn file_system_is_read_only(path: &Path) -> Option<bool> {
    let id = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?.stx_mnt_id.to_string();
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = table.lines().find(|line| line.split(' ').next() == Some(&id))?;
    let superblock_options = mount.rsplit(' ').next()?;
    Some(superblock_options.split(',').any(|option| option == "ro"))
}

/// The `some avg60` share of a pressure file; `None` where the kernel does not account for it.
fn pressure(file: &str) -> Option<f64> {
    parse_pressure(&fs::read_to_string(file).ok()?)
}

fn parse_pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("avg60="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat() -> StatVfs {
        let mut stat = statvfs("/").unwrap();
        (stat.f_blocks, stat.f_bfree, stat.f_bavail) = (1000, 150, 100);
        (stat.f_files, stat.f_ffree, stat.f_favail) = (400, 100, 100);
        stat
    }

    #[test]
    fn shares_are_what_the_unprivileged_can_use() {
        let stat = stat();
        assert!((free_space(&stat) - 100.0 * 100.0 / 950.0).abs() < 1e-9);
        assert_eq!(free_inodes(&stat), Some(25.0));
    }

    #[test]
    fn a_file_system_that_counts_nothing_is_not_full() {
        let mut stat = stat();
        (stat.f_blocks, stat.f_bfree, stat.f_bavail) = (0, 0, 0);
        (stat.f_files, stat.f_ffree, stat.f_favail) = (0, 0, 0);
        assert!((free_space(&stat) - 100.0).abs() < 1e-9);
        assert_eq!(free_inodes(&stat), None);
    }

    #[test]
    fn pressure_is_some_over_60_seconds() {
        let text = "some avg10=0.00 avg60=12.50 avg300=3.00 total=9\nfull avg10=0.00 avg60=99.00 avg300=0.00 total=1\n";
        assert_eq!(parse_pressure(text), Some(12.5));
        assert_eq!(parse_pressure("cpu: not supported\n"), None);
    }
}
