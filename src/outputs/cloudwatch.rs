//! What goes to CloudWatch: one call a minute, under dimensions that all members of a group share, so that the price does
//! not grow with the instances.
//!
//! Every member sends its own value of each metric, and CloudWatch keeps minimum, maximum and number of samples of each
//! minute. An alarm on `Heartbeat` compares that number with the group's `GroupInServiceInstances`: one dead agent of
//! many is missed by it and by nothing else.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::health::cause::Status;
use crate::observation::{Component, Facts};
use crate::snapshot::Snapshot;

/// For people who read the configuration: 8 names at $0.30 a month, and 43,200 calls at $0.01 for 1,000.
pub const PRICE: &str = "up to 8 metrics of the group: $2.40 a month; a call a minute: $0.43 a month for each instance";

/// How many minutes are kept while CloudWatch cannot be reached. One call takes 1,000 values (the limit of
/// `PutMetricData`), so what is kept goes out in one call afterwards.
const KEPT: usize = 120;
const _: () = assert!(KEPT * 8 <= 1_000);

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
        ];
        for (component, _) in &snapshot.components {
            match (&component.component, &component.facts) {
                (Component::Wiring, _) if !matches!(component.status, Status::Unknown | Status::Starting) => {
                    samples.push(count("WiringFault", component.status != Status::Healthy));
                }
                (Component::Database, Facts::Database(facts)) if component.has_fresh_facts() => {
                    // A replica that is a century behind is one whose server lies: f64 holds it exactly none the less.
                    let lag = facts.lag_seconds().map(|lag| u32::try_from(lag).unwrap_or(u32::MAX));
                    samples.extend(lag.map(|lag| Sample {
                        name: "ReplicaLagSeconds",
                        value: f64::from(lag),
                        is_seconds: true,
                    }));
                }
                _ => {}
            }
        }
        Self { at, samples }
    }
}

/// The minutes that CloudWatch has not taken yet, oldest first.
#[derive(Debug, Default)]
pub struct Backlog {
    minutes: VecDeque<Minute>,
    dropped: u64,
}

impl Backlog {
    /// Adds a minute; beyond [`KEPT`] the oldest is lost.
    pub fn push(&mut self, minute: Minute) {
        if self.minutes.len() == KEPT {
            self.minutes.pop_front();
            self.dropped += 1;
        }
        self.minutes.push_back(minute);
    }

    /// All that is to be sent.
    pub fn minutes(&self) -> impl Iterator<Item = &Minute> {
        self.minutes.iter()
    }

    /// It was taken, or will never be.
    pub fn clear(&mut self) {
        self.minutes.clear();
    }

    /// Minutes lost since the agent started.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(second: i64) -> Minute {
        Minute { at: Timestamp::from_second(second).unwrap(), samples: Vec::new() }
    }

    #[test]
    fn an_outage_keeps_what_one_call_can_send() {
        let mut backlog = Backlog::default();
        for second in 0..125 {
            backlog.push(minute(60 * second));
        }
        assert_eq!(backlog.minutes().count(), KEPT);
        assert_eq!((backlog.dropped(), backlog.minutes().next()), (5, Some(&minute(300))), "the oldest goes first");
        backlog.clear();
        assert_eq!(backlog.minutes().count(), 0);
    }
}
