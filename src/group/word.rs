//! What one member tells the others: raw facts with ages, no verdict on anybody. The body of `GET /peer`.
//!
//! Unknown fields are ignored, and what is added has a default, so that releases understand each other. `proto` rises
//! only in a release that also speaks the one before.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::authority;
use crate::clock::BootTime;
use crate::health::cause::{Cause, Status};
use crate::health::component::ComponentState;
use crate::observation::{EfsFacts, Facts};
use crate::snapshot::Snapshot;

/// The version that this release speaks and understands.
pub const PROTO: u32 = 1;

/// Bytes of a word. One with seven components takes about 1,500.
pub const LIMIT: usize = 8 * 1024;

/// One member's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    pub proto: u32,
    pub deployment: String,
    #[serde(default)]
    pub region: Option<String>,
    /// The Auto Scaling group.
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub instance: Option<String>,
    /// The availability zone.
    #[serde(default)]
    pub zone: Option<String>,
    pub boot: String,
    /// The instance verdict, for people.
    pub state: String,
    /// It can serve, as the capacity rule counts it.
    pub serving: bool,
    /// Its region door is closed.
    pub region_closed: bool,
    pub draining: bool,
    /// What it makes of the owner of the data; `None` without two regions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<authority::word::Word>,
    pub components: BTreeMap<String, ComponentWord>,
}

/// What a member knows of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentWord {
    /// A fingerprint of what is probed; only words on the same target can be compared.
    pub target: String,
    pub status: Status,
    /// The newest cause, by name, while the newest outcome is no plain pass.
    #[serde(default)]
    pub cause: Option<String>,
    /// Since the newest attempt that passed began.
    #[serde(default)]
    pub last_ok_age_ms: Option<u64>,
    /// Since the newest attempt that failed ended.
    #[serde(default)]
    pub last_fail_age_ms: Option<u64>,
    /// Since the attempt began that has not ended.
    #[serde(default)]
    pub in_flight_age_ms: Option<u64>,
}

/// Who a member says it is, beside what the snapshot knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub group: Option<String>,
    pub zone: Option<String>,
}

impl Word {
    /// What this member says at `now`.
    #[must_use]
    pub fn of(snapshot: &Snapshot, place: &Place, now: BootTime) -> Self {
        let owner = &snapshot.about.owner;
        Self {
            proto: PROTO,
            deployment: snapshot.config.deployment.clone(),
            region: owner.region.clone(),
            group: place.group.clone(),
            instance: owner.instance.clone(),
            zone: place.zone.clone(),
            boot: snapshot.about.boot.clone(),
            state: snapshot.instance.state.name().to_owned(),
            serving: snapshot.instance.can_serve,
            region_closed: snapshot.region_closed,
            draining: snapshot.is_draining(),
            authority: snapshot.authority.as_ref().map(|said| said.word.clone()),
            components: snapshot
                .components
                .iter()
                .map(|(component, _)| (component.component.name().to_owned(), ComponentWord::of(component, now)))
                .collect(),
        }
    }

    /// Bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings, numbers and a map with string keys: serialising cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A word received; `None` when it is none that this release understands.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > LIMIT {
            return None;
        }
        serde_json::from_slice::<Self>(bytes).ok().filter(|word| word.proto >= PROTO)
    }
}

impl ComponentWord {
    fn of(component: &ComponentState, now: BootTime) -> Self {
        let age = |at: Option<BootTime>| at.map(|at| milliseconds(now.since(at)));
        Self {
            target: fingerprint(&component.target),
            status: component.status,
            cause: component.newest_cause().map(|cause| cause.name().to_owned()),
            last_ok_age_ms: age(component.last_ok),
            last_fail_age_ms: age(component.last_fail),
            in_flight_age_ms: in_flight(component, now).map(milliseconds),
        }
    }
}

/// Of a probe that hangs, how long it has. An attempt that may still end well is nobody's business.
fn in_flight(component: &ComponentState, now: BootTime) -> Option<Duration> {
    let Facts::Efs(EfsFacts { hung_seconds: Some(seconds), .. }) = component.facts else { return None };
    let hangs = component.newest_cause() == Some(Cause::EfsHung);
    component.observed.filter(|_| hangs).map(|observed| Duration::from_secs(seconds) + now.since(observed))
}

/// A short fingerprint of a target: hosts and paths are nobody else's business (FNV-1a, 64 bits; it only has to tell
/// two configurations apart).
#[must_use]
pub fn fingerprint(target: &str) -> String {
    let hash = target
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::component::Schedule;
    use crate::observation::{Component, Finding, Observation, Outcome};

    #[test]
    fn a_probe_that_hangs_is_in_flight_since_it_began_until_something_else_is_seen() {
        let at = |second| BootTime::from_boot(Duration::from_secs(second));
        let (interval, timeout) = (Duration::from_secs(4), Duration::from_secs(3));
        let schedule = Schedule { interval, timeout, fast_interval: None, fall: 1, rise: 3 };
        let mut efs = ComponentState::new(Component::Efs, "/mnt".to_owned(), schedule, true, at(0));
        let seen = |second, cause, facts| Observation {
            component: Component::Efs,
            began: at(second),
            took: Duration::ZERO,
            outcome: Outcome::Fail(Finding::new(cause, "x")),
            stages: Vec::new(),
            facts,
        };
        let hung = Facts::Efs(EfsFacts { hung_child: Some(1), hung_seconds: Some(9), ..EfsFacts::default() });
        efs.apply(seen(100, Cause::EfsHung, hung));
        assert_eq!(ComponentWord::of(&efs, at(102)).in_flight_age_ms, Some(11_000));
        efs.apply(seen(103, Cause::EfsNotMounted, Facts::None));
        assert_eq!(ComponentWord::of(&efs, at(104)).in_flight_age_ms, None);
    }
}
