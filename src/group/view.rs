//! What this member makes of a round: the votes on each of its components, and what follows for its verdicts. Pure.

use std::collections::BTreeMap;

use super::ask::Heard;
use super::attribution::{self, Ballot, Judged};
use super::vote::{self, Mine, Vote};
use super::word::{Word, fingerprint};
use crate::clock::BootTime;
use crate::health::cause::Status;
use crate::health::component::ComponentState;
use crate::observation::Component;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Me<'a> {
    pub deployment: &'a str,
    pub region: Option<&'a str>,
    pub group: Option<&'a str>,
}

/// The answers of one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The Auto Scaling group that was asked.
    pub group: String,
    pub at: BootTime,
    /// One entry for each other member.
    pub heard: Vec<Heard>,
    /// Instances that the group should have, as far as AWS has told.
    pub desired: Option<u32>,
}

impl Round {
    /// The words of members of this group.
    pub fn words<'a>(&'a self, me: &'a Me<'_>) -> impl Iterator<Item = &'a Word> {
        let heard = self.heard.iter().filter_map(|heard| heard.word.as_ref().ok());
        heard.filter(|word| {
            word.deployment == me.deployment && word.region.as_deref() == me.region && word.group.as_deref() == me.group
        })
    }

    /// Every asked member's vote on `component`, as things are here now.
    #[must_use]
    pub fn ballots(&self, component: &ComponentState, me: &Me<'_>) -> Vec<Ballot> {
        let target = fingerprint(&component.target);
        let ballot = |heard: &Heard| Ballot {
            vote: heard.word.as_ref().map_or(Vote::Abstains, |word| {
                vote::vote(word, component.component.name(), &mine(component, &target, me, heard.sent))
            }),
            in_my_zone: heard.in_my_zone,
        };
        self.heard.iter().map(ballot).collect()
    }

    /// What the round makes of each component that fails here now.
    #[must_use]
    pub fn judged(&self, components: &[ComponentState], me: &Me<'_>) -> BTreeMap<Component, Judged> {
        let failing = components.iter().filter(|component| component.is_failing_now());
        failing
            .map(|component| {
                let ballots = self.ballots(component, me);
                let domain = attribution::of_round(&component.component, &ballots);
                let (name, target) = (component.component.name(), fingerprint(&component.target));
                let looked = self.heard.iter().map(|heard| {
                    let theirs = heard.word.as_ref().ok().and_then(|word| word.components.get(name));
                    theirs.is_some_and(|theirs| theirs.target == target && theirs.status != Status::Starting)
                });
                let nobody_well = attribution::shows_nobody_well(&ballots, looked);
                (component.component.clone(), Judged { domain, nobody_well })
            })
            .collect()
    }

    /// Whether a member has seen what `component` is here work, ever.
    #[must_use]
    pub fn have_seen_it_work(&self, component: &ComponentState, me: &Me<'_>) -> bool {
        let target = fingerprint(&component.target);
        let words = self.heard.iter().filter_map(|heard| Some((heard.sent, heard.word.as_ref().ok()?)));
        words.into_iter().any(|(sent, word)| {
            vote::has_seen_it_work(word, component.component.name(), &mine(component, &target, me, sent))
        })
    }
}

const fn mine<'a>(component: &ComponentState, target: &'a str, me: &Me<'a>, sent: BootTime) -> Mine<'a> {
    Mine {
        deployment: me.deployment,
        region: me.region,
        group: me.group,
        target,
        timeout: component.schedule.timeout,
        failing_since: component.failing_since,
        sent,
    }
}
