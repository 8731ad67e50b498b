//! What this member knows of the others: the newest round, and the domains that several of them agreed on. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::ask::Silence;
use super::attribution::Attribution;
use super::view::{Me, Round};
use super::vote::Vote;
use super::word::Word;
use crate::clock::BootTime;
use crate::health::component::ComponentState;
use crate::health::verdict::{Group, InstanceState, Tally};

/// A round older than this says nothing any more: three were missed.
const STALE_AFTER: Duration = Duration::from_secs(15);

/// The others, as they were heard last.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    round: Option<Arc<Round>>,
    attribution: Attribution,
}

impl Peers {
    /// Takes a round in.
    pub fn hear(&mut self, round: Round, components: &[ComponentState], deployment: &str, region: Option<&str>) {
        let me = Me { deployment, region, group: Some(&round.group) };
        self.attribution.round(&round.judged(components, &me), round.at);
        self.round = Some(Arc::new(round));
    }

    /// The newest round.
    #[must_use]
    pub const fn round(&self) -> Option<&Arc<Round>> {
        self.round.as_ref()
    }

    /// What the verdicts are made from, as things are here now. A group of one, and one that nobody knows, is empty.
    #[must_use]
    pub fn group(&self, components: &[ComponentState], deployment: &str, region: Option<&str>, now: BootTime) -> Group {
        let Some(round) = self.round.as_ref().filter(|round| !round.heard.is_empty()) else {
            return Group::default();
        };
        if now.since(round.at) > STALE_AFTER {
            return Group { domains: Some(BTreeMap::new()), ..Group::default() };
        }
        let me = Me { deployment, region, group: Some(&round.group) };
        let with = |vote: Vote| {
            let voted = |component: &&ComponentState| round.ballots(component, &me).iter().any(|b| b.vote == vote);
            components.iter().filter(voted).map(|component| component.component.clone()).collect::<BTreeSet<_>>()
        };
        let words: Vec<_> = round.words(&me).collect();
        let seen = components.iter().filter(|component| round.have_seen_it_work(component, &me));
        let failing: Vec<_> = components.iter().filter(|component| component.is_failing_now()).collect();
        let tally = |component: &ComponentState| {
            let ballots = round.ballots(component, &me);
            let count = |vote: Vote| ballots.iter().filter(|ballot| ballot.vote == vote).count();
            Tally {
                asked: ballots.len(),
                healthy: count(Vote::Healthy),
                failing: count(Vote::Failing),
                near: ballots.iter().filter(|ballot| ballot.in_my_zone).count(),
            }
        };
        let serves = |word: &&Word| word.state == InstanceState::Serving.name() && word.serving && !word.draining;
        Group {
            passing: with(Vote::Healthy),
            failing: with(Vote::Failing),
            nobody_well: self.attribution.nobody_well().cloned().collect(),
            seen_working: seen.map(|component| component.component.clone()).collect(),
            can_serve: words.iter().any(|word| word.serving),
            region_closed: (!words.is_empty()).then(|| words.iter().any(|word| word.region_closed)),
            domains: Some(
                failing.iter().map(|c| (c.component.clone(), self.attribution.domain(&c.component))).collect(),
            ),
            tallies: failing.iter().map(|c| (c.component.clone(), tally(c))).collect(),
            is_deaf: round.heard.iter().all(|heard| heard.word == Err(Silence::NoKey)),
            serving: words.iter().copied().filter(serves).filter_map(|word| word.instance.clone()).collect(),
        }
    }
}
