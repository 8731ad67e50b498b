//! What goes to CloudWatch: one call a minute, under dimensions that all members of a group share, so that the price does
//! not grow with the instances.
//!
//! Every member sends its own value of each metric, and CloudWatch keeps minimum, maximum and number of samples of each
//! minute. An alarm on `Heartbeat` compares that number with the group's `GroupInServiceInstances`: one dead agent of
//! many is missed by it and by nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::authority::readiness::Readiness;
use crate::aws::{Aws, Kind, pace};
use crate::clock;
use crate::group::run::Standing;
use crate::health::cause::Status;
use crate::observation::{Component, Facts};
use crate::snapshot::Snapshot;
use crate::telemetry::event;

/// For people who read the configuration: 8 names at $0.30 a month, and 43,200 calls at $0.01 for 1,000.
pub const PRICE: &str = "up to 8 metrics of the group: $2.40 a month; a call a minute: $0.43 a month for each instance";

/// How many minutes are kept while CloudWatch cannot be reached. One call takes 1,000 values (the limit of
/// `PutMetricData`), so what is kept goes out in one call afterwards.
const KEPT: usize = 120;
const _: () = assert!(KEPT * 8 <= 1_000);

/// How often. Not more often than CloudWatch keeps.
const EVERY: Duration = Duration::from_secs(60);

/// A call that is refused again is said again after so many minutes.
const SAID_AGAIN: u32 = 60;

/// Minutes that no call could send, since the start of the process.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many minutes were lost because CloudWatch could not be reached for two hours, or refused them.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Sends a minute at a time until cancelled. Without `[cloudwatch]`, or while the group is unknown, it costs nothing: no
/// client is made. At a moment of the minute of its own, so that a group does not call all at once.
pub async fn run(
    aws: Aws,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    standing: watch::Receiver<Arc<Standing>>,
    cancelled: CancellationToken,
) {
    let mut backlog = Backlog::default();
    let mut failures = 0_u32;
    let instance = snapshots.borrow().about.owner.instance.clone().unwrap_or_default();
    let mut wait = EVERY.mul_f64(pace::fraction(0, &instance));
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep(wait) => {}
        }
        wait = EVERY;
        let snapshot = Arc::clone(&snapshots.borrow());
        let group = standing.borrow().place.group.clone();
        let (Some(namespace), Some(region), Some(group)) =
            (&snapshot.config.cloudwatch, &snapshot.about.owner.region, &group)
        else {
            continue;
        };
        backlog.push(Minute::of(&snapshot, clock::wall()));
        let dimensions = [("Deployment", snapshot.config.deployment.as_str()), ("AutoScalingGroupName", group)];
        let sent = tokio::select! {
            () = cancelled.cancelled() => return,
            sent = aws.put_metrics(region, namespace, &dimensions, backlog.minutes()) => sent,
        };
        match sent {
            Ok(()) => {
                backlog.clear();
                failures = 0;
            }
            Err(failure) => {
                if failures.is_multiple_of(SAID_AGAIN) {
                    event::metrics_not_sent(&failure);
                }
                failures += 1;
                if is_unwanted(&failure.kind) && failures > 1 {
                    backlog.lose_all();
                }
            }
        }
    }
}

/// What CloudWatch read and does not want it will not want later either. A 5xx says nothing of what was sent.
const fn is_unwanted(kind: &Kind) -> bool {
    matches!(kind, Kind::Service { status: ..500, .. })
}

/// The value of one metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub name: &'static str,
    pub value: f64,
    /// It is a time in seconds; else a plain number.
    pub is_seconds: bool,
}

/// What one minute says.
#[derive(Debug, Clone, PartialEq)]
pub struct Minute {
    pub at: Timestamp,
    pub samples: Vec<Sample>,
}

