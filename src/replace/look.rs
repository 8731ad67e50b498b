//! The last look: what Auto Scaling says of the group, moments before an instance is marked.

use std::collections::BTreeSet;
use std::time::Duration;

/// The group as Auto Scaling describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub group: String,
    /// The group's desired capacity.
    pub desired: u32,
    pub members: Vec<LookMember>,
    /// Suspended processes, by Auto Scaling's names.
    pub suspended: BTreeSet<String>,
    /// Launches that failed within the last 30 minutes.
    pub launches_failed: u32,
    /// An instance refresh is in progress.
    pub is_refreshing: bool,
    /// The group has the tag `dr-agent:replace=off`.
    pub stopped_by_tag: bool,
    /// The group's tag `dr-agent:last-replacement`.
    pub last_replacement: Option<String>,
    pub health_check_types: Vec<String>,
    /// The group's health check grace period.
    pub grace: Duration,
    pub default_warmup: Option<Duration>,
    /// Minimum and maximum healthy percentage of the instance maintenance policy.
    pub maintenance: Option<(i32, i32)>,
}

/// One instance of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookMember {
    pub instance: String,
    /// Its lifecycle state, by Auto Scaling's name.
    pub lifecycle: String,
    /// Auto Scaling takes it for healthy.
    pub healthy: bool,
}
