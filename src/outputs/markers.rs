//! Marker files: the held word. While no agent answers, nginx answers from them what the agent said last.
//!
//! A marker is an empty file that stands either in `<state_dir>/public/`, where nginx sees it, or in `<state_dir>/off/`,
//! and setting or clearing it is one rename: that takes no space, so a full disk cannot stop it. `fenced`, the gate, is
//! set and cleared by authority's decision alone; where nothing decides it is read and never written.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::authority::outputs::Gate;
use crate::clock::BootTime;
use crate::health::cause::Cause;
use crate::health::verdict::InstanceState;
use crate::input::Input;
use crate::observation::{Component, Facts, Finding, Observation, Outcome};
use crate::snapshot::Snapshot;
use crate::telemetry::event;

/// How often the files are looked at when nothing changes: the fence comes from outside (nginx sees it at once), and
/// what somebody changed by hand is put right. Every look costs a thread some twenty system calls.
const LOOK: Duration = Duration::from_secs(5);

/// A few renames. A healthy disk takes microseconds.
const LIMIT: Duration = Duration::from_secs(2);

/// Which markers stand in `public/`, or should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Markers {
    /// The gate is closed. `None`: as it stands.
    pub fenced: Option<bool>,
    pub region_closed: bool,
    pub instance_closed: bool,
    pub promoted: bool,
    pub draining: bool,
}

impl Markers {
    /// The markers that hold the agent's word in one boot, by file name.
    #[must_use]
    pub const fn held(self) -> [(&'static str, bool); 4] {
        [
            ("region-closed", self.region_closed),
            ("instance-closed", self.instance_closed),
            ("promoted", self.promoted),
            ("draining", self.draining),
        ]
    }
}

/// The markers that say what the agent says.
#[must_use]
pub fn wanted(snapshot: &Snapshot) -> Markers {
    // While nginx is at fault nginx does not answer, and when it does again the fault is over.
    let by_other_than_nginx = snapshot.instance.reasons.iter().any(|reason| reason.component != Component::Nginx);
    // That ends with the agent.
    let is_rehearsed = snapshot.latches.drill().is_some();
    let closed = by_other_than_nginx && snapshot.instance.state != InstanceState::Starting && !is_rehearsed;
    Markers {
        fenced: match snapshot.authority.as_deref().map(|said| said.gate) {
            Some(Gate::Closed) => Some(true),
            Some(Gate::Open) => Some(false),
            Some(Gate::Keep) | None => None,
        },
        region_closed: snapshot.region_closed && !is_rehearsed,
        // With nobody else to serve, an agent that is gone must not keep the last instance closed. Where there are
        // others that cannot be asked, they are taken to serve. After a restart it is not known yet who else can: then
        // what the marker says stands.
        instance_closed: closed && (snapshot.group.can_serve || snapshot.group.is_deaf || snapshot.instance_resumed),
        promoted: snapshot.promoted,
        draining: snapshot.is_draining(),
    }
}

/// The markers that stand in `public/` now. Reads the disk.
#[must_use]
pub fn resume(state_dir: &Path) -> Markers {
    let public = state_dir.join("public");
    // As nginx tests them.
    let stands = |name: &str| public.join(name).is_file();
    Markers {
        fenced: Some(stands("fenced")),
        region_closed: stands("region-closed"),
        instance_closed: stands("instance-closed"),
        promoted: stands("promoted"),
        draining: stands("draining"),
    }
}

/// Keeps the markers as the snapshots want them and tells the owner when the fence comes or goes, until cancelled.
pub async fn run(
    state_dir: PathBuf,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    inputs: mpsc::Sender<Input>,
    cancelled: CancellationToken,
) {
    let mut writer = Writer { state_dir, running: None, done: None, complained: Vec::new() };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let (ends, due) = tokio::select! {
            () = cancelled.cancelled() => (true, false),
            _ = look.tick() => (false, true),
            // Cancel-safe: a change that was not seen here is seen by the next call.
            changed = snapshots.changed() => (changed.is_err(), false),
        };
        let (wanted, gate_closed) = {
            let snapshot = snapshots.borrow_and_update();
            (wanted(&snapshot), snapshot.gate_closed)
        };
        if due || writer.done != Some(wanted) {
            let input = match writer.apply(wanted).await {
                Ok(fenced) => fenced.filter(|&closed| closed != gate_closed).map(|closed| Input::Gate { closed }),
                Err(finding) => Some(failed(finding)),
            };
            if let Some(input) = input {
                // If the owner's queue is full, it is said again with the next look.
                drop(inputs.try_send(input));
            }
        }
        if ends {
            return;
        }
    }
}

/// What the owner is told about a marker that cannot be set: the same as if the wiring probe had seen it, but at once.
fn failed(finding: Finding) -> Input {
    let observation = Observation {
        component: Component::Wiring,
        began: BootTime::now(),
        took: Duration::ZERO,
        outcome: Outcome::Fail(finding),
        stages: Vec::new(),
        facts: Facts::None,
    };
    Input::Observed(observation, oneshot::channel().0)
}

