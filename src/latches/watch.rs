//! OBSERVE: the task that reads the latch files and tells the owner what changed.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, BootTime};
use crate::input::Input;
use crate::latches::{Latches, read};
use crate::telemetry::event;

/// How often the files are read. What is asked for on the control socket counts at once.
pub const POLL: Duration = Duration::from_secs(5);

/// Reads the files every [`POLL`] and tells the owner what changed, until cancelled.
pub async fn run(state_dir: PathBuf, boot: String, inputs: mpsc::Sender<Input>, cancelled: CancellationToken) {
    let mut known: Option<Latches> = None;
    let mut complained = false;
    loop {
        let (dir, boot) = (state_dir.clone(), boot.clone());
        // One outstanding read at most: a hanging disk costs one thread.
        let before = known.clone().unwrap_or_default();
        let look = spawn_blocking(move || read(&dir, &boot, BootTime::now(), clock::wall(), &before));
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
