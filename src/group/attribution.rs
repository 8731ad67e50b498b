//! Whose fault a fault is, from rounds of votes. Pure: time is an argument.
//!
//! A single round may catch the group in the middle of a change, so only rounds that agree make a domain. It is made
//! anew with every round for as long as the fault lasts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::vote::Vote;
use crate::clock::BootTime;
use crate::health::verdict::Domain;
use crate::observation::Component;

/// Rounds that must agree.
const ROUNDS: u32 = 3;

/// Rounds closer to each other than this are one: they may have caught the same moment.
const APART: Duration = Duration::from_secs(2);

/// One member's vote on one component, and whether it is in my zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ballot {
    pub vote: Vote,
    pub in_my_zone: bool,
}

/// What the votes of one round make of a component that fails here. `ballots` has one entry for every member asked, also
/// for those who did not answer: they abstain.
#[must_use]
pub fn of_round(component: &Component, ballots: &[Ballot]) -> Domain {
    let healthy = || ballots.iter().filter(|ballot| ballot.vote == Vote::Healthy);
    let majority = 2 * healthy().count() > ballots.len();
    let near = healthy().any(|ballot| ballot.in_my_zone);
    match component {
        // By nature a matter of this machine, unless it fails everywhere: a bad deployment does that.
        Component::Nginx | Component::Host if ballots.is_empty() => Domain::Local,
        // My own vote is a failing one.
        _ if healthy().next().is_none() => Domain::Shared,
        Component::Nginx | Component::Host if majority => Domain::Local,
        _ if majority && near => Domain::Local,
        _ if !near => Domain::Zonal,
        _ => Domain::Undetermined,
    }
}

/// Whether this round shows that nobody is better off: every member answered, has begun to look, and none is well. Silence
/// shows nothing. `has_looked` and `ballots` have one entry for every member asked.
#[must_use]
pub fn shows_nobody_well(ballots: &[Ballot], mut has_looked: impl Iterator<Item = bool>) -> bool {
    !ballots.is_empty() && has_looked.all(|has| has) && ballots.iter().all(|ballot| ballot.vote != Vote::Healthy)
}

/// What one round made of a component that fails here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    pub domain: Domain,
    /// See [`shows_nobody_well`].
    pub nobody_well: bool,
}

/// The domains of the components that fail here.
#[derive(Debug, Clone, Default)]
pub struct Attribution(BTreeMap<Component, Agreement>);

/// How many rounds in a row said the same.
#[derive(Debug, Clone, Copy)]
struct Agreement {
    last: Judged,
    /// Rounds on the domain, and on that nobody is well.
    rounds: u32,
    nobody_well: u32,
    at: BootTime,
}

impl Attribution {
    /// Takes a round in: what it made of each component that fails here. One that is not named fails no more.
    pub fn round(&mut self, round: &BTreeMap<Component, Judged>, now: BootTime) {
        self.0.retain(|component, _| round.contains_key(component));
        for (component, &judged) in round {
            let first = Agreement { last: judged, rounds: 0, nobody_well: 0, at: now };
            let known = self.0.get(component).copied();
            let before = known.unwrap_or(first);
            // A round that may have caught the same moment adds nothing, and takes what it contradicts.
            let apart = known.is_none_or(|known| now.since(known.at) >= APART);
            let changed = judged.domain != before.last.domain;
            let more = |rounds: u32| if apart { rounds.saturating_add(1) } else { rounds };
            let agreement = Agreement {
                last: judged,
                rounds: if changed { 1 } else { more(before.rounds) },
                nobody_well: if judged.nobody_well { more(before.nobody_well) } else { 0 },
                at: if apart || changed { now } else { before.at },
            };
            self.0.insert(component.clone(), agreement);
        }
    }

    /// The domain of a component that fails here, once enough rounds agree.
    #[must_use]
    pub fn domain(&self, component: &Component) -> Domain {
        match self.0.get(component) {
            Some(agreement) if agreement.rounds >= ROUNDS => agreement.last.domain,
            _ => Domain::Undetermined,
        }
    }

