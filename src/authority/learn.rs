//! What is known: the highest epoch that any source has ever told, and what this region's database is, read or kept.

use super::Claim;
use super::facts::{Across, Facts};
use super::memory::{Memory, Own};
use super::why::Alarm;
use super::{State, epoch};

/// Raises `known` by everything that the sources say.
pub(super) fn learn(facts: &Facts, memory: &mut Memory) {
    for claim in told(facts) {
        // What nobody can have written is no epoch. It is looked at again where the database that has it is judged.
        if facts.place.is_possible(&claim) {
            memory.learn(&claim, facts.now);
        }
    }
}

/// Every claim that some source tells.
fn told(facts: &Facts) -> Vec<Claim> {
    let mut told = Vec::new();
    let databases = [Some(&facts.own), facts.other.as_ref()].into_iter().flatten();
    for seen in databases.filter_map(|database| database.seen.as_ref()) {
        let own = Own::of(&seen.read, &facts.place.region);
        told.extend(own.claim);
        told.extend(own.superseded);
    }
    if let Some(Across::Verified(proof)) = answer(facts) {
        told.extend(proof.claim());
        told.extend(proof.known.clone());
    }
    for (_, word) in facts.group.words() {
        told.extend(word.own.as_ref().and_then(super::word::OwnWord::claim));
        told.extend(word.known.clone());
    }
    let tags = facts.tags.as_ref().and_then(|tags| tags.last.as_ref()?.answer.as_ref());
    told.extend(tags.and_then(|tags| tags.epoch.clone()));
    told
}

fn answer(facts: &Facts) -> Option<&Across> {
    facts.across.as_ref()?.last.as_ref().map(|asked| &asked.answer)
}

/// An epoch above all that is known, from whoever could not prove who it is.
pub(super) fn unproven(facts: &Facts, memory: &Memory) -> Option<Alarm> {
    match answer(facts) {
        Some(Across::Unverified(Some(told))) if *told > memory.known_epoch() => Some(Alarm::UnprovenEpoch(*told)),
        _ => None,
    }
}

/// Keeps what the databases show. What a read shows replaces what was kept; an agent in BOOT that has read nothing yet
/// takes a member's word where that knows more.
pub(super) fn keep(facts: &Facts, memory: &mut Memory) {
    if let Some(seen) = facts.own.fresh() {
        let own = Own::of(&seen.read, &facts.place.region);
        if own.shows == super::memory::Shows::Replica {
            memory.roll.insert(own.server.clone());
        }
        memory.own = Some(own);
    } else if memory.state == State::Boot && facts.own.seen.is_none() {
        let told = facts.group.words().filter_map(|(_, word)| word.own.as_ref());
        if let Some(told) = told.max_by_key(|own| own.epoch)
            && memory.own.as_ref().is_none_or(|own| told.epoch > own.epoch())
        {
            memory.own = Some(told.own());
        }
    }
    let newest = facts.other.as_ref().and_then(|other| other.fresh()?.read.tables.as_ref()?.newest.as_ref());
    if let Some(row) = newest {
        memory.other = Some(row.claim.clone());
    }
}

/// Whether what this region's database shows may be judged against `known`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// It was read after `known` rose last.
    Read,
    /// It was tried after that, in vain: what was kept counts.
    Kept,
    /// Not tried since, or in vain where the epoch is this region's own: nothing changes yet.
    None,
}

/// On what a higher epoch than this region's database has is judged.
pub(super) fn basis(facts: &Facts, memory: &Memory) -> Basis {
    let learned = memory.run.learned;
    let is_mine = memory.known.as_ref().is_some_and(|known| known.region == facts.place.region);
    if facts.own.read_since(learned).is_some() {
        Basis::Read
    } else if facts.own.tried_since(learned) && !is_mine {
        Basis::Kept
    } else {
        Basis::None
    }
}

/// The epoch that is known is above the one of this region's database.
pub(super) fn is_behind(own: &Own, memory: &Memory) -> bool {
    epoch(memory.known.as_ref()) > own.epoch()
}
