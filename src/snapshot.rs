//! PUBLISH: the snapshot, everything anybody may know at one moment. Immutable data: the owner makes it
//! ([`crate::owner`]), outputs have a receiver of it and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::authority::said::Said;
use crate::certificates::Certificate;
use crate::clock::BootTime;
use crate::config::Config;
use crate::group::view::Round;
use crate::health::cause::Status;
use crate::health::component::ComponentState;
use crate::health::verdict::{Domain, Group, InstanceVerdict, RegionVerdict};
use crate::identity::lifecycle::Lifecycle;
use crate::latches::{Kind, Latches};
use crate::replace;
use crate::state::{self, State};

/// A snapshot older than this answers its last word as `stale`.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// Who this agent is and what it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub owner: state::Owner,
    pub boot: String,
    /// What is wrong with the configuration in force; empty when it is the file as it stands.
    pub config_problems: Vec<String>,
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HistoryEntry {
    pub at: Timestamp,
    /// A component's name, `instance` or `region`.
    pub what: String,
    pub from: String,
    pub to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// One answer, ready to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// 200, else 503.
    pub ok: bool,
    /// JSON, ending in a newline.
    pub body: Bytes,
    /// Value of `X-Dr-Agent`.
    pub generation: Bytes,
}

/// Everything anybody may know, at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Rises with every snapshot of this process.
    pub generation: u64,
    pub taken: BootTime,
    pub about: Arc<About>,
    pub config: Arc<Config>,
    pub components: Vec<(ComponentState, Option<Domain>)>,
    pub instance: InstanceVerdict,
    /// The instance is closed since before this agent started, as its marker said.
    pub instance_resumed: bool,
    pub region: RegionVerdict,
    /// The region's door by itself, the gate aside.
    pub region_closed: bool,
    pub gate_closed: bool,
    /// This region owns the highest epoch.
    pub promoted: bool,
    pub group: Group,
    /// What the other members said last; `None` where nobody knows of any.
    pub round: Option<Arc<Round>>,
    pub latches: Latches,
    pub lifecycle: Lifecycle,
    /// What is planned about this instance.
    pub replacement: Arc<replace::outlook::Outlook>,
    /// Transitions since the start of the process, by component and new status.
    pub transitions: Arc<BTreeMap<(String, Status), u64>>,
    /// Oldest first.
    pub history: Arc<Vec<HistoryEntry>>,
    /// What the regions' names showed last; empty before that, and without names.
    pub certificates: Arc<Vec<Certificate>>,
    /// What the state file should say.
    pub state: Arc<State>,
    /// The public answers, in the order of [`Question::ALL`](crate::answer::Question::ALL).
    pub answers: [Answer; 5],
    /// The answer to the other region's agents, who sign their question
    /// ([`crate::answer::proven`]); `None`: what anybody gets.
    pub proof: Option<Bytes>,
    /// What was decided about who owns the data; `None` without two regions.
    pub authority: Option<Arc<Said>>,
}

impl Snapshot {
    /// An operator or the platform asked for it.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.latches.get(Kind::Drain).is_some() || self.lifecycle.drain().is_some()
    }

    /// Something is only rehearsed here.
    #[must_use]
    pub fn is_drill(&self) -> bool {
        self.latches.drill().is_some() || self.authority.as_deref().is_some_and(Said::is_drill)
    }

    /// Time alone changes nothing here, but that an observation which does not come makes a component stale.
    pub(crate) fn is_calm(&self) -> bool {
        self.components.iter().all(|(component, _)| component.status == Status::Healthy)
            && self.instance.reasons.is_empty()
            && self.region.holds.is_empty()
            && self.region.reopens.is_none()
    }
}
