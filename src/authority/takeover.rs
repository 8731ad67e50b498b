//! May a region that has just got the highest epoch open for writing: only when the old owner has stopped, or nobody
//! can wait for it any longer.

use std::time::Duration;

use super::State;
use super::facts::{Across, Facts};
use super::memory::{Memory, Own};
use super::why::{Awaited, Reason};
use super::word::Word;
use crate::clock::BootTime;

/// A member in BOOT is waited for, for at most so many times `boot_wait`.
const BOOT_WAITS: u32 = 2;

/// A member that still writes to the other region is waited for, for at most so many times `takeover_wait`: a helper
/// that is broken on one machine must not keep the region from everybody.
const STUCK_WAITS: u32 = 4;

/// Whether taking over at this epoch was done with before: passed once, it is never waited for again.
pub(super) fn was_passed(facts: &Facts, memory: &Memory, epoch: u64) -> Option<Reason> {
    if memory.took_over == epoch {
        return Some(Reason::TookOverBefore(None));
    }
    let passed = |word: &Word| {
        let own = word.own.as_ref().map_or(0, |own| own.epoch);
        word.is(State::Owner) && own == epoch && word.took_over == epoch
    };
    let mut words = facts.group.words();
    words.find(|(_, word)| passed(word)).map(|(member, _)| Reason::TookOverBefore(Some(member.to_owned())))
}

/// What is still waited for, since the wait began; nothing when it is over.
pub(super) fn awaited(facts: &Facts, own: &Own, since: BootTime) -> Vec<Awaited> {
    let mut awaited = Vec::new();
    // An old read may be from before somebody claimed a higher epoch.
    if facts.own.read_since(since).is_none() || !facts.asked_since(since) {
        awaited.push(Awaited::FreshReads);
    }
    // The first row takes nothing from anybody.
    if own.is_first {
        return awaited;
    }
    let waited = facts.now.since(since);
    if waited < STUCK_WAITS * facts.waits.takeover {
        awaited.extend(writing_elsewhere(facts).map(|member| Awaited::MemberStops(member.to_owned())));
    }
    let booting = |word: &Word| {
        let age = Duration::from_millis(word.boot_age_ms.unwrap_or_default());
        word.is_in_boot() && age < BOOT_WAITS * facts.waits.boot
    };
    let members = facts.group.words().filter(|(_, word)| booting(word));
    awaited.extend(members.map(|(member, _)| Awaited::MemberBoots(member.to_owned())));
    if waited < facts.waits.takeover {
        // One that lives and cannot be heard has read the new epoch itself by then.
        awaited.extend(facts.group.silent.iter().cloned().map(Awaited::MemberAnswers));
        if !is_across_closed(facts, since) {
            awaited.push(Awaited::OtherCloses);
        }
    }
    awaited
}

/// Members that still write to the other region's database, and this instance by the name of none.
pub(super) fn writing_elsewhere(facts: &Facts) -> impl Iterator<Item = &str> {
    let other = facts.place.other.as_str();
    let members = facts.group.words().filter(move |(_, word)| word.writer == other).map(|(member, _)| member);
    members.chain(facts.applied.writers.contains(other).then_some("this instance"))
}

/// The other region has said, or shows by its silence, that it takes no writes. An answer that proves nothing is neither.
fn is_across_closed(facts: &Facts, since: BootTime) -> bool {
    let Some(across) = &facts.across else { return false };
    match across.since(since) {
        Some(Across::Verified(proof)) => proof.closed,
        Some(Across::Silent) => true,
        Some(Across::Unverified(_) | Across::Failed) | None => false,
    }
}
