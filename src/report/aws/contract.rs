//! What Auto Scaling must do and leave to the agent, by one look at the group. Pure.

use serde::{Deserialize, Serialize};

use super::{Finding, Level};
use crate::aws::trial::Trial;
use crate::aws::{GROUPS, INSTANCES};
use crate::replace::look::Look;

/// Up to so many instances a group loses a large share with each that is ended before its successor is there.
const SMALL: u32 = 4;

/// Minimum and maximum healthy percentage with which a successor comes first.
const LAUNCH_FIRST: (i32, i32) = (100, 200);

/// A group's settings, as far as they matter here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    pub name: String,
    pub desired: u32,
    pub in_service: u32,
    pub health_check_types: Vec<String>,
    pub grace_seconds: u64,
    pub default_warmup_seconds: Option<u64>,
    /// Minimum and maximum healthy percentage.
    pub maintenance: Option<(i32, i32)>,
    pub suspended: Vec<String>,
    /// In the last 30 minutes.
    pub launches_failed: u32,
    pub refreshing: bool,
    pub stopped_by_tag: bool,
}

impl Contract {
    pub(super) fn of(look: &Look) -> Self {
        let in_service = look.members.iter().filter(|member| member.lifecycle == "InService").count();
        Self {
            name: look.group.clone(),
            desired: look.desired,
            in_service: u32::try_from(in_service).unwrap_or(u32::MAX),
            health_check_types: look.health_check_types.clone(),
            grace_seconds: look.grace.as_secs(),
            default_warmup_seconds: look.default_warmup.map(|warmup| warmup.as_secs()),
            maintenance: look.maintenance,
            suspended: look.suspended.iter().cloned().collect(),
            launches_failed: look.launches_failed,
            refreshing: look.is_refreshing,
            stopped_by_tag: look.stopped_by_tag,
        }
    }
}

/// The health check types with which Auto Scaling ends an instance that answers 503, as a drained one does.
pub fn ends_what_fails(types: &[String]) -> Vec<&str> {
    types.iter().map(String::as_str).filter(|kind| ["ELB", "VPC_LATTICE"].contains(kind)).collect()
}

/// What is wrong with the group, or better otherwise.
pub(super) fn findings(trial: &Trial, group: Option<&str>, instance: Option<&str>, enforce: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find =
        |level, what: String, costs: &str, hint: String| findings.push(Finding::new(level, what, costs, hint));
    let answered = |action| trial.calls.iter().any(|(tried, result)| *tried == action && result.is_ok());
    let Some(group) = group else {
        if answered(INSTANCES) {
            find(
                Level::Advice,
                "this instance is in no Auto Scaling group".to_owned(),
                "nobody else is asked, and nothing replaces it",
                "nothing to do if that is meant".to_owned(),
            );
        }
        return findings;
    };
    let Some(look) = &trial.look else {
        if answered(GROUPS) {
            find(
                Level::Degraded,
                format!("Auto Scaling knows no group `{group}` in this region and account"),
                "nothing is replaced",
                "is the instance's tag `aws:autoscaling:groupName` a copy of another's?".to_owned(),
            );
        }
        return findings;
    };
    let update = |option: &str| {
        format!("`aws autoscaling update-auto-scaling-group --auto-scaling-group-name {group} {option}`")
    };
    let ending = ends_what_fails(&look.health_check_types);
    if !ending.is_empty() {
        find(
            Level::Unhealthy,
            format!("the group's health check type is {}", ending.join(" and ")),
            "Auto Scaling ends each instance that answers the load balancer 503: a drain terminates it, a fault that all have ends them all, and `observe` only observes what Auto Scaling does",
            update("--health-check-type EC2"),
        );
    }
    let mine = instance.and_then(|instance| look.members.iter().find(|member| member.instance == instance));
    if mine.is_none() {
        find(
            Level::Degraded,
            format!("the group `{group}` does not have this instance"),
            "nothing replaces it, and it counts for nothing there",
            "was it detached? Attach it again, or end it".to_owned(),
        );
    }
    if look.stopped_by_tag {
        find(
            Level::Advice,
            "the group has the tag `dr-agent:replace=off`".to_owned(),
            "none of its instances is replaced (StoppedByTag)",
            format!(
                "when that is no longer meant: `aws autoscaling delete-tags --tags ResourceId={group},ResourceType=auto-scaling-group,Key=dr-agent:replace`"
            ),
        );
    }
    let suspended = |names: &[&str]| {
        let names = look.suspended.iter().map(String::as_str).filter(|name| names.contains(name));
        names.collect::<Vec<_>>().join(" ")
    };
    let blocking = suspended(&["Launch", "ReplaceUnhealthy", "Terminate"]);
    if !blocking.is_empty() {
        find(
            Level::Degraded,
            format!("suspended in the group: {blocking}"),
            "a dead instance is not succeeded by another, and the agent has none replaced (ProcessSuspended)",
            format!(
                "`aws autoscaling resume-processes --auto-scaling-group-name {group} --scaling-processes {blocking}`"
            ),
        );
    }
    if !suspended(&["HealthCheck"]).is_empty() {
        find(
            Level::Degraded,
            "suspended in the group: HealthCheck".to_owned(),
            "Auto Scaling does not notice a machine that is gone, and a machine that is gone cannot say so",
            format!(
                "`aws autoscaling resume-processes --auto-scaling-group-name {group} --scaling-processes HealthCheck`"
            ),
        );
    }
    if look.launches_failed > 0 {
        find(
            Level::Degraded,
            format!("launches of the group that failed in the last 30 min: {}", look.launches_failed),
            "an instance that goes has no successor, so none is replaced (LaunchesFailing)",
            format!("`aws autoscaling describe-scaling-activities --auto-scaling-group-name {group} --max-items 5`"),
        );
    }
    if look.is_refreshing {
        find(
            Level::Advice,
            "an instance refresh of the group is in progress".to_owned(),
            "no instance is replaced meanwhile (GroupNotSettled)",
            "nothing to do: it ends by itself".to_owned(),
        );
    }
    if look.desired <= SMALL && look.maintenance != Some(LAUNCH_FIRST) {
        let is = look.maintenance.map_or_else(|| "not set".to_owned(), |(least, most)| format!("{least}-{most} %"));
        find(
            Level::Advice,
            format!("the group's instance maintenance policy is {is}"),
            "a small group serves with a large part missing until the successor is there",
            update("--instance-maintenance-policy MinHealthyPercentage=100,MaxHealthyPercentage=200"),
        );
    }
    if look.default_warmup.is_none() {
        find(
            Level::Advice,
            "the group has no default instance warmup".to_owned(),
            "scaling and refreshes count an instance before it serves",
            update("--default-instance-warmup 60"),
        );
    }
    if enforce && look.desired == 1 {
        find(
            Level::Advice,
            "the group wants one instance".to_owned(),
            "nobody else can say whose fault it is: only a gone nginx master and a broken disk have it replaced",
            "nothing to do if that is meant; two instances in two zones can judge each other".to_owned(),
        );
    }
    findings
}
