//! What the task writes: durable records, claims, the heartbeat; and the tags of the group, which it reads too.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::super::Claim;
use super::super::claim::NewRow;
use super::super::database::Kind;
use super::super::decide::Records;
use super::super::facts::Tags;
use super::super::sql::{Claiming, Swap};
use super::{TAGS, Task};
use crate::aws::Aws;
use crate::clock::{self, BootTime};
use crate::telemetry::event;

/// `EPOCH/REGION`, a fact, on the own group.
const EPOCH_TAG: &str = "dr-agent:epoch";

/// Identities of this region's servers that were seen replicating, with blanks between.
const ROLL_TAG: &str = "dr-agent:roll";

/// From a tag that could not be written to the next attempt.
const TAG_AGAIN: Duration = Duration::from_secs(10);

impl Task {
    /// Durable records of what is known. None is waited for longer than its deadline.
    pub(super) async fn record(&mut self, records: &Records) {
        if let Some(row) = &records.superseded {
            let own = Claim { epoch: row.epoch, region: row.region.clone() };
            let result = self.sources.own.supersede(&own, &row.by).await;
            self.note("superseded", result.err().map(|error| error.to_string()));
        }
        let Some(group) = self.group_name() else { return };
        // One attempt at a time, and nobody waits for it: no AWS is on the path of a round, a beat or a claim.
        let is_due = self.tagging.is_empty() && BootTime::now() >= self.tag_next;
        if is_due && (records.epoch_tag.is_some() || records.roll_tag.is_some()) {
            let (aws, region) = (self.channels.aws.clone(), self.setup.place.region.clone());
            self.tagging.spawn(tag(aws, region, group, records.clone()));
        }
    }

    /// Takes in what became of the tags.
    pub(super) fn hear_tagged(&mut self) {
        while let Some(done) = self.tagging.try_join_next() {
            let Ok(written) = done else { continue };
            if written.failed.is_some() {
                self.tag_next = BootTime::now() + TAG_AGAIN;
            }
            self.note("tags", written.failed);
            let Some(tagged) = &mut self.facts.tags else { continue };
            if written.epoch.is_some() {
                tagged.stands.epoch = written.epoch;
            }
            if let Some(roll) = written.roll {
                tagged.stands.roll = roll;
            }
        }
    }

    /// Writes the next epoch, after three fresh connections have proven the database writable.
    pub(super) async fn claim(&mut self, row: &NewRow) {
        let problem = self.try_claim(row, "").await.err();
        self.note("claim", problem);
    }

    pub(super) async fn try_claim(&mut self, row: &NewRow, reason: &str) -> Result<Swap, String> {
        let proof = self.sources.own.prove().await.map_err(|unproven| unproven.to_string())?;
        self.proven = Some(clock::wall());
        if proof.read.server != row.server {
            return Err(format!("the endpoint leads to `{}` now, not to `{}`", proof.read.server, row.server));
        }
        let claim = Claim { epoch: row.epoch, region: row.region.clone() };
        let claiming = if row.parent == 0 && row.kind == Kind::Init {
            Claiming::first(claim, row.server.clone(), &self.setup.place.regions, reason)
        } else {
            let rows = proof.read.tables.iter().flat_map(|tables| &tables.closing);
            let closing = rows.filter(|row| row.region == self.setup.place.region && !row.is_released);
            Claiming {
                claim,
                parent: row.parent,
                server: row.server.clone(),
                kind: row.kind,
                reason: reason.to_owned(),
                closing: closing.map(|row| row.until).next(),
            }
        };
        let swap = self.sources.own.claim(&claiming).await.map_err(|error| error.to_string())?;
        event::epoch_claimed(row, swap == Swap::Done);
        Ok(swap)
    }

    pub(super) async fn beat(&mut self) {
        let result = self.sources.own.beat(&self.setup.place.region).await;
        self.note("heartbeat", result.err().map(|error| error.to_string()));
    }

    /// Keeps what was tried in vain until it works.
    pub(super) fn note(&mut self, what: &str, problem: Option<String>) {
        let mark = format!("{what}: ");
        self.problems.retain(|old| !old.starts_with(&mark));
        if let Some(problem) = problem {
            self.problems.insert(mark + &problem);
        }
    }
}

/// What became of an attempt to write the tags: what stands there now, as far as it was to be changed.
#[derive(Debug, Default)]
pub(super) struct Written {
    epoch: Option<Claim>,
    roll: Option<BTreeSet<String>>,
    failed: Option<String>,
}

/// Writes the tags, each within [`TAGS`], after a look at what stands there: other members write too, and nothing that is
/// remembered there is written over.
async fn tag(aws: Aws, region: String, group: String, records: Records) -> Written {
    let mut written = Written::default();
    let vain = |tag: &str| Some(format!("the tag `{tag}` could not be written"));
    let Ok(Ok(stands)) = timeout(TAGS, aws.tags(&region, &group)).await else {
        written.failed = Some("the group's tags could not be read".to_owned());
        return written;
    };
    let stands = read_tags(&stands);
    if let Some(claim) = records.epoch_tag {
        if let Some(higher) = stands.epoch.filter(|higher| higher.epoch >= claim.epoch) {
            written.epoch = Some(higher);
        } else {
            match timeout(TAGS, aws.tag(&region, &group, EPOCH_TAG, &claim.to_string())).await {
                Ok(Ok(())) => written.epoch = Some(claim),
                _ => written.failed = vain(EPOCH_TAG),
            }
        }
    }
    if let Some(mut roll) = records.roll_tag {
        roll.extend(stands.roll);
        let text = roll.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        match timeout(TAGS, aws.tag(&region, &group, ROLL_TAG, &text)).await {
            Ok(Ok(())) => written.roll = Some(roll),
            _ => written.failed = vain(ROLL_TAG),
        }
    }
    written
}

pub(super) fn read_tags(tags: &[(String, String)]) -> Tags {
    let value = |key: &str| tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let claim = |text: &str| {
        let (epoch, region) = text.split_once('/')?;
        Some(Claim { epoch: epoch.parse().ok()?, region: region.to_owned() })
    };
    Tags {
        epoch: value(EPOCH_TAG).and_then(claim),
        roll: value(ROLL_TAG).into_iter().flat_map(str::split_whitespace).map(str::to_owned).collect(),
    }
}
