//! Latches: what a person asked for and the agent remembers. Each is one file in `<state_dir>/latches/`, so that root
//! can always see and clear it; the file is the truth and is read again every second.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::snapshot::Input;
use crate::state::write_atomically;
use crate::telemetry::event;

/// What can be latched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The instance verdict answers 503.
    Drain,
    /// No repair and no replacement of this instance.
    Hold,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Drain, Self::Hold];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Hold => "hold",
        }
    }

    /// The command that clears it.
    #[must_use]
    pub const fn clearing(self) -> &'static str {
        match self {
            Self::Drain => "dr-agent undrain",
            Self::Hold => "dr-agent hold --release",
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
    /// The boot it was set in. It ends with that boot.
    pub boot: String,
}

/// The latches in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latches(Vec<Latch>);

impl Latches {
    #[must_use]
    pub fn get(&self, kind: Kind) -> Option<&Latch> {
        self.0.iter().find(|latch| latch.kind == kind)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Latch> {
        self.0.iter()
    }
}

/// How often the files are read.
pub const POLL: Duration = Duration::from_secs(1);

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

/// The latches in force at `now` in this boot. A file that cannot be read or parsed is reported and leaves its latch as
/// it was `before`: running out of descriptors must not end a drain.
#[must_use]
pub fn read(state_dir: &Path, boot: &str, now: Timestamp, before: &Latches) -> (Latches, Vec<io::Error>) {
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
        let in_force = |latch: &Latch| latch.boot == boot && latch.until.is_none_or(|until| now < until);
        latches.0.extend(latch.filter(in_force));
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

/// Reads the files every [`POLL`] and tells the owner what changed, until cancelled.
pub async fn watch(state_dir: PathBuf, boot: String, inputs: mpsc::Sender<Input>, cancelled: CancellationToken) {
    let mut known: Option<Latches> = None;
    let mut complained = false;
    loop {
        let (dir, boot) = (state_dir.clone(), boot.clone());
        // One outstanding read at most: a hanging disk costs one thread.
        let before = known.clone().unwrap_or_default();
        let look = spawn_blocking(move || read(&dir, &boot, clock::wall(), &before));
        let Ok((latches, errors)) = look.await else { return };
        for error in &errors {
            if !complained {
                event::latch_unreadable(error);
            }
        }
        complained = !errors.is_empty();
        // Until all files were read once, the owner keeps what it started with.
        let readable = known.is_some() || errors.is_empty();
        if readable && known.as_ref() != Some(&latches) {
            known = Some(latches.clone());
            if inputs.send(Input::Latches(latches)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep(POLL) => {}
        }
    }
}
