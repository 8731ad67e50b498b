//! The ledger: one record of each change of the owner that this agent has seen, with the time of each step and an estimate
//! of what was lost. For people; nothing is decided by it, and nothing waits for it. Pure.
//!
//! **What may be lost** is what the old owner wrote after its newest heartbeat in the new owner's database. For how long it
//! did that is told by four numbers. `most`: how old that heartbeat was when the old owner had stopped, as far as anybody
//! saw; what is promised until more is known. `lag`: how old the old owner's newest heartbeat was in the replica when it was
//! last seen as a replica: as much is missing if the old owner had stopped then, and it seldom had. `lost_ms`: from both
//! databases' heartbeat rows of the old owner, once both can be read. An owner that is lost has written on for [`BEATS`] at
//! most after its last one; with that it takes the place of what nobody saw end. `wrote_after_ms`, in the region that was
//! superseded: for how long its agents went on as the owner's after the new epoch was written, by its last heartbeat and
//! the row's `since`, which two servers' clocks have written.

mod words;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::database::{Read, Row};
use super::decide::Decision;
use super::facts::{Across, Database, Facts};
use super::lag::Lag;
use super::memory::Shows;
use super::word::Proof;
use super::{Claim, State};
use crate::repoint::decision::Target;
use crate::repoint::plan::Phase;
use crate::repoint::run::Progress;

/// Records that are kept, the newest ones.
const KEPT: usize = 20;

/// Heartbeats of an owner whose agents run are no further apart, in milliseconds: a second, a round in which a source does
/// not answer, and what writing takes.
const BEATS: u64 = 4_000;

/// Persisted with the agent's state: what is added has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// The state of authority, and since when, by this machine's clock.
    pub state: State,
    pub since: Option<Timestamp>,
    /// The owner that was known last.
    pub owner: Option<Claim>,
    /// What was seen of a promotion that nobody has claimed yet.
    pub promotion: Promotion,
    /// Oldest first.
    pub failovers: Vec<Failover>,
}

/// See [`Ledger::promotion`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Promotion {
    pub replica_gone: Option<Timestamp>,
    pub proven: Option<Timestamp>,
    pub lag: Option<Lag>,
    /// How old the old owner's newest heartbeat was when the database was first seen to be no replica.
    pub most_ms: Option<u64>,
    /// The old owner had closed before: it was a planned change.
    pub was_closed: bool,
}

/// An upper bound of what was lost, in milliseconds of the old owner's writes, as far as it was seen to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Most {
    pub ms: u64,
    pub by: Stop,
}

/// How the old owner was seen to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// It was closed: it has written nothing since.
    Closed,
    /// It could not be reached at all: it was lost, or cut off.
    Silent,
    /// Not at all.
    Unseen,
}

/// One change of the owner, as seen in one of the two regions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// The owner before, and after.
    pub from: Claim,
    pub to: Claim,
    /// Where it was seen.
    pub region: String,
    pub seen: Times,
    /// Measured last while the new owner's database was a replica.
    #[serde(default)]
    pub lag: Option<Lag>,
    /// Where the new owner is: when nothing of the old one was waited for any more, before that when its epoch was known.
    /// Where the old one is, if it went on until then: when it was closed, likewise.
    #[serde(default)]
    pub most: Option<Most>,
    /// The old owner had closed before its replica was promoted, and nobody wrote any more.
    #[serde(default)]
    pub was_closed: bool,
    /// From the old owner's newest heartbeat in the new owner's database to that in its own.
    #[serde(default)]
    pub lost_ms: Option<u64>,
    /// For so many milliseconds the old owner may have taken writes after the new epoch was written.
    #[serde(default)]
    pub wrote_after_ms: Option<u64>,
}

