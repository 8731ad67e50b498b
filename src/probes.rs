//! OBSERVE: the probes, and the runner that gives each its pace and its deadline.
//!
//! A probe is one attempt at a time. The runner drops an attempt at its deadline, asks the probe what that means, and
//! sends the observation to the owner, whose reply says how soon to try again. A probe that panics could not run; it
//! is built anew.

pub mod app;
pub(crate) mod blocking;
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
use crate::input::{Input, Pace};
use crate::observation::{Component, Facts, Finding, Observation, Outcome, Stages};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    const SCHEDULE: Schedule = Schedule {
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        fast_interval: None,
        fall: 2,
        rise: 2,
    };

    /// What the probe does.
    #[derive(Clone, Copy)]
    enum Doing {
        Passes,
        PanicsInAttempt,
        PanicsInOverdue,
        HangsInOverdue,
    }

    impl Probe for Doing {
        async fn attempt(&mut self, stages: &mut Stages) -> Outcome {
            stages.enter("look");
            match self {
                Self::Passes => Outcome::Pass,
                Self::PanicsInAttempt => panic!("no {}", "luck"),
                Self::PanicsInOverdue | Self::HangsInOverdue => std::future::pending().await,
            }
        }

        async fn overdue(&mut self, _: &Stages) -> Finding {
            match self {
                Self::PanicsInOverdue => panic!("too late"),
                _ => std::future::pending().await,
            }
        }

        fn facts(&self) -> Facts {
            Facts::Nginx(crate::observation::NginxFacts { master: Some(1) })
        }
    }

    fn could_not_run(observation: &Observation) -> &str {
        match &observation.outcome {
            Outcome::Fail(finding) if finding.cause == Cause::CouldNotRun => &finding.detail,
            outcome => panic!("{outcome:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_or_a_hang_in_the_probe_is_an_observation() {
        for (mut doing, detail, has_facts) in [
            (Doing::PanicsInAttempt, "the probe panicked: no luck", false),
            (Doing::PanicsInOverdue, "the probe panicked: too late", false),
            (Doing::HangsInOverdue, "the look after a missed deadline hung", true),
        ] {
            let seen = observe(&mut doing, Component::Nginx, SCHEDULE.timeout).await;
            assert_eq!(could_not_run(&seen), detail);
            assert_eq!(seen.facts != Facts::None, has_facts, "{detail}: a probe that panicked is not asked again");
            assert!(seen.took <= SCHEDULE.timeout + OVERDUE_LIMIT, "{:?}", seen.took);
            assert_eq!(seen.stages.len(), 1, "where it was");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_panicked_is_built_anew_and_the_runner_goes_on() {
        let built = Arc::new(AtomicU32::new(0));
        let build = {
            let built = Arc::clone(&built);
            move || match built.fetch_add(1, Ordering::SeqCst) {
                0 => Doing::PanicsInAttempt,
                1 => Doing::PanicsInOverdue,
                _ => Doing::Passes,
            }
        };
        let (inputs, mut inbox) = mpsc::channel(1);
        let (turns, turned) = watch::channel(BootTime::now());
        let cancelled = CancellationToken::new();
        let runner = run(Component::Nginx, SCHEDULE, Duration::ZERO, build, inputs, turns, cancelled.clone());
        let owner = async {
            let mut seen = Vec::new();
            for _ in 0..4 {
                let Some(Input::Observed(observation, reply)) = inbox.recv().await else { panic!("it has ended") };
                seen.push(observation);
                reply.send(Pace::Normal).unwrap();
            }
            cancelled.cancel();
            seen
        };
        let ((), seen) = tokio::join!(runner, owner);
        assert_eq!(could_not_run(&seen[0]), "the probe panicked: no luck");
        assert_eq!(could_not_run(&seen[1]), "the probe panicked: too late");
        assert_eq!((&seen[2].outcome, &seen[3].outcome), (&Outcome::Pass, &Outcome::Pass));
        assert_eq!(built.load(Ordering::SeqCst), 3, "one that works is kept");
        assert!(turned.has_changed().is_err(), "the runner is gone");
    }
}
