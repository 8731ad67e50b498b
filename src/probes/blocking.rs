//! Work that may block, beside the runtime's one thread, and never more than one outstanding for one subject.
//!
//! An operation on a dead disk does not return, and its thread cannot be ended. So a probe waits for the thread it
//! already has instead of starting another one, and its own deadline ends the wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// How long to wait for a small file on a local disk. A healthy one takes milliseconds.
pub(crate) const FILE: Duration = Duration::from_secs(2);

/// Runs one piece of work at a time. A probe that is built anew after a failure needs a lane that outlives it.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Semaphore>);

impl Lane {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Waits until earlier work of this lane has ended, then for `work`. Work that was begun runs on when the caller
    /// is dropped, and the lane stays taken until it ends.
    ///
    /// # Errors
    /// When `work` panicked, or the runtime is stopping.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Fails only when the semaphore is closed, which nobody does.
        let turn = Arc::clone(&self.0).acquire_owned().await;
        spawn_blocking(move || {
            let _turn = turn;
            work()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn hung_work_keeps_its_lane_and_nobody_elses() {
        let lane = Lane::new();
        let (release, wait) = mpsc::channel::<()>();
        let hung = lane.run(move || wait.recv());
        assert!(tokio::time::timeout(Duration::from_millis(50), hung).await.is_err());
        let second = tokio::time::timeout(Duration::from_millis(50), lane.run(|| 2)).await;
        assert!(second.is_err(), "a second thread was started beside the hung one");
        assert_eq!(Lane::new().run(|| 3).await.expect("no panic"), 3);
        release.send(()).expect("still waiting");
        assert_eq!(lane.run(|| 4).await.expect("no panic"), 4);
    }
}
