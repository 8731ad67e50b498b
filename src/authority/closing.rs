//! A planned close: a row in the owner's database that every agent of both regions obeys, and what must be proven
//! before one that is over stops counting.

use jiff::Timestamp;

use super::State;
use super::database::{Closing, Read};
use super::facts::{Database, Facts};
use super::learn;
use super::memory::{Latch, Memory, Shows};

/// How this region's close counts now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ruling {
    /// It is obeyed.
    pub(super) is_closed: bool,
    /// It is over, and obeyed until its end is proven.
    pub(super) is_ending: bool,
    /// It is over, and the other region's database is no replica.
    pub(super) is_stuck: bool,
    /// The row with this end is to be marked released.
    pub(super) release: Option<Timestamp>,
}

/// The planned close of `region` that a read shows, in force or not.
pub(super) fn row<'a>(read: &'a Read, region: &str) -> Option<&'a Closing> {
    read.tables.as_ref()?.closing.iter().find(|row| row.region == region && !row.is_drill)
}

/// The drill of `region` that a read shows in force.
pub(super) fn drill<'a>(read: &'a Read, region: &str) -> Option<&'a Closing> {
    let rows = &read.tables.as_ref()?.closing;
    rows.iter().find(|row| row.region == region && row.is_drill && row.is_in_force)
}

/// A drill of this region is in force: of the owner's, others are not asked to serve. It ends with the database that it stands
/// in: nobody could tell when it is over, and what it rehearses has come.
pub(super) fn is_drill(facts: &Facts, state: State) -> bool {
    let is_owner = matches!(state, State::Owner | State::OwnerPending);
    is_owner && facts.own.fresh().is_some_and(|seen| drill(&seen.read, &facts.place.region).is_some())
}

/// Judges this region's close. It binds whoever owns the region's database or is about to.
pub(super) fn own(facts: &Facts, memory: &mut Memory, state: State) -> Ruling {
    match state {
        State::Owner | State::OwnerPending => {}
        State::Boot | State::Ambiguous => return Ruling::default(),
        // A row that stands here is the past of another owner, or ended by what superseded this one.
        State::Uninitialised | State::Standby | State::Unclaimed | State::Superseded => {
            memory.close = Latch::default();
            return Ruling::default();
        }
    }
    watch(&mut memory.close, &facts.own, &facts.place.region);
    let mut ruling = Ruling { is_closed: memory.close.obeyed.is_some(), ..Ruling::default() };
    let Some(over) = memory.close.over else { return ruling };
    ruling.is_ending = true;
    // Claimed elsewhere meanwhile: nothing opens on that any more.
    if memory.own.as_ref().is_none_or(|own| learn::is_behind(own, memory)) {
        return ruling;
    }
    let seen = facts.own.seen.as_ref();
    let expired = seen.and_then(|seen| row(&seen.read, &facts.place.region)).filter(|row| !row.is_released);
    let channels = other_channels(facts);
    if facts.other.as_ref().is_none_or(|other| !other.tried_since(over)) {
        // With nobody to ask it is over when it is over.
        if facts.other.is_none() {
            return end(memory);
        }
        return ruling;
    }
    if facts.tags.as_ref().is_some_and(|tags| !tags.asked_since(over)) {
        return ruling;
    }
    match expired {
        // Somebody has vouched for its end; the read was for an epoch that may have been claimed meanwhile.
        None => end(memory),
        Some(row) if channels.is_some_and(|count| count > 0) => Ruling { release: Some(row.until), ..end(memory) },
        // Availability before a promise that nobody is keeping.
        Some(_) if channels.is_none() => end(memory),
        Some(_) => Ruling { is_stuck: true, ..ruling },
    }
}

/// The replication channels of the other region's database; `None` where it cannot be read, or does not say.
fn other_channels(facts: &Facts) -> Option<u32> {
    facts.other.as_ref()?.fresh()?.read.channels
}

fn end(memory: &mut Memory) -> Ruling {
    memory.close = Latch { passed: memory.close.obeyed, ..Latch::default() };
    Ruling::default()
}

/// Judges the other region's close: whether this region's apps may not write to its database for it.
pub(super) fn other(facts: &Facts, memory: &mut Memory) -> bool {
    let Some(other) = &facts.other else { return false };
    let latch = &mut memory.other_close;
    watch(latch, other, &facts.place.other);
    // While this region's database replicates nobody has promoted it.
    if let Some(over) = latch.over
        && facts.own.read_since(over).is_some_and(|seen| Shows::of(&seen.read) == Shows::Replica)
    {
        *latch = Latch { passed: latch.obeyed, ..Latch::default() };
    }
    latch.obeyed.is_some()
}

/// Takes in what the last read shows of the close of `region`; while there is none what was obeyed is obeyed.
fn watch(latch: &mut Latch, database: &Database, region: &str) {
    let Some(seen) = database.fresh() else { return };
    match row(&seen.read, region) {
        Some(row) if row.is_in_force => *latch = Latch { obeyed: Some(row.until), ..Latch::default() },
        Some(row) if !row.is_released && latch.passed != Some(row.until) => {
            latch.obeyed = Some(row.until);
            latch.over.get_or_insert(seen.ended);
        }
        _ if latch.obeyed.is_some() => _ = latch.over.get_or_insert(seen.ended),
        _ => {}
    }
}
