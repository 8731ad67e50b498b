//! Auto Scaling: the last look at a group, marking an instance, its group, notes in the group's tags.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::config::Builder;
use aws_sdk_autoscaling::types::{
    Activity, AutoScalingGroup, InstanceRefreshStatus, ScalingActivityStatusCode, Tag, TagDescription,
};
use jiff::{SignedDuration, Timestamp};

use super::{Aws, Failure, call};
use crate::replace::look::{Look, LookMember};

pub const GROUPS: &str = "autoscaling:DescribeAutoScalingGroups";
pub const INSTANCES: &str = "autoscaling:DescribeAutoScalingInstances";
pub const ACTIVITY: &str = "autoscaling:DescribeScalingActivities";
pub const REFRESHES: &str = "autoscaling:DescribeInstanceRefreshes";
pub const MARK: &str = "autoscaling:SetInstanceHealth";
pub const TAGS: &str = "autoscaling:CreateOrUpdateTags";

/// Activities looked at, newest first: many more than a group has in half an hour.
const ACTIVITIES: i32 = 20;

/// A launch that failed longer ago says nothing of the next one.
const LAUNCHES_WINDOW: SignedDuration = SignedDuration::from_mins(30);

/// `off` stops all replacements. No tag's name has a `/`: with instance tags in the metadata such a key makes every
/// launch fail.
const REPLACE_TAG: &str = "dr-agent:replace";

/// The note of the last replacement.
const LAST_REPLACEMENT_TAG: &str = "dr-agent:last-replacement";

impl Aws {
    /// What Auto Scaling says of `group` at `now`; `None` if it has no such group. Three calls, side by side.
    ///
    /// # Errors
    /// When one of them fails, within 10 s.
    pub async fn look(&self, region: &str, group: &str, now: Timestamp) -> Result<Option<Look>, Failure> {
        let client = self.clients(region).auto_scaling;
        let (found, launches_failed, is_refreshing) = tokio::try_join!(
            described(&client, group),
            failed_launches(&client, group, now),
            is_refreshing(&client, group)
        )?;
        Ok(found.map(|found| look(group, &found, launches_failed, is_refreshing)))
    }

    /// The group's health check types; `None` if there is no such group.
    ///
    /// # Errors
    /// When the call fails, within 10 s.
    pub async fn health_check_types(&self, region: &str, group: &str) -> Result<Option<Vec<String>>, Failure> {
        let client = self.clients(region).auto_scaling;
        Ok(described(&client, group).await?.as_ref().map(health_check_types))
    }

    /// How many instances `group` should have; `None` if there is no such group.
    ///
    /// # Errors
    /// When the call fails, within 10 s.
    pub async fn desired(&self, region: &str, group: &str) -> Result<Option<u32>, Failure> {
        let client = self.clients(region).auto_scaling;
        Ok(described(&client, group).await?.and_then(|found| found.desired_capacity()?.try_into().ok()))
    }

    /// Marks `instance` Unhealthy: the group replaces it at once. Exactly one request, whatever comes of it: after
    /// [`Kind::Timeout`](super::Kind::Timeout) and [`Kind::Unreachable`](super::Kind::Unreachable) nobody knows
    /// whether it was carried out. Refused with the code `ValidationError` within the group's grace period.
    ///
    /// # Errors
    /// When the call fails, within 10 s.
    pub async fn mark_unhealthy(&self, region: &str, instance: &str) -> Result<(), Failure> {
        let client = self.clients(region).auto_scaling;
        let once = Builder::new().retry_config(RetryConfig::disabled());
        let mark = client
            .set_instance_health()
            .instance_id(instance)
            .health_status("Unhealthy")
            .should_respect_grace_period(true)
            .customize()
            .config_override(once);
        call(MARK, mark.send()).await.map(drop)
    }

    /// The group of `instance`; `None` if it is in none.
    ///
    /// # Errors
    /// When the call fails, within 10 s.
    pub async fn group_of(&self, region: &str, instance: &str) -> Result<Option<String>, Failure> {
        let client = self.clients(region).auto_scaling;
        let question = client.describe_auto_scaling_instances().instance_ids(instance).send();
        let answer = call(INSTANCES, question).await?;
        // Whatever it says of others was not asked.
        let mut found = answer.auto_scaling_instances.into_iter().flatten();
        Ok(found.find(|found| found.instance_id() == Some(instance)).and_then(|found| found.auto_scaling_group_name))
    }

