//! What must survive a restart so that nothing is decided twice: grants given, repairs made, the decision on its way.
//! Pure; [`super::store`] keeps it on disk.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::grants::Grant;
use super::ladder::Repairs;
use crate::clock::Stamp;
use crate::health::cause::Status;
use crate::health::component::ComponentState;
use crate::state::Owner;

/// The version this release writes; the rules of [`crate::state`] apply.
pub const VERSION: u32 = 1;

/// The content of `replace.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub version: u32,
    pub owner: Owner,
    /// Rises with every save: the newer of two copies counts.
    #[serde(default)]
    pub saves: u64,
    /// Since when it remembers: the first start on this instance, or the loss of what it knew.
    pub began: Stamp,
    #[serde(default)]
    pub given: Option<Grant>,
    #[serde(default)]
    pub repairs: Repairs,
    #[serde(default)]
    pub decision: Option<Decision>,
    /// Auto Scaling said that the instance is within its grace period.
    #[serde(default)]
    pub grace: Option<Grace>,
    /// The boot in which `healthy` was seen.
    #[serde(default)]
    pub boot: String,
    /// Components that were healthy in that boot, with their targets.
    #[serde(default)]
    pub healthy: BTreeMap<String, String>,
    /// How often it would have been replaced while that was only observed.
    #[serde(default)]
    pub would: u64,
    #[serde(default)]
    pub would_last: Option<Stamp>,
}

/// One decision to go. There is no second call for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The round's id.
    pub id: String,
    pub at: Stamp,
    pub cause: String,
    pub outcome: Outcome,
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The call may have been made and nobody knows what came of it.
    Calling,
    /// Auto Scaling took it, or its description of the group shows it.
    Accepted,
    /// It surely did not.
    Refused(String),
}

/// The instance may not be marked for so long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grace {
    pub at: Stamp,
    pub span: Duration,
}

impl Memory {
    /// Nothing is remembered.
    #[must_use]
    pub fn new(owner: Owner, now: Stamp) -> Self {
        Self {
            version: VERSION,
            owner,
            saves: 0,
            boot: now.boot.clone(),
            began: now,
            given: None,
            repairs: Repairs::default(),
            decision: None,
            grace: None,
            healthy: BTreeMap::new(),
            would: 0,
            would_last: None,
        }
    }

    /// Notes which components are healthy. Says whether that is news.
    pub fn observe<'a>(&mut self, components: impl IntoIterator<Item = &'a ComponentState>, boot: &str) -> bool {
        let before = self.boot != boot;
        if before {
            boot.clone_into(&mut self.boot);
            self.healthy.clear();
        }
        let mut news = before;
        for component in components.into_iter().filter(|component| component.status == Status::Healthy) {
            let (name, target) = (component.component.name(), &component.target);
            if self.healthy.get(name) != Some(target) {
                self.healthy.insert(name.to_owned(), target.clone());
                news = true;
            }
        }
        news
    }

    /// Whether the component was healthy in this boot.
    #[must_use]
    pub fn has_seen_healthy(&self, component: &ComponentState, boot: &str) -> bool {
        self.boot == boot && self.healthy.get(component.component.name()) == Some(&component.target)
    }

    /// Takes back the grant with this id. Says whether there was one.
    pub fn take_back(&mut self, id: &str) -> bool {
        self.given.take_if(|grant| grant.id == id).is_some()
    }
}
