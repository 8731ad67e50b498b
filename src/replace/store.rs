//! `replace.json` in the state directory: what a replacement must not forget, and the group's records, replaced as one.
//!
//! A disk that is full or read-only is itself a reason to be replaced, so the own decision may also be kept in memory,
//! beside the control socket: it has to outlive the agent, not the boot. A grant to another may not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::memory::{Memory, VERSION};
use super::records::Records;
use crate::clock::Stamp;
use crate::probes::blocking::Lane;
use crate::state::{Owner, write_atomically};

const FILE: &str = "replace.json";

/// A healthy disk takes milliseconds.
const LIMIT: Duration = Duration::from_secs(2);

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub memory: Memory,
    #[serde(default)]
    pub records: Records,
}

/// Where it is kept.
#[derive(Debug, Clone)]
pub struct Store {
    /// On disk.
    pub state_dir: PathBuf,
    /// In memory.
    pub run_dir: PathBuf,
}

impl Kept {
    /// Nothing was kept.
    #[must_use]
    pub fn new(owner: &Owner, now: Stamp) -> Self {
        Self { memory: Memory::new(owner.clone(), now), records: Records::default() }
    }
}

impl Store {
    /// What was kept, the newer of two copies; `None` if nothing can be read, which is as if it was lost.
    pub async fn load(&self) -> Option<Kept> {
        let paths = [self.state_dir.join(FILE), self.run_dir.join(FILE)];
        let read = LANE.run(move || paths.iter().filter_map(|path| read(path)).max_by_key(|kept| kept.memory.saves));
        timeout(LIMIT, read).await.ok()?.ok()?
    }

    /// Keeps it on disk.
    ///
    /// # Errors
    /// When it is not on disk in time; it may be there later.
    pub async fn save(&self, kept: &Kept) -> io::Result<()> {
        write(&self.state_dir, kept).await
    }

    /// Keeps it on disk, or else in memory for this boot.
    ///
    /// # Errors
    /// When neither takes it in time.
    pub async fn save_somewhere(&self, kept: &Kept) -> io::Result<()> {
        match self.save(kept).await {
            Ok(()) => Ok(()),
            Err(_) => write(&self.run_dir, kept).await,
        }
    }
}

async fn write(dir: &Path, kept: &Kept) -> io::Result<()> {
    let path = dir.join(FILE);
    let text = serde_json::to_vec(kept)?;
    match timeout(LIMIT, LANE.run(move || write_atomically(&path, &text, 0o600))).await {
        Ok(written) => written.map_err(io::Error::other).flatten(),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn read(path: &Path) -> Option<Kept> {
    // A file that is damaged or of a release to come is worth as much as one that was lost.
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (kept.memory.version == VERSION).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newer_of_two_copies_counts_and_a_dead_disk_costs_neither_a_restart_nor_a_wait() {
        let (disk, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store { state_dir: disk.path().to_owned(), run_dir: run.path().to_owned() };
        assert_eq!(store.load().await, None);
        let mut kept = Kept::new(&Owner::default(), Stamp::now("b"));
        kept.memory.saves = 1;
        store.save(&kept).await.unwrap();
        let dead = Store { state_dir: disk.path().join("missing"), ..store.clone() };
        kept.memory.saves = 2;
        assert!(dead.save(&kept).await.is_err());
        dead.save_somewhere(&kept).await.unwrap();
        assert_eq!(store.load().await.unwrap().memory.saves, 2);
        kept.memory.saves = 3;
        store.save_somewhere(&kept).await.unwrap();
        assert_eq!(store.load().await.unwrap().memory.saves, 3);
        fs::write(disk.path().join(FILE), "{").unwrap();
        assert_eq!(store.load().await.unwrap().memory.saves, 2, "what is damaged was lost");
    }
}