impl Minute {
    /// What `snapshot` says. What is not known is left out: there is no guess, and CloudWatch refuses a whole call for
    /// one NaN.
    #[must_use]
    pub fn of(snapshot: &Snapshot, at: Timestamp) -> Self {
        let count = |name, value: bool| Sample { name, value: f64::from(u8::from(value)), is_seconds: false };
        let mut samples = vec![
            count("Heartbeat", true),
            count("InstanceHealthy", snapshot.instance.state.is_ok()),
            count("RegionOpen", snapshot.region.state.is_ok()),
            count("Fenced", snapshot.gate_closed),
            count("WouldReplace", snapshot.replacement.plan.would_replace()),
        ];
        samples.extend(standby_ready(snapshot).map(|is_ready| count("StandbyReady", is_ready)));
        samples.extend(lag_seconds(snapshot).map(|value| Sample {
            name: "ReplicaLagSeconds",
            value,
            is_seconds: true,
        }));
        let wiring = snapshot.components.iter().map(|(component, _)| component);
        let wiring = wiring.filter(|component| component.component == Component::Wiring);
        for component in wiring.filter(|c| !matches!(c.status, Status::Unknown | Status::Starting)) {
            samples.push(count("WiringFault", component.status != Status::Healthy));
        }
        Self { at, samples }
    }
}

/// Whether this region could take over now, where it is the one that would: the region that does not own the data. `None`
/// in the owner's. What is not known is not ready.
#[must_use]
pub fn standby_ready(snapshot: &Snapshot) -> Option<bool> {
    if snapshot.authority.is_some() {
        return Readiness::of(snapshot).map(|readiness| readiness.ready);
    }
    // Nobody decides: as far as one region knows.
    let is_well = snapshot.components.iter().all(|(component, _)| component.status == Status::Healthy);
    snapshot.config.policy.standby.then(|| is_well && snapshot.region.state.is_ok())
}

/// How far the replica here is behind, in seconds: by the heartbeat row where there is one, else as the server says.
#[must_use]
pub fn lag_seconds(snapshot: &Snapshot) -> Option<f64> {
    if let Some(lag) = snapshot.authority.as_deref().and_then(|said| said.lag.as_ref()) {
        return Some(lag.seconds());
    }
    snapshot.components.iter().find_map(|(component, _)| match &component.facts {
        // A replica that is a century behind is one whose server lies: f64 holds it exactly none the less.
        Facts::Database(facts) if component.has_fresh_facts() => {
            facts.lag_seconds().map(|lag| f64::from(u32::try_from(lag).unwrap_or(u32::MAX)))
        }
        _ => None,
    })
}

/// The minutes that CloudWatch has not taken yet, oldest first.
#[derive(Debug, Default)]
pub struct Backlog {
    minutes: VecDeque<Minute>,
}

impl Backlog {
    /// Adds a minute; beyond [`KEPT`] the oldest is lost.
    pub fn push(&mut self, minute: Minute) {
        if self.minutes.len() == KEPT {
            self.minutes.pop_front();
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        self.minutes.push_back(minute);
    }

    /// All that is to be sent.
    pub fn minutes(&self) -> impl Iterator<Item = &Minute> {
        self.minutes.iter()
    }

    /// All of it was taken.
    pub fn clear(&mut self) {
        self.minutes.clear();
    }

    /// None of it ever will be.
    pub fn lose_all(&mut self) {
        DROPPED.fetch_add(u64::try_from(self.minutes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.minutes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(second: i64) -> Minute {
        Minute { at: Timestamp::from_second(second).unwrap(), samples: Vec::new() }
    }

    #[test]
    fn an_outage_is_no_refusal() {
        let service = |status| Kind::Service { code: String::new(), message: String::new(), status };
        let kinds = [service(500), service(503), service(400), Kind::Throttled, Kind::Denied, Kind::Timeout];
        assert_eq!(kinds.each_ref().map(is_unwanted), [false, false, true, false, false, false]);
    }

    #[test]
    fn an_outage_keeps_what_one_call_can_send() {
        let mut backlog = Backlog::default();
        for second in 0..125 {
            backlog.push(minute(60 * second));
        }
        assert_eq!(backlog.minutes().count(), KEPT);
        assert_eq!((dropped(), backlog.minutes().next()), (5, Some(&minute(300))), "the oldest goes first");
        backlog.clear();
        assert_eq!(backlog.minutes().count(), 0);
    }
}
