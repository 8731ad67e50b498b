//! What decisions remember: what is persisted with the agent's state, and what only the running process knows. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::database::{Kind, Read};
use super::outputs::RegionRule;
use super::{Claim, State, epoch};
use crate::clock::BootTime;

/// What decisions remember. Part of the state file: what is added has a default, and what a release does not know it
/// ignores. The region it is about is the owner's of that file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The boot in which it was written.
    pub boot: String,
    /// When BOOT began in that boot; `None` once a decision ended it.
    pub boot_began: Option<BootTime>,
    pub state: State,
    /// The state was taken without anything known of this region's database.
    pub unread: bool,
    /// The highest epoch ever learned. Never falls.
    pub known: Option<Claim>,
    /// What this region's database showed when it was read last, by this agent or by a member.
    pub own: Option<Own>,
    /// The newest row of the other region's database when it last showed one.
    pub other: Option<Claim>,
    /// The epoch at which this agent was through with taking over; 0 for none.
    pub took_over: u64,
    /// Identities of this region's servers that were seen replicating.
    pub roll: BTreeSet<String>,
    /// The region rule of the last decision.
    pub region: RegionRule,
    pub promoted: bool,
    /// The close of this region that is obeyed.
    pub close: Latch,
    /// The close of the other region that is obeyed by writing nothing to its database.
    pub other_close: Latch,
    #[serde(skip)]
    pub run: Run,
}

/// What only the running process knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Run {
    pub started: BootTime,
    /// When `known` rose last.
    pub learned: BootTime,
    /// The epoch that this region waits to own, and since when.
    pub pending: Option<(u64, BootTime)>,
    /// Since when this region's database is a promotion that nobody has claimed.
    pub unclaimed: Option<BootTime>,
}

/// What this region's database showed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Own {
    /// The newest row; `None`, epoch 0, without one.
    pub claim: Option<Claim>,
    /// That is the first row of all, by `init`: it took nothing from anybody.
    #[serde(default)]
    pub is_first: bool,
    pub server: String,
    pub shows: Shows,
    /// The highest epoch above its own that is recorded in it as superseding this region.
    #[serde(default)]
    pub superseded: Option<Claim>,
}

/// What a database's signals amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shows {
    /// Not read-only, and no replication channel.
    Writable,
    /// Read-only, and a channel.
    Replica,
    /// Writable, and a channel.
    WritableReplica,
    /// Read-only, and no channel.
    ReadOnly,
    /// The channels could not be read.
    Unclear,
}

/// How a planned close is obeyed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Latch {
    /// The end of the close that is obeyed.
    pub obeyed: Option<Timestamp>,
    /// The end of a close that is over, as was proven in this boot.
    pub passed: Option<Timestamp>,
    /// When a read that showed it over had ended.
    #[serde(skip)]
    pub over: Option<BootTime>,
}

impl Memory {
    /// What an agent that starts in `boot` remembers; `saved` is its own instance's.
    #[must_use]
    pub fn resume(saved: Option<Self>, boot: &str, now: BootTime) -> Self {
        let mut memory = saved.unwrap_or_default();
        memory.run = Run { started: now, learned: now, ..Run::default() };
        if memory.boot == boot {
            return memory;
        }
        boot.clone_into(&mut memory.boot);
        memory.promoted = false;
        memory.region = RegionRule::default();
        memory.close.passed = None;
        memory.other_close.passed = None;
        // Where nobody had ever written an epoch nothing waits for a decision.
        if memory.state != State::Uninitialised || memory.known.is_some() {
            memory.state = State::Boot;
            memory.boot_began = Some(now);
        }
        memory
    }

    /// Takes in an epoch that some source knows. True if it is higher than any before.
    pub fn learn(&mut self, claim: &Claim, now: BootTime) -> bool {
        if claim.epoch <= epoch(self.known.as_ref()) {
            return false;
        }
        self.known = Some(claim.clone());
        self.run.learned = now;
        true
    }

    /// The highest epoch known.
    #[must_use]
    pub fn known_epoch(&self) -> u64 {
        epoch(self.known.as_ref())
    }
}

impl Own {
    /// What a read of this region's database shows.
    #[must_use]
    pub fn of(read: &Read, region: &str) -> Self {
        let newest = read.tables.as_ref().and_then(|tables| tables.newest.as_ref());
        let mine = newest.map_or(0, |row| row.claim.epoch);
        let superseded = read.tables.iter().flat_map(|tables| &tables.superseded);
        Self {
            claim: newest.map(|row| row.claim.clone()),
            is_first: newest.is_some_and(|row| row.kind == Kind::Init),
            server: read.server.clone(),
            shows: Shows::of(read),
            superseded: superseded
                .filter(|row| row.region == region && row.by.epoch > mine)
                .map(|row| row.by.clone())
                .max_by_key(|by| by.epoch),
        }
    }

