//! What can happen to agents and the group, in the order of the world's time.

use std::cmp::{Ordering, Reverse};

use dr_agent::replace::records::Record;

use super::world::{Index, Ms};

/// What may be asked of an agent: its life number tells a successor from it.
#[derive(Debug)]
pub enum Event {
    Act(usize),
    Start {
        index: Index,
    },
    /// An attempt begins.
    Attempt {
        index: Index,
        life: u32,
        slot: usize,
    },
    /// One that hung ends.
    Ended {
        index: Index,
        life: u32,
        slot: usize,
        began: Ms,
    },
    Tick {
        index: Index,
        life: u32,
    },
    /// A round of questions begins.
    Ask {
        index: Index,
        life: u32,
    },
    /// A question arrives late.
    Arrives {
        by: Index,
        life: u32,
        at: Index,
        round: u64,
        sent: Ms,
    },
    RoundOver {
        index: Index,
        life: u32,
        round: u64,
    },
    Repaired {
        index: Index,
        slot: usize,
        attempt: u32,
    },
    Looked {
        index: Index,
        life: u32,
        began: Ms,
    },
    Grant {
        by: Index,
        life: u32,
        to: Index,
        record: Box<Record>,
    },
    /// `None`: no answer in time.
    Replied {
        by: Index,
        life: u32,
        from: Index,
        id: String,
        reply: Option<bool>,
    },
    Returned {
        to: Index,
        id: String,
    },
    Call {
        index: Index,
        life: u32,
        began: Ms,
        calls: bool,
    },
    Marked {
        index: Index,
        decision: String,
        slot: usize,
    },
    /// `None`: nobody knows.
    Answered {
        index: Index,
        life: u32,
        taken: Option<bool>,
    },
    Cloud,
}

/// An event of the queue; the order in which events were put there decides between two of one moment.
#[derive(Debug)]
pub struct Queued {
    pub at: Ms,
    pub sequence: u64,
    pub event: Event,
}

impl Queued {
    const fn key(&self) -> Reverse<(Ms, u64)> {
        Reverse((self.at, self.sequence))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Event {
    /// An agent's daily round, which goes on through skipped time as before.
    pub const fn is_routine(&self) -> bool {
        matches!(
            self,
            Self::Attempt { .. }
                | Self::Ended { .. }
                | Self::Tick { .. }
                | Self::Ask { .. }
                | Self::Arrives { .. }
                | Self::RoundOver { .. }
        )
    }
}
