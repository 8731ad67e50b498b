//! The boot gate: what uses the database starts after it. It waits for the outputs to say what the agent decided in this
//! boot, if this machine ever knew an owner of the data; it always ends.
//!
//! The agent says so in the file `decided` beside its control socket: the id of the boot in which it was written, so that
//! what an earlier boot left says nothing.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::decision;
use crate::state::{read_plain, write_atomically};

const FILE: &str = "decided";

/// No file here is this long. The folders are the agent's, and root reads.
const LONGEST: u64 = 1 << 20;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// How the wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// This machine never knew an epoch: there is nothing to wait for.
    NoEpoch,
    Decided,
    /// Nobody decided in time: what is closed stays closed, and what is open opens.
    Late,
}

/// Says that the first decision of this boot is in the outputs, or that it changes none. `run_dir`: the folder of the
/// control socket. Blocking.
///
/// # Errors
/// When it cannot be written: then whatever waits at the gate waits as long as it may.
pub fn say_decided(run_dir: &Path, boot: &str) -> io::Result<()> {
    write_atomically(&run_dir.join(FILE), format!("{boot}\n").as_bytes(), 0o644)
}

/// Whether the agent said so in this boot. Blocking.
#[must_use]
pub fn is_decided(run_dir: &Path, boot: &str) -> bool {
    read_plain(&run_dir.join(FILE), LONGEST).is_ok_and(|text| text.trim() == boot)
}

/// Waits as long as it must, and at most for `limit`.
pub async fn wait(state_dir: &Path, run_dir: &Path, boot: &str, limit: Duration) -> Opened {
    if !knows_an_epoch(state_dir, run_dir) {
        return Opened::NoEpoch;
    }
    let decided = async {
        while !is_decided(run_dir, boot) {
            sleep(LOOK).await;
        }
    };
    timeout(limit, decided).await.map_or(Opened::Late, |()| Opened::Decided)
}

/// Whether a state file shows an epoch of authority: the agent's own, or its last decision.
fn knows_an_epoch(state_dir: &Path, run_dir: &Path) -> bool {
    let shows = |path: &Path, pointer: &str| {
        let text = read_plain(path, LONGEST).ok();
        let file = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        file.as_ref().and_then(|file| file.pointer(pointer)?.as_u64()).is_some_and(|epoch| epoch > 0)
    };
    shows(&state_dir.join("state.json"), "/authority/known/epoch")
        || [state_dir, run_dir].iter().any(|dir| shows(&decision::path(dir), "/epoch"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::decision::tests::decision;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_waits_only_where_an_epoch_is_known_and_always_ends() {
        let dir = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(12);
        let wait = || wait(dir.path(), dir.path(), "this boot", limit);
        assert_eq!(wait().await, Opened::NoEpoch);
        decision::write_beside(dir.path(), &decision::Decision { epoch: 0, ..decision("1", "a", "a") }).unwrap();
        fs::write(dir.path().join("state.json"), r#"{"authority": {"known": null}}"#).unwrap();
        assert_eq!(wait().await, Opened::NoEpoch);
        fs::write(dir.path().join("state.json"), r#"{"authority": {"known": {"epoch": 1, "region": "a"}}}"#).unwrap();
        assert_eq!(wait().await, Opened::Late);
        fs::write(dir.path().join("state.json"), "damaged").unwrap();
        decision::write_beside(dir.path(), &decision("1", "a", "a")).unwrap();
        say_decided(dir.path(), "another boot").unwrap();
        assert_eq!(wait().await, Opened::Late, "what an earlier boot left");
        say_decided(dir.path(), "this boot").unwrap();
        assert_eq!(wait().await, Opened::Decided);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_the_agent_says_so() {
        let dir = tempfile::tempdir().unwrap();
        decision::write_beside(dir.path(), &decision("1", "a", "a")).unwrap();
        let late = async {
            sleep(Duration::from_secs(3)).await;
            say_decided(dir.path(), "this boot").unwrap();
        };
        let wait = wait(dir.path(), dir.path(), "this boot", Duration::from_secs(12));
        let began = tokio::time::Instant::now();
        let (opened, ()) = tokio::join!(wait, late);
        assert_eq!(opened, Opened::Decided);
        assert!(began.elapsed() < Duration::from_secs(4));
    }
}
