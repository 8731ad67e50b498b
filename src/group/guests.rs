//! Members that AWS has not named yet: an instance that was just launched asks the others before they know of it. Who
//! has the deployment's key is asked back at its address, and is a member if its word names this group, until AWS
//! describes the group without it. Pure but for the list of who knocked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::membership::{Member, Membership};
use super::view::Me;
use super::word::Word;

/// Addresses remembered. A group does not launch more at once.
const LIMIT: usize = 64;

/// Who asked with a valid key from an address that is no member's, since it was looked at last.
#[derive(Debug, Clone, Default)]
pub struct Knocks(Arc<Mutex<BTreeSet<IpAddr>>>);

impl Knocks {
    /// Remembers `address`, if there is room. Does not wait.
    pub fn knock(&self, address: IpAddr) {
        let mut knocked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if knocked.len() < LIMIT {
            knocked.insert(address);
        }
    }

    pub(super) fn take(&self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is known of those who knocked.
#[derive(Debug, Default)]
pub(super) struct Guests {
    guests: BTreeMap<IpAddr, Guest>,
    /// The newest description that was taken in.
    described: Option<Timestamp>,
}

#[derive(Debug, PartialEq, Eq)]
enum Guest {
    Stranger,
    Member(Member),
    /// AWS described the group without it.
    Refused,
}

impl Guests {
    /// Takes in who knocked and is not at a member's address.
    pub(super) fn knocked(&mut self, knocked: BTreeSet<IpAddr>, members: &BTreeSet<IpAddr>) {
        for address in knocked.into_iter().filter(|address| !members.contains(address)) {
            if self.guests.len() >= LIMIT {
                let refused = self.guests.iter().find(|(_, guest)| **guest == Guest::Refused);
                let Some(refused) = refused.map(|(refused, _)| *refused) else { return };
                self.guests.remove(&refused);
            }
            self.guests.entry(address).or_insert(Guest::Stranger);
        }
    }

    /// Where to ask who it is.
    pub(super) fn strangers(&self) -> Vec<IpAddr> {
        let strangers = self.guests.iter().filter(|(_, guest)| **guest == Guest::Stranger);
        strangers.map(|(address, _)| *address).collect()
    }

    /// What the one at `address` said of itself, `None` if nothing. Who does not belong may knock again.
    pub(super) fn introduced(
        &mut self,
        address: IpAddr,
        word: Option<&Word>,
        me: &Me<'_>,
        instance: &str,
        membership: Option<&Membership>,
    ) {
        let member = word.and_then(|word| {
            let its_own = word.instance.as_deref().filter(|its_own| *its_own != instance)?;
            let is_known = membership.is_some_and(|membership| membership.member(its_own).is_some())
                || self.members().any(|member| member.instance == its_own);
            let belongs = word.deployment == me.deployment
                && word.region.as_deref() == me.region
                && word.group.as_deref() == me.group;
            (belongs && !is_known).then_some(Member {
                instance: its_own.to_owned(),
                zone: word.zone.clone()?,
                address,
                port: None,
            })
        });
        match member {
            Some(member) => _ = self.guests.insert(address, Guest::Member(member)),
            None => _ = self.guests.remove(&address),
        }
    }

    /// Those who are members for now.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.guests.values().filter_map(|guest| match guest {
            Guest::Member(member) => Some(member),
            Guest::Stranger | Guest::Refused => None,
        })
    }

    /// AWS has described the group, or has not since: then nothing changes.
    pub(super) fn described(&mut self, membership: &Membership) {
        if self.described.replace(membership.at) == Some(membership.at) {
            return;
        }
        self.guests.retain(|address, _| membership.members.iter().all(|member| member.address != *address));
        for guest in self.guests.values_mut() {
            if matches!(guest, Guest::Member(_)) {
                *guest = Guest::Refused;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn membership(second: i64, members: &[u8]) -> Membership {
        let member =
            |last: &u8| Member { instance: format!("i-{last}"), zone: "a".to_owned(), address: ip(*last), port: None };
        let at = Timestamp::from_second(second).unwrap();
        Membership { group: "web".to_owned(), at, members: members.iter().map(member).collect(), desired: None }
    }

    fn word(instance: &str, group: &str) -> Word {
        let word = serde_json::json!({"proto": 1, "deployment": "shop", "region": "r-1", "group": group, "zone": "a",
            "instance": instance, "boot": "b", "state": "serving", "serving": true, "region_closed": false,
            "draining": false, "components": {}});
        serde_json::from_value(word).unwrap()
    }

    const ME: Me<'_> = Me { deployment: "shop", region: Some("r-1"), group: Some("web") };

    fn members(guests: &Guests) -> Vec<&str> {
        guests.members().map(|member| member.instance.as_str()).collect()
    }

    fn with_guest(last: u8) -> Guests {
        let mut guests = Guests::default();
        guests.described(&membership(1, &[1, 2]));
        guests.knocked([ip(last)].into(), &[ip(1), ip(2)].into());
        assert_eq!(guests.strangers(), [ip(last)]);
        let word = word(&format!("i-{last}"), "web");
        guests.introduced(ip(last), Some(&word), &ME, "i-1", Some(&membership(1, &[1, 2])));
        assert!(guests.strangers().is_empty());
        guests
    }

    #[test]
    fn who_names_this_group_is_a_member_until_aws_disagrees() {
        let mut guests = with_guest(3);
        assert_eq!(members(&guests), ["i-3"]);
        guests.described(&membership(1, &[1, 2]));
        assert_eq!(members(&guests), ["i-3"], "that description is older than the guest");
        guests.described(&membership(2, &[1, 2]));
        assert!(members(&guests).is_empty());
        guests.knocked([ip(3)].into(), &BTreeSet::new());
        assert!(guests.strangers().is_empty(), "refused");
        guests.described(&membership(3, &[1, 2, 3]));
        assert!(guests.guests.is_empty(), "it is a member now like any other");
    }

    #[test]
    fn who_does_not_belong_is_none_and_may_knock_again() {
        let known = membership(1, &[1, 2]);
        let strangers =
            [None, Some(word("i-3", "other")), Some(word("i-1", "web")), Some(word("i-2", "web"))].into_iter().chain([
                Some(Word { deployment: "else".to_owned(), ..word("i-3", "web") }),
                Some(Word { region: None, ..word("i-3", "web") }),
                Some(Word { zone: None, ..word("i-3", "web") }),
                Some(Word { instance: None, ..word("i-3", "web") }),
            ]);
        for word in strangers {
            let mut guests = Guests::default();
            guests.knocked([ip(3)].into(), &BTreeSet::new());
            guests.introduced(ip(3), word.as_ref(), &ME, "i-1", Some(&known));
            assert!(guests.guests.is_empty(), "{word:?}");
        }
        // One instance at two addresses is one.
        let mut guests = with_guest(3);
        guests.knocked([ip(4)].into(), &BTreeSet::new());
        guests.introduced(ip(4), Some(&word("i-3", "web")), &ME, "i-1", Some(&known));
        assert_eq!(members(&guests), ["i-3"]);
    }

    #[test]
    fn a_crowd_is_bounded_and_the_refused_make_room() {
        let knocks = Knocks::default();
        (0..=255).for_each(|last| knocks.knock(ip(last)));
        assert_eq!(knocks.take().len(), LIMIT);
        assert!(knocks.take().is_empty());
        let mut guests = with_guest(3);
        guests.described(&membership(2, &[1, 2]));
        guests.knocked((100..=255).map(ip).collect(), &BTreeSet::new());
        assert_eq!((guests.guests.len(), guests.strangers().len()), (LIMIT, LIMIT));
    }
}