    /// Writes the note of the last replacements (256 characters at most) on `group`.
    ///
    /// # Errors
    /// When the call fails, within 10 s.
    pub async fn note_replacement(&self, region: &str, group: &str, note: &str) -> Result<(), Failure> {
        self.tag(region, group, LAST_REPLACEMENT_TAG, note).await
    }

    /// The tags of `group`.
    ///
    /// # Errors
    /// When the call fails, within 10 s.
    pub async fn tags(&self, region: &str, group: &str) -> Result<Vec<(String, String)>, Failure> {
        let client = self.clients(region).auto_scaling;
        let found = described(&client, group).await?;
        let pair = |tag: &TagDescription| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
        Ok(found.iter().flat_map(AutoScalingGroup::tags).filter_map(pair).collect())
    }

    /// Writes one tag on `group`, not on its instances.
    ///
    /// # Errors
    /// When the call fails, within 10 s.
    pub async fn tag(&self, region: &str, group: &str, key: &str, value: &str) -> Result<(), Failure> {
        let client = self.clients(region).auto_scaling;
        let tag = Tag::builder().resource_id(group).resource_type("auto-scaling-group");
        let tag = tag.key(key).value(value);
        let write = client.create_or_update_tags().tags(tag.propagate_at_launch(false).build());
        call(TAGS, write.send()).await.map(drop)
    }
}

/// The group as it is; `None` if there is none of this name.
pub(super) async fn described(client: &Client, group: &str) -> Result<Option<AutoScalingGroup>, Failure> {
    let question = client.describe_auto_scaling_groups().auto_scaling_group_names(group).send();
    let mut found = call(GROUPS, question).await?.auto_scaling_groups.into_iter().flatten();
    Ok(found.find(|found| found.auto_scaling_group_name() == Some(group)))
}

/// Launches of the group that failed in the half hour before `now`.
pub(super) async fn failed_launches(client: &Client, group: &str, now: Timestamp) -> Result<u32, Failure> {
    let question = client.describe_scaling_activities().auto_scaling_group_name(group).max_records(ACTIVITIES).send();
    let found = call(ACTIVITY, question).await?;
    let failed = found.activities().iter().filter(|activity| is_failed_launch(activity, now)).count();
    Ok(u32::try_from(failed).unwrap_or(u32::MAX))
}

/// Whether an instance refresh of the group is going on.
pub(super) async fn is_refreshing(client: &Client, group: &str) -> Result<bool, Failure> {
    let question = client.describe_instance_refreshes().auto_scaling_group_name(group).max_records(ACTIVITIES).send();
    let found = call(REFRESHES, question).await?;
    Ok(found.instance_refreshes().iter().any(|refresh| refresh.status().is_some_and(is_going_on)))
}

fn health_check_types(found: &AutoScalingGroup) -> Vec<String> {
    let kinds = found.health_check_type().unwrap_or_default().split(',');
    kinds.map(|kind| kind.trim().to_owned()).filter(|kind| !kind.is_empty()).collect()
}

pub(super) fn look(group: &str, found: &AutoScalingGroup, launches_failed: u32, is_refreshing: bool) -> Look {
    let seconds = |seconds: i32| Duration::from_secs(seconds.try_into().unwrap_or(0));
    let tag = |key: &str| found.tags().iter().find(|tag| tag.key() == Some(key)).and_then(|tag| tag.value());
    let policy = found.instance_maintenance_policy();
    let members = found.instances().iter().filter_map(|instance| {
        Some(LookMember {
            instance: instance.instance_id()?.to_owned(),
            lifecycle: instance.lifecycle_state().map_or("", |state| state.as_str()).to_owned(),
            healthy: instance.health_status().is_some_and(|status| status.eq_ignore_ascii_case("healthy")),
        })
    });
    Look {
        group: group.to_owned(),
        desired: found.desired_capacity().and_then(|desired| desired.try_into().ok()).unwrap_or(0),
        members: members.collect(),
        suspended: found.suspended_processes().iter().filter_map(|p| p.process_name().map(str::to_owned)).collect(),
        launches_failed,
        is_refreshing,
        stopped_by_tag: tag(REPLACE_TAG) == Some("off"),
        last_replacement: tag(LAST_REPLACEMENT_TAG).map(str::to_owned),
        health_check_types: health_check_types(found),
        grace: seconds(found.health_check_grace_period().unwrap_or(0)),
        // -1 takes a value away again.
        default_warmup: found.default_instance_warmup().filter(|warmup| *warmup >= 0).map(seconds),
        maintenance: policy
            .and_then(|policy| Some((policy.min_healthy_percentage()?, policy.max_healthy_percentage()?)))
            .filter(|(least, most)| *least >= 0 && *most >= 0),
    }
}

