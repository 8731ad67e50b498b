//! The state file and the history, kept in step with the snapshot, off the runtime: a full or hanging disk costs the
//! memory of a restart, never an answer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::snapshot::{HistoryEntry, Snapshot};
use crate::state::{self, State, write_atomically};
use crate::telemetry::event;

/// Wait after a write that failed: a full disk is not filled by trying.
const RETRY: Duration = Duration::from_secs(10);

const HISTORY_FILE: &str = "history.jsonl";

/// Writes whatever changed, one write at a time, until cancelled; then once more what changed last.
pub async fn run(dir: PathBuf, mut snapshots: watch::Receiver<Arc<Snapshot>>, cancelled: CancellationToken) {
    let mut written: Option<(Arc<State>, Arc<Vec<HistoryEntry>>)> = None;
    let mut complained = false;
    loop {
        let (state, history) = {
            let snapshot = snapshots.borrow_and_update();
            (Arc::clone(&snapshot.state), Arc::clone(&snapshot.history))
        };
        let state_changed = written.as_ref().is_none_or(|(old, _)| !Arc::ptr_eq(old, &state));
        let history_changed = written.as_ref().is_none_or(|(_, old)| !Arc::ptr_eq(old, &history));
        if state_changed || history_changed {
            written = Some((Arc::clone(&state), Arc::clone(&history)));
            let dir = dir.clone();
            let write = spawn_blocking(move || {
                // One that fails does not keep the other from being written.
                let state = if state_changed { state::save(&dir, &state) } else { Ok(()) };
                let history = if history_changed { save_history(&dir, &history) } else { Ok(()) };
                state.and(history)
            });
            match write.await {
                Ok(Ok(())) => complained = false,
                Ok(Err(error)) => {
                    written = None;
                    if !std::mem::replace(&mut complained, true) {
                        event::state_not_saved(&error);
                    }
                    tokio::select! {
                        () = cancelled.cancelled() => return,
                        () = sleep(RETRY) => {}
                    }
                }
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
        if cancelled.is_cancelled() {
            return;
        }
        tokio::select! {
            () = cancelled.cancelled() => {}
            // Cancel-safe: a change that was not seen here is seen by the next call.
            changed = snapshots.changed() => if changed.is_err() { return },
        }
    }
}

/// The history of earlier runs; a line that cannot be read is left out.
#[must_use]
pub fn load_history(dir: &Path) -> Vec<HistoryEntry> {
    let bytes = fs::read(dir.join(HISTORY_FILE)).unwrap_or_default();
    // A disk that damaged one line leaves the others.
    String::from_utf8_lossy(&bytes).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Sets the history of another machine aside.
pub fn set_history_aside(dir: &Path) {
    // Best effort, as for the state file: what stays is replaced with the next write.
    drop(fs::rename(dir.join(HISTORY_FILE), dir.join(format!("{HISTORY_FILE}.foreign"))));
}

fn save_history(dir: &Path, history: &[HistoryEntry]) -> io::Result<()> {
    let mut text = Vec::new();
    for entry in history {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    write_atomically(&dir.join(HISTORY_FILE), &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_line_costs_that_line() {
        let dir = tempfile::tempdir().unwrap();
        let line = |what: &str| {
            format!(
                r#"{{"at":"2026-11-23T22:00:00Z","what":"{what}","from":"healthy","to":"unhealthy","cause":null,"detail":""}}"#
            )
        };
        let text = [line("nginx").as_bytes(), b"\n{\"at\":\xff\xfe\n", line("efs").as_bytes(), b"\n"].concat();
        fs::write(dir.path().join(HISTORY_FILE), text).unwrap();
        let names: Vec<_> = load_history(dir.path()).into_iter().map(|entry| entry.what).collect();
        assert_eq!(names, ["nginx", "efs"]);
    }
}
