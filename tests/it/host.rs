use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dr_agent::config::HostProbe;
use dr_agent::health::cause::Cause;
use dr_agent::health::component::Schedule;
use dr_agent::observation::{Component, Facts, Finding, HostFacts, Observation, Outcome};
use dr_agent::probes::host::Host;
use dr_agent::probes::observe;
use tempfile::TempDir;

use crate::support::hangfs::HangFs;

const LONG: Duration = Duration::from_secs(20);

fn probe(paths: &[&Path]) -> HostProbe {
    HostProbe {
        schedule: Schedule {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            fast_interval: Some(Duration::from_secs(2)),
            fall: 2,
            rise: 2,
        },
        paths: paths.iter().map(|&path| path.to_owned()).collect(),
        low_percent: 0.0,
        full_percent: 0.0,
        pressure_percent: 100.0,
    }
}

async fn look(probe: &HostProbe) -> Observation {
    observe(&mut Host::new(probe), Component::Host, LONG).await
}

fn cause(observation: &Observation) -> Option<Cause> {
    match &observation.outcome {
        Outcome::Pass => None,
        Outcome::Fail(finding) => Some(finding.cause),
    }
}

fn detail(observation: &Observation) -> &str {
    match &observation.outcome {
        Outcome::Pass => "",
        Outcome::Fail(finding) => &finding.detail,
    }
}

fn facts(observation: &Observation) -> &HostFacts {
    match &observation.facts {
        Facts::Host(facts) => facts,
        other => panic!("{other:?}"),
    }
}

/// A small file system of the test's own.
struct Mount(TempDir);

impl Mount {
    fn tmpfs(options: &str) -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        mount.mount(&["-t", "tmpfs", "-o", options, "tmpfs"]);
        mount
    }

    fn bind(of: &Path) -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        mount.mount(&["--bind", &of.display().to_string()]);
        mount
    }

    fn mount(&self, arguments: &[&str]) {
        let status = Command::new("mount").args(arguments).arg(self.0.path()).status().expect("run `mount`");
        assert!(status.success(), "`mount {arguments:?}` failed; this test needs root");
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).status());
    }
}

#[tokio::test]
async fn a_calm_machine_passes_with_its_numbers_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let seen = look(&probe(&[folder.path()])).await;
    assert_eq!(seen.outcome, Outcome::Pass);
    let facts = facts(&seen);
    assert!(facts.memory_total > 0 && facts.memory_available <= facts.memory_total, "{facts:?}");
    assert_eq!(facts.memory_pressure.is_some(), Path::new("/proc/pressure/memory").exists());
    assert_eq!(facts.disks.len(), 1);
    assert!((0.0..=100.0).contains(&facts.disks[0].free_percent), "{facts:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_full_disk_is_a_fault_and_a_nearly_full_one_a_limit() {
    let disk = Mount::tmpfs("size=256k");
    let mut wanted = probe(&[disk.path()]);
    (wanted.low_percent, wanted.full_percent) = (30.0, 10.0);
    assert_eq!(cause(&look(&wanted).await), None);
    fs::write(disk.path().join("a"), vec![0; 200 * 1024]).unwrap();
    let seen = look(&wanted).await;
    assert_eq!(cause(&seen), Some(Cause::DiskNearlyFull), "{seen:?}");
    assert!(detail(&seen).contains("% of space free"), "{seen:?}");
    fs::write(disk.path().join("b"), vec![0; 40 * 1024]).unwrap();
    assert_eq!(cause(&look(&wanted).await), Some(Cause::DiskFull));
    fs::remove_file(disk.path().join("a")).unwrap();
    assert_eq!(cause(&look(&wanted).await), None);
}

#[tokio::test]
async fn a_disk_that_refuses_the_byte_is_full_whatever_the_limit_says() {
    let disk = Mount::tmpfs("size=64k");
    drop(fs::write(disk.path().join("a"), vec![0; 128 * 1024]));
    assert_eq!(cause(&look(&probe(&[disk.path()])).await), Some(Cause::DiskFull));
}

