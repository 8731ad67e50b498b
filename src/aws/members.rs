//! EC2: who is in a group, and which group an instance is in by its tag.

use std::net::IpAddr;

use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName, Reservation};

use super::{Aws, Failure, call};
use crate::group::membership::Member;

pub const DESCRIBE: &str = "ec2:DescribeInstances";

/// The tag that Auto Scaling sets on its instances and takes away from one that is detached.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// Instances an answer may have, which is more than most groups may.
const PAGE: i32 = 1000;

/// Answers read for one question. No group is larger, and an endpoint that never ends is no AWS.
const PAGES: usize = 10;

impl Aws {
    /// The instances of `group` in `region` that run or are about to, by instance id. One without an address is none:
    /// nobody could ask it.
    ///
    /// # Errors
    /// When one of the calls fails; each takes 10 s at most.
    pub async fn members(&self, region: &str, group: &str) -> Result<Vec<Member>, Failure> {
        let ec2 = self.clients(region).ec2;
        let states = [InstanceStateName::Pending, InstanceStateName::Running].map(|state| state.as_str().to_owned());
        let filters = vec![
            Filter::builder().name(format!("tag:{GROUP_TAG}")).values(group).build(),
            Filter::builder().name("instance-state-name").set_values(Some(states.into())).build(),
        ];
        let mut members = Vec::new();
        let mut next = None;
        for _ in 0..PAGES {
            let question = ec2.describe_instances().set_filters(Some(filters.clone())).max_results(PAGE);
            let page = call(DESCRIBE, question.set_next_token(next).send()).await?;
            members.extend(page.reservations().iter().flat_map(Reservation::instances).filter_map(member));
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                break;
            }
        }
        members.sort_by(|a, b| a.instance.cmp(&b.instance));
        Ok(members)
    }

    /// The group of `instance` by its tag; `None` if it has no such tag.
    ///
    /// # Errors
    /// When the call fails, within 10 s.
    pub async fn group_by_tag(&self, region: &str, instance: &str) -> Result<Option<String>, Failure> {
        let ec2 = self.clients(region).ec2;
        let page = call(DESCRIBE, ec2.describe_instances().instance_ids(instance).send()).await?;
        let mut tags = page.reservations().iter().flat_map(Reservation::instances).flat_map(Instance::tags);
        Ok(tags.find(|tag| tag.key() == Some(GROUP_TAG)).and_then(|tag| tag.value()).map(str::to_owned))
    }
}

fn member(instance: &Instance) -> Option<Member> {
    let v4 = instance.private_ip_address().and_then(|address| address.parse().ok());
    let v6 = || instance.ipv6_address().and_then(|address| address.parse().ok());
    Some(Member {
        instance: instance.instance_id()?.to_owned(),
        zone: instance.placement()?.availability_zone()?.to_owned(),
        address: v4.or_else(v6).map(|address: IpAddr| address.to_canonical())?,
        port: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::Placement;

    #[test]
    fn a_member_has_an_id_a_zone_and_one_address_the_older_kind_first() {
        let placement = Placement::builder().availability_zone("ap-south-1a").build();
        let whole = Instance::builder().instance_id("i-0a").placement(placement);
        assert_eq!(member(&whole.clone().build()), None);
        let newer = whole.ipv6_address("2001:db8::1");
        assert_eq!(member(&newer.clone().build()).unwrap().address.to_string(), "2001:db8::1");
        let both = member(&newer.private_ip_address("10.0.0.1").build()).unwrap();
        assert_eq!((both.zone.as_str(), both.address.to_string()), ("ap-south-1a", "10.0.0.1".to_owned()));
        assert_eq!(member(&Instance::builder().instance_id("i-0b").private_ip_address("10.0.0.2").build()), None);
    }
}
