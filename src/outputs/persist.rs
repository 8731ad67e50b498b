//! The state file and the history, kept in step with the snapshot, off the runtime: a full or hanging disk costs the
//! memory of a restart, never an answer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::snapshot::{HistoryEntry, Snapshot};
use crate::state::{self, State, write_atomically};
use crate::telemetry::event;

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
                if state_changed {
                    state::save(&dir, &state)?;
                }
                if history_changed { save_history(&dir, &history) } else { Ok(()) }
            });
            match write.await {
                Ok(Ok(())) => complained = false,
                Ok(Err(error)) => {
                    written = None;
                    if !std::mem::replace(&mut complained, true) {
                        event::state_not_saved(&error);
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
    let text = fs::read_to_string(dir.join(HISTORY_FILE)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn save_history(dir: &Path, history: &[HistoryEntry]) -> io::Result<()> {
    let mut text = Vec::new();
    for entry in history {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    write_atomically(&dir.join(HISTORY_FILE), &text, 0o600)
}
