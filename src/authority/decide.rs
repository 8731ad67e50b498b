//! The decision: one pure function from facts and memory to the state of this region's authority and all that follows.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::claim::{self, NewRow, Refusal};
use super::closing;
use super::database::Unread;
use super::facts::{Facts, Seen};
use super::learn::{self, Basis};
use super::memory::{Latch, Memory, Own, Shows};
use super::outputs::{self, Across, Gate, RegionRule, Target};
use super::takeover;
use super::why::{Alarm, Awaited, Contradiction, Reason};
use super::{Claim, Role, State, epoch};

/// What is decided. Carried out in the order of [`outputs::steps`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub state: State,
    pub role: Role,
    pub gate: Gate,
    pub writer: Target,
    pub reader: Target,
    pub region: RegionRule,
    /// The answer to `/health/promoted`.
    pub promoted: bool,
    /// This region could take over as far as its database is concerned.
    pub standby_ready: bool,
    /// Why, most telling first.
    pub why: Vec<Reason>,
    /// The epoch to claim now, after three fresh connections have proven the database writable, or why not.
    pub claim: Result<NewRow, Refusal>,
    pub records: Records,
    /// Register this identity as replicating, through this region's source: the other region's database.
    pub enrol: Option<String>,
    /// Mark the `closing` row of this region with this end released, by compare-and-swap on it.
    pub release: Option<Timestamp>,
    /// Write the heartbeat row.
    pub beats: bool,
    /// Begin the next round at once.
    pub hurries: bool,
    /// Read the group's tags in the next round.
    pub reads_tags: bool,
    pub alarms: Vec<Alarm>,
    /// What the next decision takes; to be persisted when it changed.
    pub memory: Memory,
}

/// Durable records of a higher epoch, to be made before anything may open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Records {
    /// A row for this region's `superseded` table.
    pub superseded: Option<SupersededRow>,
    /// The tag `dr-agent:epoch`. To be read first, and not written over a higher one.
    pub epoch_tag: Option<Claim>,
    /// The tag `dr-agent:roll`, whole.
    pub roll_tag: Option<BTreeSet<String>>,
}

/// A row of `superseded` to write.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SupersededRow {
    pub region: String,
    pub epoch: u64,
    pub by: Claim,
}

/// Decides. To be called when a source has answered, and when a wait may have ended; the same facts and memory give the
/// same decision.
#[must_use]
pub fn decide(facts: &Facts, memory: &Memory) -> Decision {
    let before = memory.state;
    let known_before = memory.known_epoch();
    let mut memory = memory.clone();
    learn::learn(facts, &mut memory);
    learn::keep(facts, &mut memory);
    let mut judge = Judge { facts, memory: &mut memory, why: Vec::new() };
    let state = judge.state();
    let mut why = judge.why;
    memory.state = state;
    if state != State::Boot {
        memory.boot_began = None;
    }
    memory.run.unclaimed = (state == State::Unclaimed).then(|| memory.run.unclaimed.unwrap_or(facts.now));
    if state != State::OwnerPending {
        memory.run.pending = None;
    }
    if state == State::Owner {
        memory.took_over = memory.own.as_ref().map_or(0, Own::epoch);
    }
    let ruling = closing::own(facts, &mut memory, state);
    let across = across(facts, &mut memory, state, &mut why);
    let table = outputs::table(facts, &memory, (before, state), &ruling, across);
    memory.region = table.region;
    memory.promoted = table.promoted;
    if ruling.is_closed {
        why.push(if ruling.is_ending { Reason::CloseEnding } else { Reason::PlannedClose });
    }
    if closing::is_drill(facts, state) {
        why.push(Reason::Drill);
    }
    let fresh = facts.own.fresh();
    if fresh.is_none() && memory.own.is_some() {
        why.push(Reason::OwnUnread);
    }
    let claim = claim::automatic(facts, &memory, state);
    let mut decision = Decision {
        state,
        role: role(facts, &memory, state),
        gate: table.gate,
        writer: table.writer,
        reader: table.reader,
        region: table.region,
        promoted: table.promoted,
        standby_ready: is_standby_ready(fresh, &memory, state),
        why,
        records: records(facts, &memory, state),
        enrol: enrol(facts, &memory),
        release: ruling.release,
        beats: state == State::Owner && fresh.is_some(),
        hurries: state != before
            || memory.known_epoch() != known_before
            || state == State::OwnerPending
            // What only a person can change is not waited for.
            || (state == State::Unclaimed && matches!(claim, Ok(_) | Err(Refusal::Unread | Refusal::TagsUnread)))
            || (ruling.is_ending && !ruling.is_stuck),
        reads_tags: reads_tags(facts, &memory, state),
        alarms: Vec::new(),
        claim,
        memory,
    };
    decision.alarms = alarms(facts, &decision, ruling.is_stuck);
    decision
}