    /// The number of the newest row; 0 without one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        epoch(self.claim.as_ref())
    }

    /// The newest row names `region`.
    #[must_use]
    pub fn names(&self, region: &str) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.region == region)
    }
}

impl Shows {
    /// What the signals of a read amount to.
    #[must_use]
    pub const fn of(read: &Read) -> Self {
        match (read.is_writable, read.channels) {
            (true, Some(0)) => Self::Writable,
            (false, Some(1..)) => Self::Replica,
            (true, Some(1..)) => Self::WritableReplica,
            (false, Some(0)) => Self::ReadOnly,
            (_, None) => Self::Unclear,
        }
    }

    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Writable => "writable",
            Self::Replica => "a replica",
            Self::WritableReplica => "writable, with a replication channel",
            Self::ReadOnly => "read-only, without a replication channel",
            Self::Unclear => "unclear: its channels cannot be read",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(second: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(second))
    }

    fn claim(epoch: u64) -> Claim {
        Claim { epoch, region: "a".to_owned() }
    }

    fn owner() -> Memory {
        Memory {
            boot: "1".to_owned(),
            state: State::Owner,
            known: Some(claim(3)),
            took_over: 3,
            promoted: true,
            close: Latch { passed: Some(Timestamp::UNIX_EPOCH), ..Latch::default() },
            run: Run { started: at(5), learned: at(7), pending: Some((3, at(8))), unclaimed: Some(at(4)) },
            ..Memory::default()
        }
    }

    #[test]
    fn in_the_same_boot_everything_but_the_waits_goes_on() {
        let resumed = Memory::resume(Some(owner()), "1", at(100));
        let run = Run { started: at(100), learned: at(100), pending: None, unclaimed: None };
        assert_eq!(resumed, Memory { run, ..owner() });
    }

    #[test]
    fn another_boot_begins_with_boot_and_keeps_what_is_known() {
        let resumed = Memory::resume(Some(owner()), "2", at(1));
        assert_eq!((resumed.state, resumed.boot_began, resumed.boot.as_str()), (State::Boot, Some(at(1)), "2"));
        assert_eq!((resumed.known, resumed.took_over), (Some(claim(3)), 3));
        assert!(!resumed.promoted && resumed.close.passed.is_none());
    }

    #[test]
    fn an_agent_that_ends_before_its_first_decision_is_still_in_boot_since_the_first_start() {
        let first = Memory::resume(None, "1", at(10));
        let again = Memory::resume(Some(first), "1", at(14));
        assert_eq!((again.state, again.boot_began), (State::Boot, Some(at(10))));
    }

    #[test]
    fn where_nobody_ever_wrote_an_epoch_there_is_no_boot_gate() {
        let saved = Memory { boot: "1".to_owned(), state: State::Uninitialised, ..Memory::default() };
        assert_eq!(Memory::resume(Some(saved.clone()), "2", at(1)).state, State::Uninitialised);
        let later = Memory { known: Some(claim(1)), ..saved };
        assert_eq!(Memory::resume(Some(later), "2", at(1)).state, State::Boot);
    }

    #[test]
    fn only_inits_row_is_the_first_one_whatever_its_parent() {
        use crate::authority::decide::bench::read;
        let mut claimed = read("t", 1);
        assert!(Own::of(&claimed, "h").is_first);
        if let Some(row) = claimed.tables.as_mut().and_then(|tables| tables.newest.as_mut()) {
            row.kind = Kind::Claim;
        }
        assert!(!Own::of(&claimed, "h").is_first, "an operator's claim on an empty table took over from somebody");
    }

    #[test]
    fn what_is_known_never_falls() {
        let mut memory = owner();
        assert!(!memory.learn(&claim(2), at(20)) && !memory.learn(&claim(3), at(20)));
        assert_eq!(memory, owner());
        assert!(memory.learn(&claim(4), at(20)));
        assert_eq!((memory.known_epoch(), memory.run.learned), (4, at(20)));
    }

    #[test]
    fn what_is_persisted_is_read_again_whoever_wrote_it() {
        let mut written = serde_json::to_value(owner()).unwrap();
        let read: Memory = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(read, Memory { run: Run::default(), ..owner() });
        written["added"] = serde_json::json!({"x": 1});
        assert_eq!(serde_json::from_value::<Memory>(written).unwrap(), read);
        assert_eq!(serde_json::from_str::<Memory>("{}").unwrap(), Memory::default());
    }
}
