//! The verdicts in a report.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Seen, Wall, code};
use crate::health::cause::Cause;
use crate::health::verdict::{InstanceState, RegionState};
use crate::snapshot::Snapshot;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    pub instance: Instance,
    pub region: Region,
    pub promoted: Promoted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The HTTP status of the answer.
    pub code: u16,
    pub state: InstanceState,
    pub since: Timestamp,
    pub reasons: Vec<Reason>,
    pub can_serve: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub component: String,
    pub cause: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The HTTP status of the answer.
    pub code: u16,
    pub state: RegionState,
    pub since: Timestamp,
    pub holds: Vec<Hold>,
    /// Only while it is closed and nothing holds it.
    pub reopens_in_seconds: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub on: String,
    pub since_seconds: u64,
    /// 0: it is due, and closes the region unless the newest failure is no proof.
    pub due_in_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// The HTTP status of the answer.
    pub code: u16,
    pub state: String,
}

impl Promoted {
    fn new(is_promoted: bool) -> Self {
        let state = if is_promoted { "promoted" } else { "not-promoted" };
        Self { code: code(is_promoted), state: state.to_owned() }
    }

    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self::new(snapshot.promoted)
    }
}

pub(super) fn verdicts(seen: &Seen<'_>, wall: Wall) -> Verdicts {
    let reason = |component: &crate::observation::Component, cause: Cause| Reason {
        component: component.name().to_owned(),
        cause: cause.name().to_owned(),
    };
    let holds = seen.region.holds.iter().map(|hold| Hold {
        on: hold.on.name().to_owned(),
        since_seconds: wall.now.since(hold.since).as_secs(),
        due_in_seconds: hold.due.since(wall.now).as_secs(),
    });
    Verdicts {
        instance: Instance {
            code: code(seen.instance.state.is_ok()),
            state: seen.instance.state,
            since: wall.of(seen.instance.since),
            reasons: seen.instance.reasons.iter().map(|r| reason(&r.component, r.cause)).collect(),
            can_serve: seen.instance.can_serve,
        },
        region: Region {
            code: code(seen.region.state.is_ok()),
            state: seen.region.state,
            since: wall.of(seen.region.since),
            holds: holds.collect(),
            reopens_in_seconds: seen.region.reopens.map(|at| at.since(wall.now).as_secs()),
        },
        promoted: Promoted::new(false),
    }
}