/// When each fact was first seen by this agent, by this machine's clock. What it was not there for, or what does not belong
/// to its side, is not told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// This region's database was no replica any more.
    pub replica_gone: Option<Timestamp>,
    /// Three fresh connections had proven it writable. Only of the agent that did it.
    pub proven: Option<Timestamp>,
    /// The new epoch was known here.
    pub known: Option<Timestamp>,
    /// Promoted: nothing of the old owner was waited for any more.
    pub took_over: Option<Timestamp>,
    /// Superseded: users got the fence page.
    pub closed: Option<Timestamp>,
    /// Superseded: the app's outputs did not name this region's database any more.
    pub stopped: Option<Timestamp>,
    /// The app's outputs named the new owner's database.
    pub repointed: Option<Timestamp>,
    /// The app was seen to reach it.
    pub verified: Option<Timestamp>,
    /// Promoted: users were served.
    pub opened: Option<Timestamp>,
}

/// What a look at the world shows.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    pub facts: &'a Facts,
    pub decision: &'a Decision,
    pub progress: &'a Progress,
    /// Measured last, however long ago.
    pub lag: Option<&'a Lag>,
    /// This region was closed, and the replica had everything.
    pub has_all: bool,
    /// When this region's database was proven writable since the last look.
    pub proven: Option<Timestamp>,
    pub at: Timestamp,
}

impl Failover {
    /// It was seen where the new owner is; else where the old one was.
    #[must_use]
    pub fn is_promotion(&self) -> bool {
        self.region == self.to.region
    }

    /// Nothing more is to come but numbers.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.seen.opened.is_some() || self.seen.closed.is_some()
    }

    /// What was lost at most, in milliseconds of the old owner's writes. `None` while nobody can tell.
    #[must_use]
    pub fn rpo_ms(&self) -> Option<u64> {
        match (&self.most, self.lost_ms) {
            (Some(Most { ms, by: Stop::Closed }), lost) => Some(lost.map_or(*ms, |lost| lost.max(*ms))),
            // Its agents may be dead, and its app alive.
            (Some(Most { ms, by: Stop::Unseen }), Some(lost)) => Some(lost.saturating_add(BEATS).max(*ms)),
            (_, Some(lost)) => Some(lost.saturating_add(BEATS)),
            (Some(Most { by: Stop::Unseen, .. }), None) => None,
            (most, None) => most.as_ref().map(|most| most.ms),
        }
    }
}

impl Ledger {
    /// What is written down after a look.
    #[must_use]
    pub fn after(&self, look: &Look<'_>) -> Self {
        let mut next = self.clone();
        let was_owner = self.state == State::Owner;
        let state = look.decision.state;
        if next.since.is_none() || next.state != state {
            (next.state, next.since) = (state, Some(look.at));
        }
        next.prepare(look);
        next.turn(look, was_owner);
        next.fill(look);
        next
    }

    /// The failover that brought the owner of now.
    #[must_use]
    pub fn last(&self) -> Option<&Failover> {
        self.failovers.last().filter(|failover| self.owner.as_ref() == Some(&failover.to))
    }

    /// The failover that is over in `self` and was not in `before`.
    #[must_use]
    pub fn ended_since(&self, before: &Self) -> Option<&Failover> {
        let last = self.failovers.last().filter(|failover| failover.is_over())?;
        let known = before.failovers.iter().find(|failover| failover.to == last.to);
        known.is_none_or(|known| !known.is_over()).then_some(last)
    }

    /// What comes before a claim.
    fn prepare(&mut self, look: &Look<'_>) {
        let mine = &look.facts.place.region;
        let (Some(_), Some(own)) = (look.facts.own.fresh(), &look.decision.memory.own) else { return };
        if own.shows == Shows::Replica {
            // If it was none before, that was brief, and nothing came of it.
            self.promotion = Promotion { was_closed: stop(look.facts) == Stop::Closed, ..Promotion::default() };
        } else if own.claim.is_some() && !own.names(mine) && self.promotion.replica_gone.is_none() {
            self.promotion.replica_gone = Some(look.at);
            self.promotion.lag = look.lag.cloned();
            self.promotion.most_ms =
                own.claim.as_ref().and_then(|owner| age(&look.facts.own, &owner.region, look.facts));
        }
        self.promotion.proven = self.promotion.proven.or(look.proven);
    }

