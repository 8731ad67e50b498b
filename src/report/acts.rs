//! Who acts on each verdict as it is, in one sentence each.

use serde::{Deserialize, Serialize};

use super::Seen;
use crate::clock::BootTime;
use crate::health::verdict::{InstanceState, RegionState};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acts {
    pub instance: String,
    pub region: String,
    pub promoted: String,
    pub replacement: String,
}

pub(super) fn acts(seen: &Seen<'_>, now: BootTime) -> Acts {
    let two_regions = seen.config.regions.len() > 1;
    let instance = match seen.instance.state {
        InstanceState::Serving => "the load balancer sends it requests",
        InstanceState::Starting => "the load balancer does not send it requests yet",
        InstanceState::Draining | InstanceState::Closed => {
            "the load balancer stops sending it requests, unless no instance passes: then it sends to all"
        }
    };
    let region = match (seen.region.state, two_regions) {
        (RegionState::Open, true) => "Route 53 keeps this region's record",
        (RegionState::Standby, _) => {
            "Route 53 keeps this region's record, which it answers when the home region's fails"
        }
        (RegionState::Closed | RegionState::Fenced, true) => {
            "Route 53 answers with the other region after its failure threshold"
        }
        (RegionState::Open, false) => {
            "Route 53 if it checks this path; with one region there is nowhere to fail over to"
        }
        (RegionState::Closed | RegionState::Fenced, false) => {
            "nobody useful: with one region there is nowhere to fail over to"
        }
    };
    Acts {
        instance: instance.to_owned(),
        region: region.to_owned(),
        promoted: promoted(seen).to_owned(),
        replacement: seen.replacement.words(now),
    }
}

const fn promoted(seen: &Seen<'_>) -> &'static str {
    if seen.config.authority.is_none() {
        "nobody: with one region, or without a database, promotion and fencing are off"
    } else if seen.config.policy.standby {
        "Route 53: while it is 200 the home region's record does not count"
    } else {
        "nobody: Route 53 asks it of the peer region only"
    }
}
