//! Latches: what a person asked for and the agent remembers. Each is one file in `<state_dir>/latches/`, so that root
//! can always see and clear it; the file is the truth and is read again every [`watch::POLL`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::BootTime;
use crate::state::write_atomically;

pub mod watch;

/// What can be latched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The instance verdict answers 503.
    Drain,
    /// No repair and no replacement of this instance.
    Hold,
    /// A component is taken as failing, to see what follows.
    Drill,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Drain, Self::Hold, Self::Drill];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Hold => "hold",
            Self::Drill => "drill",
        }
    }

    /// The command that clears it.
    #[must_use]
    pub const fn clearing(self) -> &'static str {
        match self {
            Self::Drain => "dr-agent undrain",
            Self::Hold => "dr-agent hold --release",
            Self::Drill => "dr-agent drill --end",
        }
    }
}

/// Who asked for it, when, why, until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latch {
    pub kind: Kind,
    pub reason: String,
    /// User name, or `uid N`.
    pub by: String,
    pub at: Timestamp,
    /// `None`: until it is cleared or the machine reboots.
    pub until: Option<Timestamp>,
    /// The same on the boot clock, which nobody can set: this is what ends it. A file written by hand may leave it out
    /// and ends by the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_boot: Option<BootTime>,
    /// The boot it was set in. It ends with that boot.
    pub boot: String,
    /// Of a drill: what is taken as failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
}

/// What a drill takes as failing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// By name.
    pub component: String,
    /// As if no member passed either.
    pub shared: bool,
}

impl Latch {
    fn is_over(&self, now: BootTime, at: Timestamp) -> bool {
        match self.until_boot {
            Some(until) => until <= now,
            None => self.until.is_some_and(|until| until <= at),
        }
    }
}

/// The latches in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latches(Vec<Latch>);

impl Latches {
    #[must_use]
    pub fn get(&self, kind: Kind) -> Option<&Latch> {
        self.0.iter().find(|latch| latch.kind == kind)
    }