    /// A higher epoch of another region.
    fn turn(&mut self, look: &Look<'_>, was_owner: bool) {
        let Some(known) = &look.decision.memory.known else { return };
        let before = self.owner.replace(known.clone());
        // An agent that is new here has seen no change.
        let Some(before) = before.filter(|before| before.epoch < known.epoch && before.region != known.region) else {
            return;
        };
        let region = look.facts.place.region.clone();
        let is_mine = known.region == region;
        let promotion = if is_mine { std::mem::take(&mut self.promotion) } else { Promotion::default() };
        let seen = Times {
            replica_gone: promotion.replica_gone,
            proven: promotion.proven,
            known: Some(look.at),
            ..Times::default()
        };
        // Another agent may have claimed between two reads of this one.
        let was_closed = if is_mine { promotion.was_closed } else { look.has_all };
        let lag = promotion.lag.or_else(|| look.lag.cloned()).filter(|_| is_mine);
        if self.failovers.len() >= KEPT {
            self.failovers.remove(0);
        }
        let (from, to) = (before, known.clone());
        let mut failover =
            Failover { from, to, region, seen, lag, was_closed, most: None, lost_ms: None, wrote_after_ms: None };
        if was_closed {
            // A closed owner's heart goes on beating, also while the new one's database is promoted.
            let ms = failover.lag.as_ref().map_or(0, |lag| lag.ms);
            failover.most = Some(Most { ms, by: Stop::Closed });
        } else if is_mine || was_owner {
            // An old owner that comes back has not written while it was away.
            failover.most = missing(&failover, look.facts).map(|ms| Most { ms, by: Stop::Unseen });
        }
        self.failovers.push(failover);
    }

    /// What follows a claim.
    fn fill(&mut self, look: &Look<'_>) {
        let Some(owner) = &self.owner else { return };
        let Some(failover) = self.failovers.last_mut().filter(|failover| failover.to == *owner) else { return };
        let facts = look.facts;
        let is_closed = facts.applied.gate_closed;
        let state = look.decision.state;
        let is_promotion = failover.is_promotion();
        let current = look.progress.plan.current.as_ref();
        let led = current.filter(|current| {
            let decision = &current.decision;
            decision.epoch == failover.to.epoch && decision.writer == Target::Region(failover.to.region.clone())
        });
        let is_written = led.is_some_and(|led| matches!(led.phase, Phase::Applied { .. } | Phase::Done { .. }));
        let is_verified = led.is_some_and(|led| matches!(led.phase, Phase::Done { .. }));
        let is_owner = is_promotion && state == State::Owner;
        let stop = if failover.was_closed {
            None
        } else if is_promotion {
            (is_owner && failover.seen.took_over.is_none()).then(|| stop(facts))
        } else {
            let is_open = failover.most.as_ref().is_some_and(|most| most.by != Stop::Closed);
            (is_open && is_through(look)).then_some(Stop::Closed)
        };
        if let Some(by) = stop
            && let Some(ms) = missing(failover, facts)
        {
            failover.most = Some(Most { ms, by });
        }
        let seen = &mut failover.seen;
        let mark = |time: &mut Option<Timestamp>, is_so: bool| {
            if is_so && time.is_none() {
                *time = Some(look.at);
            }
        };
        mark(&mut seen.took_over, is_owner);
        mark(&mut seen.repointed, is_written);
        mark(&mut seen.verified, is_verified);
        // Without outputs there is nothing to repoint.
        mark(&mut seen.opened, is_owner && !is_closed && (is_verified || current.is_none()));
        mark(&mut seen.closed, !is_promotion && state == State::Superseded && is_closed);
        mark(&mut seen.stopped, !is_promotion && !facts.applied.writers.contains(&failover.region));
        if let Some(lost) = lost(failover, facts).filter(|_| !failover.was_closed) {
            failover.lost_ms = Some(failover.lost_ms.map_or(lost, |known| known.max(lost)));
        }
        if let Some(after) = wrote_after(failover, facts) {
            failover.wrote_after_ms = Some(failover.wrote_after_ms.map_or(after, |known| known.max(after)));
        }
    }
}