struct Judge<'a> {
    facts: &'a Facts,
    memory: &'a mut Memory,
    why: Vec<Reason>,
}

impl Judge<'_> {
    /// The state, in the order in which the rules are asked.
    fn state(&mut self) -> State {
        let before = self.memory.state;
        if before == State::Boot && !self.is_boot_over() {
            return self.because(State::Boot, Reason::StillBooting);
        }
        let Some(own) = self.memory.own.clone() else { return self.without_own() };
        let Some(known) = self.memory.known.clone() else {
            return match self.contradiction(&own) {
                // A row that nobody can have written is no sign that nobody ever wrote one.
                Some(contradiction) if own.claim.is_some() => {
                    self.because(State::Ambiguous, Reason::Contradicts(contradiction))
                }
                _ => self.without_own(),
            };
        };
        let unread = std::mem::replace(&mut self.memory.unread, false);
        if own.shows == Shows::Replica {
            return self.because(State::Standby, Reason::Replica);
        }
        if let Some(by) = own.superseded.clone() {
            return self.because(State::Superseded, Reason::SupersededRow(by));
        }
        if learn::is_behind(&own, self.memory) {
            return match learn::basis(self.facts, self.memory) {
                Basis::Read | Basis::Kept => self.because(State::Superseded, Reason::HigherEpoch(known)),
                // This region's own claim, and its database cannot be read: what was kept is of no use.
                Basis::None if before == State::Boot && self.facts.own.tried_since(self.memory.run.learned) => {
                    self.without_own()
                }
                Basis::None => {
                    self.memory.unread = unread;
                    self.because(before, Reason::NotReread(known))
                }
            };
        }
        if let Some(contradiction) = self.contradiction(&own) {
            return self.because(State::Ambiguous, Reason::Contradicts(contradiction));
        }
        if own.names(&self.facts.place.region) {
            self.owner(&own, known)
        } else {
            self.because(State::Unclaimed, Reason::PromotedUnclaimed(known))
        }
    }

    fn because(&mut self, state: State, reason: Reason) -> State {
        self.why.push(reason);
        state
    }

    /// Nothing is known of this region's database that could be judged.
    fn without_own(&mut self) -> State {
        if self.memory.known.is_some() {
            self.memory.unread = true;
            return self.because(State::Standby, Reason::NothingKept);
        }
        // Without a look at a database it is only not known that somebody has.
        let reason = if self.memory.own.is_none() { Reason::NothingKept } else { Reason::NobodyEverClaimed };
        self.because(State::Uninitialised, reason)
    }

    fn is_boot_over(&self) -> bool {
        let began = self.memory.boot_began.unwrap_or(self.memory.run.started);
        let waited = self.facts.now.since(began) >= self.facts.waits.boot;
        let started = self.memory.run.started;
        if self.memory.known.is_none() {
            return waited || self.facts.asked_since(started);
        }
        waited || self.facts.answered_since(started)
    }

    /// What cannot be true together in and about this region's database.
    fn contradiction(&self, own: &Own) -> Option<Contradiction> {
        let place = &self.facts.place;
        match own.shows {
            Shows::WritableReplica => return Some(Contradiction::WritableReplica),
            Shows::ReadOnly => return Some(Contradiction::ReadOnlyWithoutChannel),
            Shows::Unclear => return Some(Contradiction::ChannelsUnread),
            Shows::Writable | Shows::Replica => {}
        }
        let claim = own.claim.as_ref()?;
        if !place.is_possible(claim) {
            return Some(Contradiction::ImpossibleClaim(claim.clone()));
        }
        let tables = |seen: &'_ Seen| seen.read.tables.clone();
        let mine = self.facts.own.seen.as_ref().and_then(tables);
        if let Some(order) = mine.as_ref().map(|tables| &tables.regions)
            && !order.is_empty()
            && order != &place.regions
        {
            return Some(Contradiction::OrderOfRegions(order.clone()));
        }
        let other = self.facts.other.as_ref()?.seen.as_ref().filter(|seen| Shows::of(&seen.read) == Shows::Writable)?;
        let (mine, theirs) = (mine?.newest?, tables(other)?.newest?);
        let is_tie = mine.claim.epoch == theirs.claim.epoch;
        let differs = mine.claim.region != theirs.claim.region || mine.server != theirs.server;
        (is_tie && differs).then_some(Contradiction::SameEpoch(mine.claim, theirs.claim))
    }

    /// The highest epoch is this region's, and its database is writable.
    fn owner(&mut self, own: &Own, known: Claim) -> State {
        let epoch = known.epoch;
        self.why.push(Reason::OwnsHighest(known));
        if let Some(passed) = takeover::was_passed(self.facts, self.memory, epoch) {
            if self.memory.state != State::Owner {
                self.why.push(passed);
            }
            return State::Owner;
        }
        let since = self.memory.run.pending.filter(|(waits_for, _)| *waits_for == epoch).map(|(_, since)| since);
        let since = since.unwrap_or(self.facts.now);
        self.memory.run.pending = Some((epoch, since));
        let awaited = takeover::awaited(self.facts, own, since);
        if awaited.is_empty() {
            return State::Owner;
        }
        self.why.extend(awaited.into_iter().map(Reason::Awaits));
        State::OwnerPending
    }
}

