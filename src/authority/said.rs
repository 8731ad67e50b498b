//! PUBLISH: what the agent says of authority, as the owner of the snapshot takes it over.

use super::State;
use super::decide::Decision;
use super::memory::Memory;
use super::operator::Refused;
use super::outputs::{Gate, RegionRule};
use super::why::Reason;
use super::word::{Proof, Word};
use crate::health::verdict::RegionState;

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
}

impl Said {
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
