//! OBSERVE: the probes, and the runner that gives each its pace and its deadline.
//!
//! A probe is one attempt at a time. The runner drops an attempt at its deadline, asks the probe what that means, and
//! sends the observation to the owner, whose reply says how soon to try again. A probe that panics could not run; it
//! is built anew.

pub mod app;
mod blocking;
pub mod database;
pub mod efs;
pub mod exec;
pub mod host;
pub mod http;
pub mod nginx;
pub mod spec;
pub mod wiring;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

pub use spec::{Context, Spec, observe_all};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::BootTime;
use crate::health::cause::{Cause, Status};
use crate::health::component::Schedule;
use crate::observation::{Component, Facts, Finding, Observation, Outcome, Stages};
use crate::snapshot::{Input, Pace};

/// One kind of probe.
pub trait Probe: Send {
    /// One attempt. It is dropped at the deadline, so it must not leave anything behind when it is; the stages it
    /// entered tell where it was.
    fn attempt(&mut self, stages: &mut Stages) -> impl Future<Output = Outcome> + Send;

    /// What it means that the attempt reached its deadline in the current one of `stages`. May look around for at most
    /// [`OVERDUE_LIMIT`]; it is dropped then, and the finding is [`Cause::CouldNotRun`].
    fn overdue(&mut self, stages: &Stages) -> impl Future<Output = Finding> + Send;

    /// What was learned beside the outcome, in the attempt just made.
    fn facts(&self) -> Facts {
        Facts::None
    }
}

/// What looking around after a missed deadline may take.
pub const OVERDUE_LIMIT: Duration = Duration::from_secs(1);

/// Makes one observation, within `deadline` plus [`OVERDUE_LIMIT`], whatever the probe does.
pub async fn observe(probe: &mut impl Probe, component: Component, deadline: Duration) -> Observation {
    let began = BootTime::now();
    let started = Instant::now();
    let mut stages = Stages::default();
    let attempt = async {
        match timeout(deadline, probe.attempt(&mut stages)).await {
            Ok(outcome) => outcome,
            Err(_) => match timeout(OVERDUE_LIMIT, probe.overdue(&stages)).await {
                Ok(finding) => Outcome::Fail(finding),
                Err(_) => Outcome::Fail(Finding::new(Cause::CouldNotRun, "the look after a missed deadline hung")),
            },
        }
    };
    let (outcome, panicked) = match AssertUnwindSafe(attempt).catch_unwind().await {
        Ok(outcome) => (outcome, false),
        Err(panic) => {
            let detail = format!("the probe panicked: {}", panic_text(&*panic));
            (Outcome::Fail(Finding::new(Cause::CouldNotRun, detail)), true)
        }
    };
    let facts = if panicked { Facts::None } else { probe.facts() };
    Observation { component, began, took: started.elapsed(), outcome, stages: stages.finish(), facts }
}

/// Runs the probe that `build` makes until it is cancelled. The first attempt is made at once; `phase` is added once
/// after it, and spreads the probes of an instance and the instances of a group. `turns`
/// tells the watchdog that the scheduler lives.
pub async fn run<P: Probe>(
    component: Component,
    schedule: Schedule,
    phase: Duration,
    build: impl Fn() -> P,
    inputs: mpsc::Sender<Input>,
    turns: watch::Sender<BootTime>,
    cancelled: CancellationToken,
) {
    let mut probe = build();
    let mut next = Instant::now();
    let mut phase = Some(phase);
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep_until(next) => {}
        }
        let started = Instant::now();
        turns.send_replace(BootTime::now());
        let observation = tokio::select! {
            // A probe that was cancelled says nothing any more, not even what it has just found: after a reload that
            // would be taken for the new target's.
            biased;
            () = cancelled.cancelled() => return,
            observation = observe(&mut probe, component.clone(), schedule.timeout) => observation,
        };
        if matches!(&observation.outcome, Outcome::Fail(finding) if finding.cause == Cause::CouldNotRun) {
            probe = build();
        }
        let (reply, pace) = oneshot::channel();
        if inputs.send(Input::Observed(observation, reply)).await.is_err() {
            return;
        }
        let interval = match (pace.await, schedule.fast_interval) {
            (Ok(Pace::Fast), Some(fast)) => fast,
            (Ok(_), _) => schedule.interval,
            (Err(_), _) => return,
        };
        // From the start of the last attempt; an attempt that overran is followed at once, never caught up with.
        next = (started + interval + phase.take().unwrap_or_default()).max(Instant::now());
    }
}

/// The outcome of an attempt that looked at several things: the cause of the worst finding, the details of all.
///
/// Something that could not be looked at outranks a crossed limit, which would count as "it works".
fn worst(mut findings: Vec<Finding>) -> Outcome {
    findings.sort_by_key(|finding| match finding.cause.row().status {
        Status::Unhealthy => 0,
        Status::Unknown | Status::Starting => 1,
        Status::Degraded | Status::Healthy => 2,
    });
    let Some(worst) = findings.first() else { return Outcome::Pass };
    let cause = worst.cause;
    let details: Vec<_> = findings.into_iter().map(|finding| finding.detail).collect();
    Outcome::Fail(Finding::new(cause, details.join("; ")))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
