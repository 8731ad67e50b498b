//! May the agents claim the next epoch by themselves: only for a database that they saw replicating, and that is
//! writable now and carries the newest row there is.

use serde::{Deserialize, Serialize};

use super::State;
use super::database::Kind;
use super::facts::Facts;
use super::memory::{Memory, Own, Shows};
use crate::reasons::reasons;

/// A row to write: by compare-and-swap, only where `parent` is still the highest epoch in the database, and with the
/// heartbeat row and the release of this region's close in the same transaction. A duplicate key means that somebody
/// was faster: read again, never count on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewRow {
    pub epoch: u64,
    /// 0 for the first row.
    pub parent: u64,
    pub region: String,
    pub server: String,
    pub kind: Kind,
}

reasons! {
    /// One reason why the agents do not claim an epoch by themselves.
    Refusal {
        InBoot: "nothing was decided yet in this boot";
        NotInitialised: "nobody has written an epoch yet: `dr-agent authority init` writes the first";
        Unread: "this region's database cannot be read now";
        Ambiguous: "signals contradict each other";
        NotWritable: "this region's database is read-only, or a replica";
        Superseded: "a higher epoch than this region's database has exists";
        NotInherited: "this region's database does not carry the newest row";
        AlreadyOwner: "this region owns the highest epoch";
        NeverSeenReplicating: "no agent of this region ever saw this server replicate: `dr-agent authority claim` if it was";
        TagsUnread: "the tags of the group are read first";
    }
}

/// The epoch that the agents would claim, or the first reason why not.
///
/// # Errors
/// When they may not; all but `InBoot`, `Unread` and `TagsUnread` stay until somebody acts.
pub(super) fn automatic(facts: &Facts, memory: &Memory, state: State) -> Result<NewRow, Refusal> {
    let fresh = facts.own.fresh();
    let (Some(own), Some(seen)) = (&memory.own, fresh) else {
        return Err(if state == State::Boot { Refusal::InBoot } else { Refusal::Unread });
    };
    match state {
        State::Boot => return Err(Refusal::InBoot),
        State::Uninitialised => return Err(Refusal::NotInitialised),
        State::Ambiguous => return Err(Refusal::Ambiguous),
        State::Superseded => return Err(Refusal::Superseded),
        State::Standby | State::Unclaimed | State::Owner | State::OwnerPending => {}
    }
    if own.shows != Shows::Writable {
        return Err(Refusal::NotWritable);
    }
    if own.superseded.is_some() {
        return Err(Refusal::Superseded);
    }
    if own.epoch() != memory.known_epoch() {
        return Err(Refusal::NotInherited);
    }
    if own.names(&facts.place.region) {
        return Err(Refusal::AlreadyOwner);
    }
    let tables = seen.read.tables.as_ref();
    let mut roll = tables.into_iter().flat_map(|tables| &tables.roll);
    let was_seen = roll.any(|row| row.server == own.server && row.region == facts.place.region)
        || memory.roll.contains(&own.server)
        || facts.group.words().any(|(_, word)| word.roll.contains(&own.server))
        || facts.tags.as_ref().is_some_and(|tags| tags.stands.roll.contains(&own.server));
    let since = memory.run.unclaimed.unwrap_or(facts.now);
    if facts.tags.as_ref().is_some_and(|tags| !tags.asked_since(since)) {
        return Err(Refusal::TagsUnread);
    }
    if was_seen { Ok(next(facts, own)) } else { Err(Refusal::NeverSeenReplicating) }
}

fn next(facts: &Facts, own: &Own) -> NewRow {
    NewRow {
        epoch: facts.place.next_epoch(own.epoch()),
        parent: own.epoch(),
        region: facts.place.region.clone(),
        server: own.server.clone(),
        kind: Kind::Promotion,
    }
}