#[tokio::test]
async fn a_disk_without_inodes_is_a_fault() {
    let disk = Mount::tmpfs("size=1m,nr_inodes=10");
    let mut wanted = probe(&[disk.path()]);
    wanted.full_percent = 5.0;
    assert_eq!(cause(&look(&wanted).await), None);
    for name in 0..20 {
        drop(fs::write(disk.path().join(name.to_string()), ""));
    }
    assert_eq!(cause(&look(&wanted).await), Some(Cause::DiskNoInodes));
}

#[tokio::test]
async fn a_read_only_disk_is_a_fault_and_a_read_only_view_of_it_is_none() {
    let disk = Mount::tmpfs("size=1m");
    let view = Mount::bind(disk.path());
    view.mount(&["-o", "remount,bind,ro"]);
    let seen = look(&probe(&[disk.path(), view.path()])).await;
    assert_eq!(seen.outcome, Outcome::Pass, "the agent's sandbox looks like this");
    disk.mount(&["-o", "remount,ro"]);
    let seen = look(&probe(&[disk.path()])).await;
    assert_eq!(cause(&seen), Some(Cause::DiskReadOnly));
    assert!(facts(&seen).disks[0].read_only);
    disk.mount(&["-o", "remount,rw"]);
    assert_eq!(look(&probe(&[disk.path()])).await.outcome, Outcome::Pass);
}

#[tokio::test]
async fn a_file_system_that_counts_nothing_and_takes_nothing_is_no_fault() {
    let mut wanted = probe(&[Path::new("/proc")]);
    (wanted.low_percent, wanted.full_percent) = (30.0, 10.0);
    let seen = look(&wanted).await;
    assert_eq!(seen.outcome, Outcome::Pass);
    assert_eq!(facts(&seen).disks[0].free_inodes_percent, None);
}

#[tokio::test]
async fn the_worst_counts_and_all_are_told() {
    let disk = Mount::tmpfs("size=64k");
    drop(fs::write(disk.path().join("a"), vec![0; 128 * 1024]));
    let mut wanted = probe(&[Path::new("/nonexistent"), Path::new("/tmp"), disk.path()]);
    wanted.low_percent = 100.0;
    let seen = look(&wanted).await;
    assert_eq!(cause(&seen), Some(Cause::DiskFull));
    let full = disk.path().display().to_string();
    assert!(detail(&seen).starts_with(&format!("`{full}`")), "{seen:?}");
    assert!(detail(&seen).contains("`/nonexistent`: No such file"), "{seen:?}");
    assert!(detail(&seen).contains("`/tmp`: "), "{seen:?}");
    wanted.paths.pop();
    assert_eq!(cause(&look(&wanted).await), Some(Cause::CouldNotRun), "not known outranks a limit");
    wanted.paths.remove(0);
    assert_eq!(cause(&look(&wanted).await), Some(Cause::DiskNearlyFull));
}

#[tokio::test]
async fn a_disk_that_hangs_holds_one_look_for_ever_and_no_second_one_is_begun() {
    let disk = HangFs::start();
    let path = disk.path().to_owned();
    assert_eq!(look(&probe(&[&path])).await.outcome, Outcome::Pass);
    disk.freeze();
    let hangs = Outcome::Fail(Finding::new(Cause::CouldNotRun, format!("looking at `{}` hangs", path.display())));
    let deadline = Duration::from_secs(1);
    let seen = observe(&mut Host::new(&probe(&[&path])), Component::Host, deadline).await;
    assert_eq!(seen.outcome, hangs);
    // Built anew, and on a disk that is well: still the same look.
    let seen = observe(&mut Host::new(&probe(&[Path::new("/tmp")])), Component::Host, deadline).await;
    assert_eq!(seen.outcome, hangs);
    disk.thaw();
    assert_eq!(look(&probe(&[&path])).await.outcome, Outcome::Pass);
}