    /// The components that fail here and with which nobody is better off, as enough rounds agree.
    pub fn nobody_well(&self) -> impl Iterator<Item = &Component> {
        self.0.iter().filter(|(_, agreement)| agreement.nobody_well >= ROUNDS).map(|(component, _)| component)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: Vote = Vote::Healthy;
    const F: Vote = Vote::Failing;
    const A: Vote = Vote::Abstains;

    fn ballots(near: &[Vote], far: &[Vote]) -> Vec<Ballot> {
        let ballot = |in_my_zone| move |&vote| Ballot { vote, in_my_zone };
        near.iter().map(ballot(true)).chain(far.iter().map(ballot(false))).collect()
    }

    #[test]
    fn a_dependencys_fault_is_local_only_if_most_of_the_asked_and_one_of_my_zone_are_well() {
        for (near, far, domain) in [
            (&[][..], &[][..], Domain::Shared),
            (&[F, A], &[F], Domain::Shared),
            (&[A, A], &[A], Domain::Shared),
            (&[H], &[], Domain::Local),
            (&[H, A], &[], Domain::Undetermined),
            (&[H, F], &[H], Domain::Local),
            (&[H, F], &[F, A], Domain::Undetermined),
            (&[F], &[H, H], Domain::Zonal),
            (&[], &[H], Domain::Zonal),
            (&[A], &[H, F, F], Domain::Zonal),
        ] {
            for component in [Component::Efs, Component::Database] {
                assert_eq!(of_round(&component, &ballots(near, far)), domain, "{near:?} {far:?}");
            }
        }
    }

    #[test]
    fn nginx_and_the_host_are_of_this_machine_unless_they_fail_everywhere() {
        for component in [Component::Nginx, Component::Host] {
            assert_eq!(of_round(&component, &[]), Domain::Local);
            assert_eq!(of_round(&component, &ballots(&[F], &[F])), Domain::Shared, "a bad deployment");
            assert_eq!(of_round(&component, &ballots(&[F], &[H, H])), Domain::Local, "no zone breaks a web server");
            assert_eq!(of_round(&component, &ballots(&[H, F], &[F])), Domain::Undetermined);
        }
    }

    fn at(milliseconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(milliseconds))
    }

    #[test]
    fn three_rounds_two_seconds_apart_must_agree() {
        let mut attribution = Attribution::default();
        let mut round = |domain, milliseconds| {
            let judged = Judged { domain, nobody_well: false };
            attribution.round(&[(Component::Efs, judged)].into(), at(milliseconds));
            attribution.domain(&Component::Efs)
        };
        assert_eq!(round(Domain::Local, 0), Domain::Undetermined);
        assert_eq!(round(Domain::Local, 1_999), Domain::Undetermined, "the same moment");
        assert_eq!(round(Domain::Local, 2_000), Domain::Undetermined);
        assert_eq!(round(Domain::Local, 3_999), Domain::Undetermined);
        assert_eq!(round(Domain::Local, 4_000), Domain::Local);
        assert_eq!(round(Domain::Shared, 5_000), Domain::Undetermined, "whoever changes its mind begins anew");
        assert_eq!(round(Domain::Local, 6_000), Domain::Undetermined);
        assert_eq!(round(Domain::Local, 8_000), Domain::Undetermined);
        assert_eq!(round(Domain::Local, 10_000), Domain::Local);
        attribution.round(&BTreeMap::new(), at(12_000));
        assert_eq!(attribution.domain(&Component::Efs), Domain::Undetermined, "it recovered in between");
    }

    #[test]
    fn silence_and_who_has_not_looked_yet_do_not_show_that_nobody_is_well() {
        let shows = |votes: &[Vote], looked: &[bool]| shows_nobody_well(&ballots(votes, &[]), looked.iter().copied());
        assert!(shows(&[F, A], &[true, true]));
        assert!(!shows(&[F, A], &[true, false]));
        assert!(!shows(&[F, H], &[true, true]));
        assert!(!shows(&[], &[]), "there is nobody");
    }

    #[test]
    fn three_rounds_must_agree_that_nobody_is_well() {
        let mut attribution = Attribution::default();
        let mut round = |nobody_well, seconds: u64| {
            let judged = Judged { domain: Domain::Shared, nobody_well };
            attribution.round(&[(Component::Efs, judged)].into(), at(seconds * 1_000));
            attribution.nobody_well().count()
        };
        assert_eq!([round(true, 0), round(true, 2), round(true, 3)], [0, 0, 0]);
        assert_eq!([round(true, 4), round(false, 6)], [1, 0]);
        assert_eq!([round(true, 8), round(true, 10), round(true, 12)], [0, 0, 1]);
    }
}