/// What the other region's database is to this region's apps. Its planned close binds whoever may be writing there.
fn across(facts: &Facts, memory: &mut Memory, state: State, why: &mut Vec<Reason>) -> Across {
    match state {
        State::Standby | State::Superseded => {}
        State::Boot | State::Ambiguous => {
            return Across { is_closing: closing::other(facts, memory), ..Across::default() };
        }
        State::Uninitialised | State::Unclaimed | State::OwnerPending | State::Owner => {
            memory.other_close = Latch::default();
            return Across::default();
        }
    }
    let known = memory.known_epoch();
    let is_known_other = memory.known.as_ref().is_some_and(|known| known.region == facts.place.other);
    let row = memory.other.as_ref().filter(|row| row.region == facts.place.other);
    // A standby keeps an owner whose newer row it has only heard of.
    let is_owner = row.is_some_and(|row| row.epoch >= known || (state == State::Standby && is_known_other));
    let is_closing = closing::other(facts, memory);
    why.push(match (is_owner, is_closing) {
        (true, true) => Reason::OtherIsClosing,
        (true, false) => Reason::OtherIsOwner,
        (false, _) => Reason::OtherIsNotOwner,
    });
    Across { is_owner, is_closing }
}

fn role(facts: &Facts, memory: &Memory, state: State) -> Role {
    let Some(own) = memory.own.as_ref().filter(|_| facts.own.fresh().is_some()) else { return Role::Unreachable };
    match own.shows {
        Shows::Replica => Role::Replica,
        Shows::WritableReplica | Shows::ReadOnly | Shows::Unclear => Role::Ambiguous,
        Shows::Writable if state == State::Ambiguous => Role::Ambiguous,
        Shows::Writable if own.superseded.is_some() || learn::is_behind(own, memory) => Role::Superseded,
        Shows::Writable if own.claim.is_none() || own.names(&facts.place.region) => Role::Primary,
        Shows::Writable => Role::Promoted,
    }
}