/// An activity has no kind, but its description begins with what it does.
fn is_failed_launch(activity: &Activity, now: Timestamp) -> bool {
    let began = activity.start_time().and_then(|at| Timestamp::from_second(at.secs()).ok());
    activity.status_code() == Some(&ScalingActivityStatusCode::Failed)
        && activity.description().is_some_and(|what| what.starts_with("Launching"))
        && began.is_some_and(|began| now.duration_since(began) <= LAUNCHES_WINDOW)
}

/// A status that only a newer AWS knows counts as going on.
const fn is_going_on(status: &InstanceRefreshStatus) -> bool {
    !matches!(
        status,
        InstanceRefreshStatus::Cancelled
            | InstanceRefreshStatus::Failed
            | InstanceRefreshStatus::RollbackFailed
            | InstanceRefreshStatus::RollbackSuccessful
            | InstanceRefreshStatus::Successful
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_autoscaling::primitives::DateTime;
    use aws_sdk_autoscaling::types::{
        Instance, InstanceMaintenancePolicy, LifecycleState, SuspendedProcess, TagDescription,
    };

    #[test]
    fn a_launch_counts_as_failed_for_half_an_hour() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let activity = |what: &str, status: ScalingActivityStatusCode, age: i64| {
            let began = DateTime::from_secs(1_800_000_000 - age);
            Activity::builder().description(what).status_code(status).start_time(began).build()
        };
        let launch = "Launching a new EC2 instance.  Status Reason: We currently do not have sufficient capacity";
        assert!(is_failed_launch(&activity(launch, ScalingActivityStatusCode::Failed, 1_800), now));
        assert!(!is_failed_launch(&activity(launch, ScalingActivityStatusCode::Failed, 1_801), now));
        assert!(!is_failed_launch(&activity(launch, ScalingActivityStatusCode::Successful, 60), now));
        let end = "Terminating EC2 instance: i-0123456789abcdef0";
        assert!(!is_failed_launch(&activity(end, ScalingActivityStatusCode::Failed, 60), now));
    }

    #[test]
    fn a_look_takes_from_a_group_what_a_decision_needs() {
        let tag = |key: &str, value: &str| TagDescription::builder().key(key).value(value).build();
        let instance = |id: &str, health: &str| {
            Instance::builder().instance_id(id).health_status(health).lifecycle_state(LifecycleState::InService).build()
        };
        let group = AutoScalingGroup::builder()
            .desired_capacity(2)
            .instances(instance("i-0a", "Healthy"))
            .instances(instance("i-0b", "Unhealthy"))
            .suspended_processes(SuspendedProcess::builder().process_name("Launch").build())
            .tags(tag(REPLACE_TAG, "off"))
            .tags(tag(LAST_REPLACEMENT_TAG, "note"))
            .health_check_type("EC2, ELB")
            .health_check_grace_period(300)
            .default_instance_warmup(-1)
            .instance_maintenance_policy(
                InstanceMaintenancePolicy::builder().min_healthy_percentage(100).max_healthy_percentage(200).build(),
            )
            .build();
        let look = look("web", &group, 3, true);
        let member =
            |id: &str, healthy| LookMember { instance: id.to_owned(), lifecycle: "InService".to_owned(), healthy };
        let expected = Look {
            group: "web".to_owned(),
            desired: 2,
            members: vec![member("i-0a", true), member("i-0b", false)],
            suspended: ["Launch".to_owned()].into(),
            launches_failed: 3,
            is_refreshing: true,
            stopped_by_tag: true,
            last_replacement: Some("note".to_owned()),
            health_check_types: vec!["EC2".to_owned(), "ELB".to_owned()],
            grace: Duration::from_secs(300),
            default_warmup: None,
            maintenance: Some((100, 200)),
        };
        assert_eq!(look, expected);
    }

    #[test]
    fn a_refresh_is_over_only_when_it_is_known_to_be() {
        assert!(is_going_on(&InstanceRefreshStatus::Baking));
        assert!(is_going_on(&InstanceRefreshStatus::from("Paused")));
        assert!(!is_going_on(&InstanceRefreshStatus::Successful));
    }
}