    /// What is taken as failing, and why.
    #[must_use]
    pub fn drill(&self) -> Option<(&Drill, &str)> {
        let latch = self.get(Kind::Drill)?;
        Some((latch.drill.as_ref()?, &latch.reason))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Latch> {
        self.0.iter()
    }
}

/// The file of a latch.
#[must_use]
pub fn path(state_dir: &Path, kind: Kind) -> PathBuf {
    state_dir.join("latches").join(format!("{}.json", kind.name()))
}

/// A latch file that is there and cannot be used.
#[derive(Debug, Error)]
#[error("cannot use the latch file `{path}`")]
struct Unusable {
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// The latches in force at `now`, which is `at` for people, in this boot. A file that cannot be read or parsed is reported and leaves its latch as
/// it was `before`: running out of descriptors must not end a drain.
#[must_use]
pub fn read(state_dir: &Path, boot: &str, now: BootTime, at: Timestamp, before: &Latches) -> (Latches, Vec<io::Error>) {
    let mut latches = Latches::default();
    let mut errors = Vec::new();
    for kind in Kind::ALL {
        let path = path(state_dir, kind);
        let latch = match read_one(&path, kind) {
            Ok(latch) => latch,
            Err(error) => {
                errors.push(io::Error::new(error.kind(), Unusable { path, error }));
                before.get(kind).cloned()
            }
        };
        latches.0.extend(latch.filter(|latch| latch.boot == boot && !latch.is_over(now, at)));
    }
    (latches, errors)
}

fn read_one(path: &Path, kind: Kind) -> io::Result<Option<Latch>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let latch: Latch = serde_json::from_slice(&text)?;
    if latch.kind != kind {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it says {}", latch.kind.name())));
    }
    Ok(Some(latch))
}

/// Sets a latch.
///
/// # Errors
/// When the file cannot be written.
pub fn set(state_dir: &Path, latch: &Latch) -> io::Result<()> {
    let path = path(state_dir, latch.kind);
    fs::create_dir_all(path.parent().unwrap_or(state_dir))?;
    write_atomically(&path, &serde_json::to_vec_pretty(latch)?, 0o644)
}

/// Clears a latch; it is no error if it was not set.
///
/// # Errors
/// When the file cannot be removed.
pub fn clear(state_dir: &Path, kind: Kind) -> io::Result<()> {
    match fs::remove_file(path(state_dir, kind)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    const BOOT: &str = "11111111-2222-3333-4444-555555555555";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// The same second on the boot clock.
    fn up(second: i64) -> BootTime {
        BootTime::from_boot(Duration::from_secs((1_000_000 + second).try_into().unwrap()))
    }

    fn latch(kind: Kind, until: Option<i64>) -> Latch {
        let (reason, by) = ("disk swap".to_owned(), "uid 0".to_owned());
        Latch {
            kind,
            reason,
            by,
            at: at(0),
            until: until.map(at),
            until_boot: until.map(up),
            boot: BOOT.to_owned(),
            drill: None,
        }
    }

    /// The latches at a second, without any before.
    fn fresh(dir: &Path, second: i64) -> (Vec<Latch>, usize) {
        let (latches, errors) = read(dir, BOOT, up(second), at(second), &Latches::default());
        (latches.iter().cloned().collect(), errors.len())
    }

    #[test]
    fn a_latch_is_set_until_it_is_cleared_and_clearing_twice_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(fresh(dir.path(), 0), (vec![], 0));
        clear(dir.path(), Kind::Drain).unwrap();
        set(dir.path(), &latch(Kind::Drain, None)).unwrap();
        set(dir.path(), &latch(Kind::Hold, None)).unwrap();
        assert_eq!(fresh(dir.path(), 1_000_000), (vec![latch(Kind::Drain, None), latch(Kind::Hold, None)], 0));
        let mode = fs::metadata(path(dir.path(), Kind::Drain)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "anybody may see who drained it");
        clear(dir.path(), Kind::Drain).unwrap();
        clear(dir.path(), Kind::Drain).unwrap();
        assert_eq!(fresh(dir.path(), 0), (vec![latch(Kind::Hold, None)], 0));
        // Root deletes the one named file.
        fs::remove_file(path(dir.path(), Kind::Hold)).unwrap();
        assert_eq!(fresh(dir.path(), 0), (vec![], 0));
    }

    #[test]
    fn it_ends_at_its_time_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), &latch(Kind::Drain, Some(3_600))).unwrap();
        for (second, in_force) in [(-1_000_000, true), (0, true), (3_599, true), (3_600, false), (1_000_000, false)] {
            assert_eq!(fresh(dir.path(), second).0.len(), usize::from(in_force), "at {second}");
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_neither_ends_nor_prolongs_it() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), &latch(Kind::Drain, Some(600))).unwrap();
        for step in [-1_000_000, -3_600, 0, 3_600, 1_000_000] {
            for (second, in_force) in [(0, true), (599, true), (600, false), (10_000, false)] {
                let (latches, _) = read(dir.path(), BOOT, up(second), at(second + step), &Latches::default());
                assert_eq!(latches.get(Kind::Drain).is_some(), in_force, "at {second}, the wall clock off by {step} s");
            }
        }
    }

    #[test]
    fn a_file_written_by_hand_may_give_its_end_by_the_wall_clock_only() {
        let dir = tempfile::tempdir().unwrap();
        let by_hand = Latch { until_boot: None, ..latch(Kind::Drain, Some(600)) };
        set(dir.path(), &by_hand).unwrap();
        let text = fs::read_to_string(path(dir.path(), Kind::Drain)).unwrap();
        assert!(!text.contains("until_boot"), "{text}");
        assert_eq!(fresh(dir.path(), 599), (vec![by_hand], 0));
        assert_eq!(fresh(dir.path(), 600), (vec![], 0));
    }

    #[test]
    fn a_start_in_the_future_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), &Latch { at: at(1_000_000), ..latch(Kind::Drain, None) }).unwrap();
        assert_eq!(fresh(dir.path(), 0).0.len(), 1);
    }

    #[test]
    fn another_boot_does_not_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), &Latch { boot: "other".to_owned(), ..latch(Kind::Drain, None) }).unwrap();
        assert_eq!(fresh(dir.path(), 0), (vec![], 0));
    }

    #[test]
    fn an_unusable_file_latches_nothing_and_releases_nothing() {
        let drain = path(Path::new(""), Kind::Drain);
        let makers: [fn(&Path); 4] = [
            |file| fs::write(file, b"").unwrap(),
            |file| fs::write(file, b"{\"kind\":\"drain\"").unwrap(),
            |file| fs::write(file, serde_json::to_vec(&latch(Kind::Hold, None)).unwrap()).unwrap(),
            |file| fs::create_dir(file).unwrap(),
        ];
        for make in makers {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join(&drain);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            make(&file);
            assert_eq!(fresh(dir.path(), 0), (vec![], 1));
            for (until, second, in_force) in [(None, 0, true), (Some(60), 59, true), (Some(60), 60, false)] {
                let before = Latches(vec![latch(Kind::Drain, until)]);
                let (after, errors) = read(dir.path(), BOOT, up(second), at(second), &before);
                assert_eq!(after.get(Kind::Drain).is_some(), in_force);
                assert!(errors[0].to_string().contains("drain.json"), "{}", errors[0]);
            }
        }
    }

    #[test]
    fn it_cannot_be_set_where_nothing_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"x").unwrap();
        assert!(set(&file, &latch(Kind::Drain, None)).is_err());
        assert!(clear(&file, Kind::Drain).is_err());
    }
}