fn is_standby_ready(fresh: Option<&Seen>, memory: &Memory, state: State) -> bool {
    let Some(own) = &memory.own else { return false };
    state == State::Standby && fresh.is_some() && own.shows == Shows::Replica && !learn::is_behind(own, memory)
}

/// Each is asked for until its source shows it.
fn records(facts: &Facts, memory: &Memory, state: State) -> Records {
    let mut records = Records::default();
    let tables = facts.own.fresh().and_then(|seen| seen.read.tables.as_ref());
    if let (State::Superseded, Some(own), Some(by), Some(_)) = (state, &memory.own, &memory.known, tables)
        && own.shows == Shows::Writable
        && by.epoch > own.epoch()
        && by.epoch > epoch(own.superseded.as_ref())
    {
        let region = facts.place.region.clone();
        records.superseded = Some(SupersededRow { region, epoch: own.epoch(), by: by.clone() });
    }
    let Some(tags) = &facts.tags else { return records };
    if memory.known_epoch() > epoch(tags.stands.epoch.as_ref()) {
        records.epoch_tag.clone_from(&memory.known);
    }
    if !memory.roll.is_subset(&tags.stands.roll) {
        records.roll_tag = Some(memory.roll.union(&tags.stands.roll).cloned().collect());
    }
    records
}

/// The identity to register while it replicates, until the row has come back.
fn enrol(facts: &Facts, memory: &Memory) -> Option<String> {
    let own = memory.own.as_ref().filter(|own| own.shows == Shows::Replica)?;
    let tables = facts.own.fresh()?.read.tables.as_ref()?;
    let is_there = tables.roll.iter().any(|row| row.server == own.server && row.region == facts.place.region);
    let source = facts.other.as_ref()?.fresh()?;
    (!is_there && Shows::of(&source.read) == Shows::Writable).then(|| own.server.clone())
}

/// Tags are read in a boot, before a claim and before an opening, never once a round.
fn reads_tags(facts: &Facts, memory: &Memory, state: State) -> bool {
    let Some(tags) = &facts.tags else { return false };
    let opening = memory.run.unclaimed.or(memory.run.pending.map(|(_, since)| since)).or(memory.close.over);
    match state {
        State::Boot => {
            let last = tags.last.as_ref().filter(|asked| asked.began >= memory.run.started);
            last.is_none_or(|asked| asked.answer.is_none())
        }
        _ => opening.is_some_and(|since| !tags.asked_since(since)),
    }
}

fn alarms(facts: &Facts, decision: &Decision, is_stuck: bool) -> Vec<Alarm> {
    let memory = &decision.memory;
    let mut alarms = Vec::new();
    if let (State::Superseded, Some(known)) = (decision.state, &memory.known) {
        alarms.push(Alarm::Superseded(known.clone()));
    }
    for reason in &decision.why {
        match reason {
            Reason::Contradicts(contradiction) => alarms.push(Alarm::Contradicts(contradiction.clone())),
            Reason::Awaits(Awaited::MemberStops(member))
                if memory.run.pending.is_some_and(|(_, since)| facts.now.since(since) > facts.waits.takeover) =>
            {
                alarms.push(Alarm::MemberStillWrites(member.clone()));
            }
            _ => {}
        }
    }
    match decision.claim {
        // These pass by themselves.
        Err(Refusal::Unread | Refusal::TagsUnread) | Ok(_) => {}
        Err(refusal) if decision.state == State::Unclaimed => alarms.push(Alarm::Unclaimed(refusal)),
        Err(_) => {}
    }
    alarms.extend(learn::unproven(facts, memory));
    if is_stuck {
        alarms.push(Alarm::CloseWithoutReplica);
    }
    let databases = [Some(&facts.own), facts.other.as_ref()].into_iter().flatten();
    for attempt in databases.filter_map(|database| database.last.as_ref()) {
        if let Err(Unread::NoRight(right)) = &attempt.result {
            alarms.push(Alarm::NoRight(right.clone()));
        }
    }
    alarms
}

#[cfg(test)]
pub(super) mod bench;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
