//! The stand-in for EFS: a mount of `tests/hangfs.py`, which hangs or fails when told to.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{Process, eventually};

/// A mounted file system; unmounted when the test ends, and whoever still waits in it is released.
#[derive(Debug)]
pub struct HangFs {
    daemon: Option<Process>,
    mount: PathBuf,
    control: PathBuf,
    // Removed last.
    _folder: TempDir,
}

/// How to mount it.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// What mountinfo shows as the source.
    pub source: Option<&'a str>,
    pub read_only: bool,
    /// Hangs from the start on.
    pub frozen: bool,
}

impl HangFs {
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    pub fn start_with(options: &Options<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mount, control) = (folder.path().join("mount"), folder.path().join("control"));
        fs::create_dir(&mount).expect("mount point");
        fs::create_dir(&control).expect("control directory");
        let mut this = Self { daemon: None, mount, control, _folder: folder };
        if options.frozen {
            this.freeze();
        }
        this.mount(options);
        this
    }

    /// Mounts it at the same place: also again, and on top of an older one.
    pub fn mount(&mut self, options: &Options<'_>) {
        let before = self.mounts();
        let mut command = Command::new(python());
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hangfs.py")).args([&self.mount, &self.control]);
        command.args(["--source", options.source.unwrap_or("hangfs")]);
        if options.read_only {
            command.arg("--read-only");
        }
        let mut daemon = Process::start(command.stdin(Stdio::null()));
        eventually("the mount", || match daemon.0.try_wait().expect("wait") {
            Some(status) => {
                panic!("tests/hangfs.py ended: {status}, signal {:?}; see its error above", status.signal())
            }
            None if self.mounts() > before => Ok(()),
            None => Err("not in mountinfo"),
        });
        self.daemon = Some(daemon);
    }

    /// Takes the old mount away from its place as it is, and mounts a new one there. The old daemon is returned.
    pub fn replace(&mut self) -> Option<Process> {
        let old = self.daemon.take();
        self.unmount();
        self.mount(&Options::default());
        old
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Where the files are, readable also while it hangs.
    pub fn backing(&self) -> PathBuf {
        self.control.join("data")
    }

    /// From now on every operation hangs, and whoever waits cannot be killed.
    pub fn freeze(&self) {
        self.freeze_operations("");
    }

    /// From now on these operations of FUSE hang (`fsync`, `read`, ...).
    pub fn freeze_operations(&self, names: &str) {
        self.write_control("freeze", names);
    }

    /// Ends both kinds of freezing.
    pub fn thaw(&self) {
        self.remove_control("freeze");
        if let Some(daemon) = &self.daemon {
            daemon.signal("CONT");
        }
    }

    /// From now on every operation hangs, and whoever waits can be killed.
    pub fn stop(&self) {
        self.daemon.as_ref().expect("mounted").signal("STOP");
    }

    /// Lets operations fail: lines of `OPERATION ERRNO`, see `tests/hangfs.py`.
    pub fn fail(&self, lines: &str) {
        self.write_control("errno", lines);
    }

    pub fn stop_failing(&self) {
        self.remove_control("errno");
    }

    /// Every operation takes so many seconds longer.
    pub fn delay(&self, seconds: f64) {
        self.write_control("delay", &seconds.to_string());
    }

    /// Kills the daemon: the mount stays and answers ENOTCONN.
    pub fn kill_daemon(&mut self) {
        self.daemon = None;
    }

    /// Takes the mount away from its place, whoever uses it.
    pub fn unmount(&self) {
        let status = Command::new("umount").arg("-l").arg(&self.mount).status().expect("run umount");
        assert!(status.success(), "umount -l {}", self.mount.display());
    }

    /// Aborts the connection as an administrator would: whoever waits fails, and so does everybody from now on.
    pub fn abort(&self) {
        const CONNECTIONS: &str = "/sys/fs/fuse/connections";
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        if !mountinfo.lines().any(|line| line.contains(CONNECTIONS)) {
            let status =
                Command::new("mount").args(["-t", "fusectl", "none", CONNECTIONS]).status().expect("run mount");
            assert!(status.success(), "mount fusectl");
        }
        let device = mountinfo.lines().rev().find(|line| line.contains(&*self.mount.to_string_lossy()));
        let minor = device.and_then(|line| line.split(' ').nth(2)?.split(':').nth(1)).expect("its line in mountinfo");
        fs::write(format!("{CONNECTIONS}/{minor}/abort"), "1").expect("abort");
    }

    fn mounts(&self) -> usize {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let path = self.mount.to_string_lossy();
        mountinfo.lines().filter(|line| line.split(' ').nth(4) == Some(&*path)).count()
    }

    fn write_control(&self, name: &str, text: &str) {
        // Renamed, so that the daemon never reads half of it.
        let new = self.control.join("new");
        fs::write(&new, text).expect("write control file");
        fs::rename(new, self.control.join(name)).expect("rename control file");
    }

    fn remove_control(&self, name: &str) {
        drop(fs::remove_file(self.control.join(name)));
    }
}

impl Drop for HangFs {
    fn drop(&mut self) {
        // The daemon's end closes the connection, and that ends every wait in it.
        self.daemon = None;
        for _ in 0..self.mounts() {
            drop(Command::new("umount").arg("-l").arg(&self.mount).status());
        }
    }
}

/// The Python that has fusepy, as `tests/setup` makes it.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/venv/bin/python");
    assert!(python.exists(), "{} is missing: run `tests/setup`", python.display());
    assert!(Path::new("/dev/fuse").exists(), "/dev/fuse is missing: the kernel has no FUSE");
    python
}

/// The processes that have all of `texts` among their arguments, with their states.
pub fn processes_with(texts: &[&str]) -> Vec<(u32, char)> {
    let has_all = |pid: &u32| {
        let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let arguments: Vec<_> = command.split(|&byte| byte == 0).collect();
        texts.iter().all(|text| arguments.contains(&text.as_bytes()))
    };
    pids().filter(has_all).filter_map(|pid| Some((pid, state(pid)?))).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The children of a process, with their states (`Z`: not reaped).
pub fn children_of(parent: u32) -> Vec<(u32, char)> {
    pids()
        .filter(|pid| {
            let fields = fields(Path::new(&format!("/proc/{pid}/stat")));
            fields.is_some_and(|fields| fields[1] == parent.to_string())
        })
        .filter_map(|pid| Some((pid, state(pid)?)))
        .collect()
}

/// The letter of the state of a process, if there is one.
pub fn state(pid: u32) -> Option<char> {
    state_in(Path::new(&format!("/proc/{pid}/stat")))
}

pub(super) fn state_in(stat: &Path) -> Option<char> {
    fields(stat)?[0].chars().next()
}

/// The fields of a `stat` file in /proc from the state on.
fn fields(stat: &Path) -> Option<Vec<String>> {
    let stat = fs::read_to_string(stat).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}
