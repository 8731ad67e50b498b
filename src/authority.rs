//! DECIDE: which region owns the data. A number in the database itself, the authority epoch, says it: each promotion
//! writes the next one, the row replicates like any data, and the highest wins.

pub mod database;

use serde::{Deserialize, Serialize};

/// An epoch and the region that it names owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// At least 1. The first of the configured regions uses odd numbers, the other one even ones.
    pub epoch: u64,
    pub region: String,
}
