//! Named tasks: which end is fatal, which is started again, and stopping with a deadline.
//!
//! The only place that spawns tasks for the life of the agent, so that none dies silently.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::telemetry::event;

/// A task that ended by a panic or by itself is started again after this time: soon enough for every output, and a
/// task that dies at once does not spin.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// The running tasks.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<Option<String>>,
}

impl Supervisor {
    /// Spawns a task whose end, while it was not cancelled, ends the agent: without it the agent would lie.
    pub fn essential(
        &mut self,
        name: impl Into<String>,
        cancelled: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let name = name.into();
        #[allow(clippy::disallowed_methods, reason = "this is supervise")]
        self.tasks.spawn(async move {
            let panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            (panicked || !cancelled.is_cancelled()).then_some(name)
        });
    }

    /// Spawns a task that is made and run again whenever it ends before it is cancelled.
    pub fn restarted<F>(
        &mut self,
        name: impl Into<String>,
        cancelled: CancellationToken,
        make: impl Fn() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        self.tasks.spawn(async move {
            loop {
                let panicked = AssertUnwindSafe(make()).catch_unwind().await.is_err();
                if cancelled.is_cancelled() {
                    return None;
                }
                event::task_restarted(&name, panicked);
                tokio::select! {
                    () = cancelled.cancelled() => return None,
                    () = sleep(RESTART_AFTER) => {}
                }
            }
        });
    }

    /// Waits for the first essential task that ended, and names it. Never returns while all is well.
    pub async fn failed(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Some(name))) => return name,
                Some(_) => {}
                // Nothing runs: only before the first spawn.
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all tasks have ended, which their token must have told them, and aborts what is left after `limit`.
    pub async fn stop(mut self, limit: Duration) {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(limit, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn a_restarted_task_that_panics_or_returns_is_run_again_until_it_is_cancelled() {
        let (runs, mut ran) = mpsc::unbounded_channel();
        let cancelled = CancellationToken::new();
        let mut tasks = Supervisor::default();
        tasks.restarted("moody", cancelled.clone(), move || {
            let runs = runs.clone();
            async move {
                runs.send(()).unwrap();
                assert!(runs.is_closed(), "this is what panics in the test");
            }
        });
        tasks.restarted("short", cancelled.clone(), || async {});
        for _ in 0..5 {
            ran.recv().await.unwrap();
        }
        assert!(timeout(Duration::from_secs(60), tasks.failed()).await.is_err(), "its end is no failure");
        cancelled.cancel();
        tasks.stop(Duration::from_secs(60)).await;
        while ran.try_recv().is_ok() {}
        assert!(ran.recv().await.is_none(), "nobody runs it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_essential_task_that_panics_or_returns_is_named() {
        let cancelled = CancellationToken::new();
        let mut tasks = Supervisor::default();
        tasks.essential("steady", cancelled.clone(), cancelled.clone().cancelled_owned());
        tasks.essential("panics", cancelled.clone(), async {
            sleep(Duration::from_secs(1)).await;
            panic!("for the test");
        });
        tasks.essential("returns", cancelled.clone(), sleep(Duration::from_secs(2)));
        assert_eq!(tasks.failed().await, "panics");
        assert_eq!(tasks.failed().await, "returns");
        assert!(timeout(Duration::from_secs(60), tasks.failed()).await.is_err());
        cancelled.cancel();
        assert!(timeout(Duration::from_secs(60), tasks.failed()).await.is_err(), "it was told to end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_aborted_at_the_limit() {
        let (alive, mut dead) = mpsc::channel::<()>(1);
        let mut tasks = Supervisor::default();
        tasks.essential("deaf", CancellationToken::new(), async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        tasks.stop(Duration::from_secs(3)).await;
        assert!(dead.recv().await.is_none());
    }
}