/// Does the file operations off the runtime, one batch at a time: a hanging disk costs one thread.
struct Writer {
    state_dir: PathBuf,
    running: Option<JoinHandle<Done>>,
    /// What was last brought about.
    done: Option<Markers>,
    /// The markers that failed and were reported.
    complained: Vec<&'static str>,
}

/// What came of one batch.
struct Done {
    fenced: bool,
    failures: Vec<Failure>,
}

struct Failure {
    marker: &'static str,
    error: io::Error,
    /// The marker is not as it should be; else it only could not be prepared.
    wrong: bool,
}

impl Writer {
    /// Brings the files in step and says whether `fenced` stands; `None` if the disk does not say, but nothing had to
    /// be changed.
    async fn apply(&mut self, wanted: Markers) -> Result<Option<bool>, Finding> {
        if let Some(running) = &mut self.running {
            if timeout(LIMIT, running).await.is_err() {
                return self.hangs(wanted);
            }
            // It did what was wanted once.
            self.running = None;
        }
        let dir = self.state_dir.clone();
        let mut running = spawn_blocking(move || apply(&dir, wanted));
        let Done { fenced, failures } = match timeout(LIMIT, &mut running).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => return Err(Finding::new(Cause::WiringMarker, error.to_string())),
            Err(_) => {
                self.running = Some(running);
                return self.hangs(wanted);
            }
        };
        for Failure { marker, error, .. } in &failures {
            if !self.complained.contains(marker) {
                event::markers_failed(marker, error);
            }
        }
        self.complained = failures.iter().map(|failure| failure.marker).collect();
        if let Some(Failure { marker, error, .. }) = failures.iter().find(|failure| failure.wrong) {
            self.done = None;
            return Err(Finding::new(Cause::WiringMarker, format!("`{marker}`: {error}")));
        }
        self.done = Some(wanted);
        Ok(Some(fenced))
    }

    fn hangs(&mut self, wanted: Markers) -> Result<Option<bool>, Finding> {
        let detail = format!("`{}` has not answered for {} s", self.state_dir.display(), LIMIT.as_secs());
        if self.complained.is_empty() {
            event::markers_failed("public", &io::Error::new(io::ErrorKind::TimedOut, detail.clone()));
            self.complained.push("public");
        }
        if self.done == Some(wanted) { Ok(None) } else { Err(Finding::new(Cause::WiringMarker, detail)) }
    }
}

fn apply(state_dir: &Path, wanted: Markers) -> Done {
    let (public, off) = (state_dir.join("public"), state_dir.join("off"));
    let made = [&public, &off].into_iter().try_for_each(|dir| make_dir(dir));
    let fence = wanted.fenced.map(|is_set| ("fenced", is_set));
    let failures = wanted.held().into_iter().chain(fence).filter_map(|(marker, is_set)| {
        let (on, off) = (public.join(marker), off.join(marker));
        let result = place(&on, &off, is_set);
        let wrong = on.is_file() != is_set;
        result.err().map(|error| Failure { marker, error, wrong })
    });
    let mut failures: Vec<_> = failures.collect();
    if let (Err(error), []) = (made, &failures[..]) {
        failures.push(Failure { marker: "public", error, wrong: false });
    }
    Done { fenced: public.join("fenced").is_file(), failures }
}

/// nginx's user must be able to look into it, whatever the umask is.
fn make_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts a marker where it belongs, and makes it where it is nowhere.
fn place(on: &Path, off: &Path, is_set: bool) -> io::Result<()> {
    let (from, to) = if is_set { (off, on) } else { (on, off) };
    if to.is_file() {
        // Both exist only if somebody made one by hand.
        return match fs::remove_file(from) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::create(to).map(drop),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn each_marker_stands_in_one_of_two_places() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Markers { region_closed: true, draining: true, ..Markers::default() };
        // The second time finds everything done; the third starts from what somebody broke.
        for _ in 0..3 {
            let done = apply(dir.path(), wanted);
            assert!(done.failures.is_empty() && !done.fenced);
            assert_eq!(names(&dir.path().join("public")), ["draining", "region-closed"]);
            assert_eq!(names(&dir.path().join("off")), ["instance-closed", "promoted"]);
            assert_eq!(resume(dir.path()), Markers { fenced: Some(false), ..wanted });
            fs::rename(dir.path().join("public/draining"), dir.path().join("public/promoted")).unwrap();
            fs::write(dir.path().join("off/region-closed"), "").unwrap();
        }
        assert!(apply(dir.path(), Markers { fenced: Some(true), ..Markers::default() }).fenced);
        assert!(apply(dir.path(), Markers::default()).fenced, "where nothing decides it stays");
        assert_eq!(names(&dir.path().join("public")), ["fenced"]);
        assert!(!apply(dir.path(), Markers { fenced: Some(false), ..Markers::default() }).fenced);
    }

    #[test]
    fn what_cannot_be_set_is_named_and_what_need_not_be_is_not_wrong() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("public"), "a file where the directory belongs").unwrap();
        let done = apply(dir.path(), Markers { draining: true, ..Markers::default() });
        let wrong: Vec<_> = done.failures.iter().filter(|failure| failure.wrong).map(|f| f.marker).collect();
        assert_eq!(wrong, ["draining"]);
        assert!(apply(dir.path(), Markers::default()).failures.iter().all(|failure| !failure.wrong));
    }
}
