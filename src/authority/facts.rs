//! Everything that one decision is made from, as the sources said it. Whoever reads a source fills its part in; nothing
//! here decides.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Claim;
use super::database::{Attempt, Read};
use super::word::{Proof, Word};
use crate::clock::BootTime;

/// What one decision takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub now: BootTime,
    pub place: Place,
    pub waits: Waits,
    /// This region's database.
    pub own: Database,
    /// The other region's database; `None` if it is not configured.
    pub other: Option<Database>,
    /// The other region's `/health/authority`; `None` if no URL is configured.
    pub across: Option<Source<Across>>,
    /// The other members of the group.
    pub group: Group,
    /// The tags on the own group; `None` where there is no group or AWS is not used.
    pub tags: Option<Tagged>,
    pub applied: Applied,
}

/// Where this agent is. Does not change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// This region.
    pub region: String,
    /// The other one.
    pub other: String,
    /// The region that has the traffic at first: one of the two.
    pub home: String,
    /// `authority.regions`: the first one's epochs are odd, the second one's even.
    pub regions: [String; 2],
}

/// The `[authority]` table's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    pub boot: Duration,
    pub takeover: Duration,
}

/// What is known of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Database {
    /// The last attempt that has ended.
    pub last: Option<Attempt>,
    /// The last attempt that succeeded.
    pub seen: Option<Seen>,
}

/// A read that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    pub began: BootTime,
    pub ended: BootTime,
    pub read: Read,
}

/// What a source answered last.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source<T> {
    /// The last question that has ended.
    pub last: Option<Asked<T>>,
}

/// One question that has ended, well or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asked<T> {
    pub began: BootTime,
    pub answer: T,
}

/// What came of asking the other region.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Across {
    /// An answer whose MAC is right.
    Verified(Proof),
    /// An answer that proves nothing. With the number it may have shown, for people.
    Unverified(Option<u64>),
    /// No TCP connection to any endpoint of that region in the whole round, its database included.
    Silent,
    /// Something else: a connection, but no answer that can be used.
    Failed,
}

/// The other members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Group {
    /// When the last round that has ended began. A group of one has rounds too.
    pub asked: Option<BootTime>,
    /// Those who answered in it.
    pub members: Vec<Member>,
    /// Those who did not, and may be there all the same: what they write to is not known.
    pub silent: Vec<String>,
}

/// One member that answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    pub instance: String,
    pub region_closed: bool,
    /// `None` from a release that does not know of authority.
    pub word: Option<Word>,
}

/// The tags on the own group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tagged {
    /// The last time they were read, or could not be.
    pub last: Option<Asked<Option<Tags>>>,
    /// What this process read or wrote last.
    pub stands: Tags,
}

/// What the tags say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tags {
    /// `dr-agent:epoch`, `EPOCH/REGION`.
    pub epoch: Option<Claim>,
    /// `dr-agent:roll`: identities of this region's servers that were seen replicating.
    pub roll: BTreeSet<String>,
}

/// What stands on this instance now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Applied {
    /// The marker `fenced` is there.
    pub gate_closed: bool,
    /// The regions whose database the app may be writing to: one name, none if it has no writer, both while it is being
    /// repointed. Without any configured output it is this region, where an app writes that nobody repoints.
    pub writers: BTreeSet<String>,
    /// The outputs never had a writer: a new instance.
    pub never_had_writer: bool,
    /// Established connections of this instance to a database that is not its writer any more.
    pub old_writer_sessions: u32,
}

impl Database {
    /// Takes in an attempt that has ended.
    pub fn take(&mut self, attempt: Attempt) {
        if let Ok(read) = &attempt.result {
            self.seen = Some(Seen { began: attempt.began, ended: attempt.ended, read: read.clone() });
        }
        self.last = Some(attempt);
    }

    /// What it shows now: `None` while it cannot be read.
    #[must_use]
    pub fn fresh(&self) -> Option<&Seen> {
        self.last.as_ref()?.result.as_ref().ok()?;
        self.seen.as_ref()
    }

    /// An attempt that began no earlier than `time` has ended.
    #[must_use]
    pub fn tried_since(&self, time: BootTime) -> bool {
        self.last.as_ref().is_some_and(|attempt| attempt.began >= time)
    }

    /// What a read that began no earlier than `time` shows, if it is the last.
    #[must_use]
    pub fn read_since(&self, time: BootTime) -> Option<&Seen> {
        self.fresh().filter(|seen| seen.began >= time)
    }
}