/// How old the newest heartbeat of `region` in a database is now, by its clock.
fn age(database: &Database, region: &str, facts: &Facts) -> Option<u64> {
    let seen = database.fresh()?;
    let beat = seen.read.beat(region)?;
    // It was that old some time after the read began.
    let passed = u64::try_from(facts.now.since(seen.began).as_millis()).unwrap_or(u64::MAX);
    Some(beat.age_ms.saturating_add(passed))
}

/// What the old owner may have written until now and the new owner's database does not have, in milliseconds, by the clock
/// of this region's database.
fn missing(failover: &Failover, facts: &Facts) -> Option<u64> {
    let from = failover.from.region.as_str();
    let age = age(&facts.own, from, facts)?;
    if failover.is_promotion() {
        return Some(age);
    }
    let there = &facts.other.as_ref()?.fresh()?.read;
    let has_it = newest(there)?.claim.epoch >= failover.to.epoch;
    let span = facts.own.fresh()?.read.beat(from)?.at.duration_since(there.beat(from)?.at);
    has_it.then(|| age.saturating_add(u64::try_from(span.as_millis()).unwrap_or(0)))
}

/// How the other region was seen to stop, by its last answer.
fn stop(facts: &Facts) -> Stop {
    match facts.answer_across() {
        Some(Across::Verified(proof)) if proof.closed && !proof.left => Stop::Closed,
        Some(Across::Silent) => Stop::Silent,
        _ => Stop::Unseen,
    }
}

/// Nobody of this region writes to its database any more, in no old session either.
fn is_through(look: &Look<'_>) -> bool {
    let sessions = look.facts.group.words().map(|(_, word)| word.old_writer_sessions).sum::<u32>();
    let closed = Proof::of(look.decision, look.facts).closed;
    let stopped = !look.facts.applied.writers.contains(&look.facts.place.region);
    closed && stopped && sessions == 0 && look.facts.applied.old_writer_sessions == 0
}

/// The old owner's last heartbeat in its own database, before that is rebuilt, and in the new owner's.
fn lost(failover: &Failover, facts: &Facts) -> Option<u64> {
    let other = facts.other.as_ref()?;
    let (old, new) = if failover.is_promotion() { (other, &facts.own) } else { (&facts.own, other) };
    let old = &old.fresh()?.read;
    let is_stale = newest(old)?.claim == failover.from && Shows::of(old) == Shows::Writable;
    let new = &new.seen.as_ref()?.read;
    let has_it = newest(new)?.claim.epoch >= failover.to.epoch;
    let span = old.beat(&failover.from.region)?.at.duration_since(new.beat(&failover.from.region)?.at);
    (is_stale && has_it).then(|| u64::try_from(span.as_millis()).unwrap_or(0))
}

/// From the new epoch's row to the last heartbeat of this region, once it is closed.
fn wrote_after(failover: &Failover, facts: &Facts) -> Option<u64> {
    failover.seen.closed?;
    let row =
        |database: &Database| newest(&database.seen.as_ref()?.read).filter(|row| row.claim == failover.to).cloned();
    let since = row(facts.other.as_ref()?)?.since;
    let own = &facts.own.fresh()?.read;
    let span = own.beat(&failover.region)?.at.duration_since(since);
    Some(u64::try_from(span.as_millis()).unwrap_or(0))
}

fn newest(read: &Read) -> Option<&Row> {
    read.tables.as_ref()?.newest.as_ref()
}

#[cfg(test)]
mod tests;
