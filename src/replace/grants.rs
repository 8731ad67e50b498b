//! Grants: how a group agrees that one of it goes, without a lease anywhere. Pure: time is an argument.
//!
//! Whoever wants to go needs grants from a strict majority, its own included. A member gives one grant per cooldown, so
//! two majorities, which always share a member, cannot both be full. Everything else here makes sure that "one per
//! cooldown" holds through restarts, lost state and lost answers, and that two who ask at once do not block each other:
//! members are asked one by one in the order of their ids, and the first refusal ends the round. A round is good only
//! for as long as the look before it ([`super::plan::LOOK_FRESH`]): grants of one that took a cooldown would be stale.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::records::{Living, Record, Records};
use super::refusal::Refusal;
use crate::clock::Stamp;

/// A grant that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Of the round that asked for it.
    pub id: String,
    /// The instance that may go.
    pub to: String,
    pub at: Stamp,
}

/// What a member knows when it is asked for its grant.
#[derive(Debug, Clone, Copy)]
pub struct Giver<'a> {
    pub instance: &'a str,
    pub group: &'a str,
    pub cooldown: Duration,
    /// Since when it remembers what it gave: its first start, or the loss of its state.
    pub began: &'a Stamp,
    /// The last grant given, also to itself, unless it came back unused.
    pub given: Option<&'a Grant>,
    /// It wants to go itself.
    pub wants: bool,
    /// Its instance verdict is 200 and nobody drains it.
    pub is_serving: bool,
    pub records: &'a Records,
    /// The other members that serve, as this instance hears them.
    pub serving: &'a BTreeSet<String>,
}

/// Why a member does not give its grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Denial {
    /// The asker is of another group.
    Stranger,
    /// It has no key to know the asker by.
    NoKeys,
    /// It does not remember a whole cooldown: it may have given a grant before.
    TooYoung,
    /// It gave its grant to another instance within the cooldown.
    GaveAnother,
    /// It wants to go itself.
    WantsItself,
    /// It does not serve, so it has no word on who may go.
    NotServing,
    /// By the records it keeps, the group's budget is spent.
    BudgetSpent,
    /// By the records it keeps, replacements did not cure this kind of fault.
    ReplacementDidNotCure,
    /// It could not write its grant down.
    NotSaved,
}

impl Denial {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "Stranger",
            Self::NoKeys => "NoKeys",
            Self::TooYoung => "TooYoung",
            Self::GaveAnother => "GaveAnother",
            Self::WantsItself => "WantsItself",
            Self::NotServing => "NotServing",
            Self::BudgetSpent => "BudgetSpent",
            Self::ReplacementDidNotCure => "ReplacementDidNotCure",
            Self::NotSaved => "NotSaved",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Giver<'_> {
    /// The grant for whoever `record` is of, or why there is none. It counts once it is written down.
    ///
    /// # Errors
    /// The first reason not to give it.
    pub fn judge(&self, record: &Record, now: &Stamp) -> Result<Grant, Denial> {
        let myself = record.instance == self.instance;
        if record.group != self.group {
            return Err(Denial::Stranger);
        }
        if self.began.age(now) < self.cooldown {
            return Err(Denial::TooYoung);
        }
        // The same instance may have it again: it can go only once.
        let holds = |grant: &&Grant| grant.at.age(now) < self.cooldown && grant.to != record.instance;
        if self.given.as_ref().is_some_and(holds) {
            return Err(Denial::GaveAnother);
        }
        if self.wants && !myself {
            return Err(Denial::WantsItself);
        }
        if !self.is_serving && !myself {
            return Err(Denial::NotServing);
        }
        let living = Living { asker: &record.instance, serving: self.serving, cooldown: self.cooldown };
        match self.records.refusals(None, &living, &record.cause, now).first() {
            Some(Refusal::ReplacementDidNotCure) => return Err(Denial::ReplacementDidNotCure),
            Some(_) => return Err(Denial::BudgetSpent),
            None => {}
        }
        Ok(Grant { id: record.id.clone(), to: record.instance.clone(), at: now.clone() })
    }
}

/// What came of asking one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Granted,
    Denied(Denial),
    /// No answer in time. It may have given its grant all the same.
    Silent,
}

/// One round of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Names it; no other round has it.
    pub id: String,
    /// Grants needed.
    need: usize,
    /// Who is still to be asked, in order.
    left: VecDeque<String>,
    granted: Vec<String>,
    /// Who may have given a grant: to be returned when the round fails.
    maybe: Vec<String>,
    ended_by: Option<(String, Denial)>,
}

impl Round {
    /// A round among `electorate` instances, of which `voters`, which include the asker, can be asked.
    #[must_use]
    pub fn new(id: String, electorate: u32, voters: impl IntoIterator<Item = String>) -> Self {
        let mut left: Vec<_> = voters.into_iter().collect();
        left.sort();
        left.dedup();
        Self { id, need: need(electorate), left: left.into(), granted: Vec::new(), maybe: Vec::new(), ended_by: None }
    }

    /// Whom to ask now; `None` when the round is over.
    #[must_use]
    pub fn next(&self) -> Option<&str> {
        let possible = self.granted.len() + self.left.len() >= self.need;
        self.left.front().filter(|_| self.ended_by.is_none() && possible && !self.is_won()).map(String::as_str)
    }

    /// Takes in what came of asking [`next`](Self::next).
    pub fn hear(&mut self, reply: Reply) {
        let Some(voter) = self.left.pop_front() else { return };
        match reply {
            Reply::Granted => {
                self.granted.push(voter.clone());
                self.maybe.push(voter);
            }
            Reply::Silent => self.maybe.push(voter),
            Reply::Denied(denial) => self.ended_by = Some((voter, denial)),
        }
    }

    /// A strict majority agreed.
    #[must_use]
    pub fn is_won(&self) -> bool {
        self.granted.len() >= self.need
    }

    /// Those who agreed.
    #[must_use]
    pub fn granted(&self) -> &[String] {
        &self.granted
    }

    /// Whose grants must be given back when they are not used.
    #[must_use]
    pub fn to_return(&self) -> &[String] {
        &self.maybe
    }

    /// What came of it, for people.
    #[must_use]
    pub fn words(&self) -> String {
        let got = format!("{} of {} grants", self.granted.len(), self.need);
        match &self.ended_by {
            Some((voter, denial)) => format!("{got}; {voter} refused: {denial}"),
            None => got,
        }
    }
}

/// A strict majority.
#[must_use]
pub fn need(electorate: u32) -> usize {
    usize::try_from(electorate / 2).unwrap_or(usize::MAX - 1) + 1
}

#[cfg(test)]
mod tests;
