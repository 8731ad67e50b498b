//! How far this region's replica is behind its source. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::memory::{Memory, Shows};

/// One measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Milliseconds. By the heartbeat: the age of the newest heartbeat row of the owner that has arrived, by the clock of
    /// the server that was read. The owner writes it every second and stamps it with its own server's clock, so up to a
    /// second, and the difference of the two servers' clocks, is no lag. While nobody writes it (no agent of the owner's
    /// region runs, or its database is gone) it rises although nothing may be missing: it is an upper bound.
    /// By the replica: the slowest channel, as the server says, in whole seconds.
    pub ms: u64,
    pub by: Measure,
    /// The newest heartbeat that has arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat: Option<Timestamp>,
}

/// By what it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    Heartbeat,
    Replica,
}

impl Measure {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Replica => "replica",
        }
    }
}

impl Lag {
    /// What the last read of this region's database shows; `None` while it cannot be read, and where it is no replica.
    #[must_use]
    pub fn of(facts: &Facts, memory: &Memory) -> Option<Self> {
        let read = &facts.own.fresh()?.read;
        if Shows::of(read) != Shows::Replica {
            return None;
        }
        let source = memory.known.as_ref().map_or(&facts.place.other, |known| &known.region);
        let by_beat =
            read.beat(source).map(|beat| Self { ms: beat.age_ms, by: Measure::Heartbeat, beat: Some(beat.at) });
        let by_server =
            || read.lag_seconds.map(|lag| Self { ms: lag.saturating_mul(1_000), by: Measure::Replica, beat: None });
        by_beat.or_else(by_server)
    }

    /// In seconds, exact enough for people and metrics.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(self.ms)
    }
}

/// A replica further behind, in milliseconds, is not ready: a failover would lose as much of what users wrote.
pub const READY: u64 = 60_000;

/// Milliseconds as seconds. A value that no number of people's size has is cut off.
#[must_use]
pub fn seconds(ms: u64) -> f64 {
    f64::from(u32::try_from(ms / 1_000).unwrap_or(u32::MAX)) + f64::from(u32::try_from(ms % 1_000).unwrap_or(0)) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::State;
    use crate::authority::database::Beat;
    use crate::authority::decide::bench::{Bench, read, replica};

    #[test]
    fn the_heartbeat_of_the_owner_counts_before_the_servers_own_word() {
        let mut bench = Bench::resumed("p", State::Standby, 1);
        assert_eq!(Lag::of(&bench.facts, &bench.memory), None, "never read");
        bench.own(replica("s", 1));
        let lag = Lag::of(&bench.facts, &bench.memory).unwrap();
        assert_eq!((lag.ms, lag.by), (0, Measure::Replica));
        let mut shown = replica("s", 1);
        let beat = |region: &str, age_ms| Beat { region: region.to_owned(), at: Timestamp::UNIX_EPOCH, age_ms };
        shown.tables.as_mut().unwrap().heartbeat = vec![beat("p", 90_000_000), beat("h", 1_234)];
        bench.own(shown);
        let lag = Lag::of(&bench.facts, &bench.memory).unwrap();
        assert_eq!((lag.ms, lag.by), (1_234, Measure::Heartbeat));
        assert!((lag.seconds() - 1.234).abs() < 1e-9);
        bench.own(None);
        assert_eq!(Lag::of(&bench.facts, &bench.memory), None, "what was is not what is");
        bench.own(read("s", 1));
        assert_eq!(Lag::of(&bench.facts, &bench.memory), None, "no replica");
    }
}
