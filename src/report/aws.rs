//! The AWS side in a report: who this instance is by whose word, what its role may do, and whether its group is set up
//! as replacement needs it. No verdict depends on any of it.

mod contract;
mod rights;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::aws::policy::{Needs, Policy};
use crate::aws::trial::Trial;
use crate::aws::{self, Counts};
use crate::config::Config;
use crate::identity::metadata::{Metadata, Silence};

pub use contract::{Contract, ends_what_fails};
pub use rights::{Credentials, Permission};

/// See the page of [`crate::report`]. A running agent has only `calls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Aws {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<Known>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<Permission>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Contract>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
}

/// One thing that is known of this instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub what: String,
    pub value: String,
    /// Whose word it is.
    pub from: String,
}

/// Calls that ended in the same way since the start of the running agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// As IAM names it.
    pub action: String,
    pub result: String,
    pub count: u64,
}

/// What is not as it should be, with what that costs and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    pub costs: String,
    pub hint: String,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Better otherwise; the whole is none the worse for it.
    Advice,
    Degraded,
    Unhealthy,
}

/// What was seen in one look.
#[derive(Debug)]
pub struct Seen<'a> {
    pub metadata: &'a Metadata,
    /// The instance id by the firmware.
    pub firmware: Option<&'a str>,
    pub known: Vec<Known>,
    /// `None`: AWS was not asked.
    pub trial: Option<&'a Trial>,
    /// The calls of the running agent; `None` without one.
    pub calls: Option<&'a [Call]>,
}

impl Aws {
    /// What a running agent tells; `None` where it has called nobody.
    #[must_use]
    pub fn live(counts: &Counts) -> Option<Self> {
        let calls = counts.iter().map(|((action, result), count)| Call {
            action: (*action).to_owned(),
            result: (*result).to_owned(),
            count: *count,
        });
        let calls: Vec<_> = calls.collect();
        (!calls.is_empty()).then(|| Self { calls, ..Self::default() })
    }

    /// What a look comes to.
    #[must_use]
    pub fn of(seen: Seen<'_>, config: &Config) -> Self {
        let value = |what: &str| seen.known.iter().find(|known| known.what == what).map(|known| known.value.clone());
        let (instance, group) = (value(INSTANCE), value(GROUP));
        let needs = Needs {
            group: group.as_deref(),
            namespace: config.cloudwatch.as_deref(),
            enforce: config.replace.enforce,
            authority: config.authority.is_some(),
        };
        let policy = Policy::for_needs(&needs);
        let mut findings = Vec::new();
        findings.extend(seen.metadata.silence.and_then(|silence| unheard(silence, instance.as_deref(), &seen)));
        let mut told = Self { silence: seen.metadata.silence, role: seen.metadata.role.clone(), ..Self::default() };
        if let Some(trial) = seen.trial {
            told.credentials = rights::credentials(trial);
            let is_needed = needs.group.is_some() || needs.namespace.is_some() || needs.enforce;
            findings.extend(rights::without_credentials(told.credentials.as_ref(), seen.metadata, is_needed));
            told.permissions = rights::permissions(trial, seen.calls, &policy);
            let names_group = seen.known.iter().any(|known| known.what == GROUP && known.from != BY_SCALING);
            let (lacks, is_denied) = rights::lacks(trial, &told.permissions, &policy, names_group);
            findings.extend(lacks);
            let is_without = !matches!(told.credentials, None | Some(Credentials::Accepted));
            told.policy = (is_denied || is_without && is_needed).then_some(policy);
            told.group = trial.look.as_ref().map(Contract::of);
            findings.extend(contract::findings(trial, group.as_deref(), instance.as_deref(), config.replace.enforce));
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        Self { identity: seen.known, findings, ..told }
    }

    /// The heaviest finding.
    #[must_use]
    pub fn level(&self) -> Option<Level> {
        self.findings.iter().map(|finding| finding.level).max()
    }
}

/// What [`Known::what`] says.
pub const INSTANCE: &str = "instance";
pub const REGION: &str = "region";
pub const ZONE: &str = "zone";
pub const GROUP: &str = "group";
pub const LIFECYCLE: &str = "lifecycle";

/// What [`Known::from`] says of Auto Scaling's word.
pub const BY_SCALING: &str = "Auto Scaling";

impl Finding {
    fn new(level: Level, what: impl Into<String>, costs: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level, what: what.into(), costs: costs.into(), hint: hint.into() }
    }
}

/// Nothing where it may well be that this is no EC2 instance.
fn unheard(silence: Silence, instance: Option<&str>, seen: &Seen<'_>) -> Option<Finding> {
    if seen.firmware.is_none() && silence != Silence::Disabled {
        return None;
    }
    let instance = instance.unwrap_or("INSTANCE");
    let (what, hint) = match silence {
        Silence::Disabled => (
            "the instance metadata service refuses (403): it is switched off",
            format!(
                "`aws ec2 modify-instance-metadata-options --instance-id {instance} --http-endpoint enabled --http-tokens required`"
            ),
        ),
        Silence::Late => (
            "the instance metadata service does not answer in time",
            "in a container raise its hop limit to 2 (`--http-put-response-hop-limit`); else look for a firewall rule that drops 169.254.169.254 for the user `dr-agent`".to_owned(),
        ),
        Silence::Unreachable => (
            "the instance metadata service cannot be reached",
            "look for a firewall rule or a route that rejects 169.254.169.254 for the user `dr-agent`".to_owned(),
        ),
        Silence::Strange => (
            "what answers at the instance metadata service's address is something else",
            "look for a proxy or a metadata emulation at 169.254.169.254".to_owned(),
        ),
    };
    let costs = "region, zone and group must come from elsewhere, standby and spot notices drain nothing, and the role's credentials are not there";
    Some(Finding::new(Level::Degraded, what, costs, hint))
}

/// How often calls of `action` ended in each way.
fn ended<'a>(calls: &'a [Call], action: &str) -> BTreeMap<&'a str, u64> {
    calls.iter().filter(|call| call.action == action).map(|call| (call.result.as_str(), call.count)).collect()
}

/// What has no trial, because it has an effect, as far as a policy allows it.
fn untried(policy: &Policy) -> impl Iterator<Item = &'static str> {
    [aws::MARK, aws::TAGS, aws::PUT].into_iter().filter(|action| policy.statement_of(action).is_some())
}

#[cfg(test)]
mod tests;
