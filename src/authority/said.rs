//! PUBLISH: what the agent says of authority, as the owner of the snapshot takes it over.

use std::sync::Arc;

use super::State;
use super::decide::Decision;
use super::facts::{Across, Facts, Place};
use super::lag::Lag;
use super::ledger::Ledger;
use super::memory::{Memory, Shows};
use super::notice::Notice;
use super::operator::{self, Refused};
use super::outputs::{Gate, RegionRule};
use super::why::Reason;
use super::word::{Proof, Word};
use crate::health::verdict::RegionState;
use crate::repoint::run::Progress;

/// One decision, as far as it may be carried out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub decision: Decision,
    /// The gate to be: opened only when everything that comes before that was done.
    pub gate: Gate,
    /// To the other members.
    pub word: Word,
    /// To the other region.
    pub proof: Proof,
    /// What was tried in vain, in words.
    pub problems: Vec<String>,
    /// Whether the other region would take the traffic well now.
    pub other_ready: Result<(), Refused>,
    pub place: Place,
    /// How far the replica here is behind, while it is one that can be read.
    pub lag: Option<Lag>,
    pub ledger: Arc<Ledger>,
    /// Where the app's endpoints stand.
    pub progress: Arc<Progress>,
    /// What the other region answered last.
    pub across: Option<Across>,
    /// What its database showed last, seen from here, or why it did not; `None` before, or if it is not configured.
    pub other_database: Option<Result<Shows, String>>,
}

/// What the other region's database showed last.
fn other_database(facts: &Facts) -> Option<Result<Shows, String>> {
    let last = facts.other.as_ref()?.last.as_ref()?;
    Some(last.result.as_ref().map(Shows::of).map_err(|unread| unread.words().to_owned()))
}

impl Said {
    /// What is said after a decision whose gate is in nobody's way and in which nothing was tried in vain.
    #[must_use]
    pub fn of(decision: Decision, facts: &Facts, ledger: Arc<Ledger>, progress: Arc<Progress>) -> Self {
        Self {
            gate: decision.gate,
            word: Word::of(&decision, facts),
            proof: Proof::of(&decision, facts),
            problems: Vec::new(),
            other_ready: operator::other_ready(facts),
            place: facts.place.clone(),
            lag: Lag::of(facts, &decision.memory),
            ledger,
            progress,
            across: facts.answer_across().cloned(),
            other_database: other_database(facts),
            decision,
        }
    }

    /// What a person must know, if something is wrong.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        Notice::of(&self.decision, &self.ledger)
    }

    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.decision.memory
    }

    /// Nothing was decided in this boot, though somebody owns the data: nobody should be sent here yet.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.decision.state == State::Boot && self.memory().known.is_some()
    }

    /// The region answers as if it were closed, for a drill.
    #[must_use]
    pub fn is_drill(&self) -> bool {
        self.decision.why.contains(&Reason::Drill)
    }

    /// Whoever is ill here may not be replaced: the region serves nobody, or is in the middle of changing.
    #[must_use]
    pub const fn forbids_replacement(&self) -> bool {
        matches!(self.decision.state, State::Superseded | State::OwnerPending | State::Unclaimed)
    }

    /// No dependency closes this region.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.decision.region == RegionRule::Standby
    }

    /// What the region's answer is by authority, where the dependencies have no say.
    #[must_use]
    pub fn region(&self, group_closed: Option<bool>) -> Option<RegionState> {
        match self.decision.region {
            RegionRule::Dependencies | RegionRule::Standby => None,
            RegionRule::Closed => Some(RegionState::Closed),
            RegionRule::Group => group_closed.filter(|closed| *closed).map(|_| RegionState::Closed),
        }
    }
}

/// A standby whose replica has the first epoch, for tests.
#[cfg(test)]
pub(crate) fn sample(place: Place) -> Said {
    use super::decide::bench::{Bench, read, replica};
    let mut bench = Bench::resumed("p", State::Standby, 1);
    let claim = super::Claim { epoch: 1, region: place.home.clone() };
    let [own, other] = [replica("s", 1), read("t", 1)].map(|mut read| {
        if let Some(row) = &mut read.tables.get_or_insert_default().newest {
            row.claim = claim.clone();
        }
        read
    });
    bench.facts.place = place;
    bench.memory.known = Some(claim);
    bench.own(own).other(other);
    let decision = bench.decide();
    Said {
        other_ready: Ok(()),
        lag: None,
        across: None,
        other_database: Some(Ok(Shows::Writable)),
        ..Said::of(decision, &bench.facts, Arc::default(), Arc::default())
    }
}