impl<T> Source<T> {
    /// The answer to a question asked no earlier than `time`.
    #[must_use]
    pub fn since(&self, time: BootTime) -> Option<&T> {
        self.last.as_ref().filter(|asked| asked.began >= time).map(|asked| &asked.answer)
    }
}

impl<T> Default for Source<T> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl Tagged {
    /// They were asked for no earlier than `time`, whatever came of it.
    #[must_use]
    pub fn asked_since(&self, time: BootTime) -> bool {
        self.last.as_ref().is_some_and(|asked| asked.began >= time)
    }
}

impl Group {
    /// The words of those who know of authority, with the instance.
    pub fn words(&self) -> impl Iterator<Item = (&str, &Word)> {
        self.members.iter().filter_map(|member| Some((member.instance.as_str(), member.word.as_ref()?)))
    }

    /// What the members say of the region: closed iff all of those past BOOT say so; `None` if there is none.
    #[must_use]
    pub fn region_closed(&self) -> Option<bool> {
        let mut past = self.members.iter().filter(|member| member.word.as_ref().is_none_or(|word| !word.is_in_boot()));
        let first = past.next()?;
        Some(first.region_closed && past.all(|member| member.region_closed))
    }
}

impl Facts {
    /// What the other region answered last; `None` before, and where it is not asked.
    #[must_use]
    pub fn answer_across(&self) -> Option<&Across> {
        Some(&self.across.as_ref()?.last.as_ref()?.answer)
    }

    /// Every source was asked no earlier than `time`, and each question has ended, well or not.
    #[must_use]
    pub fn asked_since(&self, time: BootTime) -> bool {
        self.own.tried_since(time)
            && self.other.as_ref().is_none_or(|other| other.tried_since(time))
            && self.across.as_ref().is_none_or(|across| across.since(time).is_some())
            && self.group.asked.is_some_and(|asked| asked >= time)
            && self.tags.as_ref().is_none_or(|tags| tags.asked_since(time))
    }

    /// Every source has answered at least once since `time`, and this region's database was read.
    #[must_use]
    pub fn answered_since(&self, time: BootTime) -> bool {
        let said =
            |across: &Source<Across>| matches!(across.since(time), Some(Across::Verified(_) | Across::Unverified(_)));
        let told =
            |tags: &Tagged| tags.last.as_ref().is_some_and(|asked| asked.began >= time && asked.answer.is_some());
        let read = |database: &Database| database.seen.as_ref().is_some_and(|seen| seen.began >= time);
        read(&self.own)
            && self.other.as_ref().is_none_or(read)
            && self.across.as_ref().is_none_or(said)
            && self.group.asked.is_some_and(|asked| asked >= time)
            && self.tags.as_ref().is_none_or(told)
    }
}

impl Place {
    /// The smallest number above `base` that this region may write.
    #[must_use]
    pub fn next_epoch(&self, base: u64) -> u64 {
        let next = base.saturating_add(1);
        if is_odd(next) == (self.region == self.regions[0]) { next } else { next.saturating_add(1) }
    }

    /// Whether a claim can have been written by the region that it names.
    #[must_use]
    pub fn is_possible(&self, claim: &Claim) -> bool {
        claim.epoch > 0 && claim.region == self.regions[usize::from(!is_odd(claim.epoch))]
    }
}

const fn is_odd(number: u64) -> bool {
    number % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_region_has_numbers_of_its_own() {
        let place = |region: &str| Place {
            region: region.to_owned(),
            other: String::new(),
            home: "a".to_owned(),
            regions: ["a".to_owned(), "b".to_owned()],
        };
        let next = |region, base| place(region).next_epoch(base);
        assert_eq!([next("a", 0), next("a", 1), next("a", 2), next("a", 3)], [1, 3, 3, 5]);
        assert_eq!([next("b", 0), next("b", 1), next("b", 2), next("b", 3)], [2, 2, 4, 4]);
        for base in 0..20 {
            let [a, b] = ["a", "b"].map(|region| Claim { epoch: next(region, base), region: region.to_owned() });
            assert!(place("a").is_possible(&a) && place("a").is_possible(&b) && a.epoch != b.epoch);
        }
        assert!(!place("a").is_possible(&Claim { epoch: 0, region: "b".to_owned() }));
        assert!(!place("a").is_possible(&Claim { epoch: 2, region: "a".to_owned() }));
    }
}
