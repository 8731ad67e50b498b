//! What one read of one database shows of authority, as facts. Nothing here decides.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Claim;
use crate::clock::BootTime;

/// One attempt to read a database, whole: over one connection, with its own deadline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub began: BootTime,
    pub ended: BootTime,
    pub result: Result<Read, Unread>,
}

/// Why a database was not read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unread {
    /// Not even a TCP connection came about, in words. A name that does not resolve is no such case: that may be a
    /// fault of this side.
    Unreached(String),
    /// No answer, or an error: the words of it.
    Failed(String),
    /// The account may not read what it must, or the name of the grant that is missing.
    NoRight(String),
}

impl Unread {
    /// For people.
    #[must_use]
    pub fn words(&self) -> &str {
        match self {
            Self::Unreached(words) | Self::Failed(words) | Self::NoRight(words) => words,
        }
    }
}

/// What a database showed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Read {
    /// The server's identity: `@@server_uuid`, or `server_id@hostname:port` where there is none.
    pub server: String,
    /// `read_only` and, where it exists, `super_read_only` are 0.
    pub is_writable: bool,
    /// Replication channels, whatever state they are in; `None` when that could not be read.
    pub channels: Option<u32>,
    /// The slowest channel, as the server says.
    pub lag_seconds: Option<u64>,
    /// The tables; `None` where the schema or one of them does not exist.
    pub tables: Option<Tables>,
}

impl Read {
    /// The heartbeat of `region` that stands there; `None` without one, and without the tables.
    #[must_use]
    pub fn beat(&self, region: &str) -> Option<&Beat> {
        self.tables.as_ref()?.heartbeat.iter().find(|beat| beat.region == region)
    }
}

/// What stands in the schema `dr_agent`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tables {
    /// The row with the highest epoch. An empty table is epoch 0.
    pub newest: Option<Row>,
    /// The regions in the order that `init` wrote, which fixes the parity; empty before.
    pub regions: Vec<String>,
    pub superseded: Vec<Superseded>,
    pub roll: Vec<Enrolled>,
    pub closing: Vec<Closing>,
    pub heartbeat: Vec<Beat>,
}

/// A row of `authority`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    #[serde(flatten)]
    pub claim: Claim,
    /// The epoch on which it was claimed; 0 for the first.
    pub parent: u64,
    pub server: String,
    pub kind: Kind,
    pub since: Timestamp,
}

/// How an epoch was born.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Init,
    Promotion,
    /// By an operator.
    Claim,
}

/// A row of `superseded`: it fences the database it stands in, for the region it names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Superseded {
    pub region: String,
    pub epoch: u64,
    pub by: Claim,
    pub since: Timestamp,
}

/// A row of `roll`: this server was seen replicating, by agents of this region.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Enrolled {
    pub server: String,
    pub region: String,
}

/// A row of `closing`: a planned close or a drill.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Closing {
    pub region: String,
    pub is_drill: bool,
    pub until: Timestamp,
    /// `until` is later than the server's own clock.
    pub is_in_force: bool,
    /// It was marked released: over, and over for good.
    pub is_released: bool,
    pub reason: String,
    pub by_whom: String,
}

/// A row of `heartbeat`: the region's owner wrote it last at this time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat {
    pub region: String,
    pub at: Timestamp,
    /// How long ago, in milliseconds, by the clock of the server that was read.
    pub age_ms: u64,
}
