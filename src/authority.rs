//! DECIDE: which region owns the data. A number in the database itself, the authority epoch, says it: each promotion
//! writes the next one, the row replicates like any data, and the highest wins.
//!
//! Pure: [`decide::decide`] makes of [`facts::Facts`] and a [`memory::Memory`] one [`decide::Decision`] and the next
//! memory. Its parts: [`learn`] (what is known), [`takeover`] (may a new owner open), [`closing`] (planned closes),
//! [`claim`] (may an epoch be written, by whom), [`outputs`] (what follows for gate, writer and region, in which order).
//! What others are told of it is in [`word`], people in [`ledger`], [`notice`] and [`readiness`]. [`run`] asks the sources ([`sql`], [`other`]) and carries it out.

pub mod claim;
pub mod closing;
pub mod database;
pub mod decide;
pub mod facts;
pub mod lag;
pub mod learn;
pub mod ledger;
pub mod memory;
pub mod notice;
pub mod operator;
pub mod other;
pub mod outputs;
pub mod readiness;
pub mod run;
pub mod said;
pub mod sql;
pub mod takeover;
pub mod why;
pub mod word;

use std::fmt;

use serde::{Deserialize, Serialize};

/// An epoch and the region that it names owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// At least 1. The first of the configured regions uses odd numbers, the other one even ones.
    pub epoch: u64,
    pub region: String,
}

impl fmt::Display for Claim {
    /// As the group's tag has it: `EPOCH/REGION`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.region)
    }
}

/// The number of a claim; 0 where there is none.
#[must_use]
pub fn epoch(claim: Option<&Claim>) -> u64 {
    claim.map_or(0, |claim| claim.epoch)
}

/// What an agent makes of its region's authority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Nothing was decided yet in this boot of the machine.
    #[default]
    Boot,
    /// Nobody has ever written an epoch.
    Uninitialised,
    /// This region has the highest epoch and waits until the old owner has stopped.
    OwnerPending,
    Owner,
    /// This region's database is a replica.
    Standby,
    /// This region's database is writable and names the other region: a promotion that nobody has claimed.
    Unclaimed,
    /// A higher epoch than this region's database has exists.
    Superseded,
    /// Signals contradict each other: nothing is changed.
    Ambiguous,
}

impl State {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "BOOT",
            Self::Uninitialised => "UNINITIALISED",
            Self::OwnerPending => "OWNER_PENDING",
            Self::Owner => "OWNER",
            Self::Standby => "STANDBY",
            Self::Unclaimed => "UNCLAIMED",
            Self::Superseded => "SUPERSEDED",
            Self::Ambiguous => "AMBIGUOUS",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What this region's database is, as its last read proved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Writable, and the owner as its own newest row says (or there is no row anywhere yet).
    Primary,
    Replica,
    /// Writable, and its newest row names the other region.
    Promoted,
    /// Writable, and a higher epoch exists elsewhere.
    Superseded,
    Ambiguous,
    /// The last attempt to read it failed, or there was none.
    Unreachable,
}

impl Role {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Promoted => "promoted",
            Self::Superseded => "superseded",
            Self::Ambiguous => "ambiguous",
            Self::Unreachable => "unreachable",
        }
    }
}
