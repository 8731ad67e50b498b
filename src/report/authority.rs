//! Who owns the data, in a report: for people and their scripts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::authority::ledger::Failover;
use crate::authority::notice::Notice;
use crate::authority::readiness::Readiness;
use crate::authority::said::Said;
use crate::authority::{Claim, State};
use crate::clock::BootTime;
use crate::health::cause::Status;
use crate::repoint::words;
use crate::snapshot::Snapshot;

/// See the page of [`super`] for what the fields mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Authority {
    pub state: String,
    /// By this machine's clock.
    pub since: Option<Timestamp>,
    pub role: String,
    pub region: String,
    pub other: String,
    pub known: Option<Claim>,
    pub own: Option<Claim>,
    pub promoted: bool,
    pub standby_ready: bool,
    pub why: Vec<String>,
    pub alarms: Vec<String>,
    pub problems: Vec<String>,
    pub claim: String,
    pub lag: Option<Lag>,
    pub repoint: Vec<String>,
    pub readiness: Option<Readiness>,
    pub notice: Option<Notice>,
    pub failover: Option<Failover>,
}

/// How far the replica here is behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    pub seconds: f64,
    /// `heartbeat` or `replica`.
    pub by: String,
}

impl Authority {
    pub(super) fn live(snapshot: &Snapshot, now: BootTime) -> Option<Self> {
        Some(Self { readiness: Readiness::of(snapshot), ..Self::of(snapshot.authority.as_deref()?, now) })
    }

    /// Without what only a running agent sees: whether all is ready.
    pub(crate) fn of(said: &Said, now: BootTime) -> Self {
        let decision = &said.decision;
        let memory = said.memory();
        let ledger = &said.ledger;
        Self {
            state: decision.state.name().to_owned(),
            since: ledger.since.filter(|_| ledger.state == decision.state),
            role: decision.role.name().to_owned(),
            region: said.place.region.clone(),
            other: said.place.other.clone(),
            known: memory.known.clone(),
            own: memory.own.as_ref().and_then(|own| own.claim.clone()),
            promoted: decision.promoted,
            standby_ready: decision.standby_ready,
            why: decision.why.iter().map(ToString::to_string).collect(),
            alarms: decision.alarms.iter().map(ToString::to_string).collect(),
            problems: said.problems.clone(),
            claim: match &decision.claim {
                Ok(row) => format!("claims epoch {}", row.epoch),
                Err(refusal) => format!("{refusal}: {}", refusal.sentence()),
            },
            lag: said.lag.as_ref().map(|lag| Lag { seconds: lag.seconds(), by: lag.by.name().to_owned() }),
            repoint: words::lines(&said.progress, now),
            readiness: None,
            notice: said.notice(),
            failover: ledger.last().cloned(),
        }
    }

    /// What it does to the status of the whole.
    pub(super) fn level(&self) -> Status {
        if self.state == State::Superseded.name() {
            Status::Unhealthy
        } else if self.notice.is_some()
            || !self.alarms.is_empty()
            || !self.problems.is_empty()
            || self.readiness.as_ref().is_some_and(|readiness| !readiness.ready)
        {
            Status::Degraded
        } else {
            Status::Healthy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// As for the rest of the report: a change here is a change of the contract.
    #[test]
    fn the_shape_of_the_json() {
        let mut authority = sample::standby();
        authority.readiness.as_mut().unwrap().items.truncate(1);
        insta::assert_snapshot!(serde_json::to_string_pretty(&authority).unwrap(), @r#"
        {
          "state": "STANDBY",
          "since": "2026-11-23T21:42:07Z",
          "role": "replica",
          "region": "us-east-1",
          "other": "ap-south-1",
          "known": {
            "epoch": 1,
            "region": "ap-south-1"
          },
          "own": {
            "epoch": 1,
            "region": "ap-south-1"
          },
          "promoted": false,
          "standby_ready": true,
          "why": [
            "this region's database is a replica",
            "the other region's database says that it is the owner"
          ],
          "alarms": [],
          "problems": [],
          "claim": "NotWritable: this region's database is read-only, or a replica",
          "lag": {
            "seconds": 1.2,
            "by": "heartbeat"
          },
          "repoint": [
            "Nothing was decided yet: the app uses what its outputs said before."
          ],
          "readiness": {
            "ready": true,
            "items": [
              {
                "name": "database",
                "ok": true,
                "words": "the database here is a replica and has the newest epoch",
                "needed": true
              }
            ],
            "sentence": "if ap-south-1 died now, Route 53 would send its users here, and once somebody promoted the database it would be claimed as epoch 2 and written to, without the last 1.2 s at most"
          },
          "notice": null,
          "failover": null
        }
        "#);
    }

    #[test]
    fn what_is_wrong_is_the_status_of_the_whole() {
        assert_eq!(sample::standby().level(), Status::Healthy);
        let level = |state| sample::standby_with(&|said| said.decision.state = state).level();
        assert_eq!(level(State::Superseded), Status::Unhealthy);
        assert_eq!((level(State::Unclaimed), level(State::Ambiguous)), (Status::Degraded, Status::Degraded));
        assert_eq!(sample::standby_with(&|said| said.lag = None).level(), Status::Degraded, "not ready");
    }
}
