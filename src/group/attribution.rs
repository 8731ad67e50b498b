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

/// The domains of the components that fail here.
#[derive(Debug, Clone, Default)]
pub struct Attribution(BTreeMap<Component, Agreement>);

/// How many rounds in a row said the same.
#[derive(Debug, Clone, Copy)]
struct Agreement {
    domain: Domain,
    rounds: u32,
    at: BootTime,
}

impl Attribution {
    /// Takes a round in: what it made of each component that fails here. One that is not named fails no more.
    pub fn round(&mut self, round: &BTreeMap<Component, Domain>, now: BootTime) {
        self.0.retain(|component, _| round.contains_key(component));
        for (component, &domain) in round {
            let agreement = self.0.entry(component.clone()).or_insert(Agreement { domain, rounds: 1, at: now });
            if agreement.domain != domain {
                *agreement = Agreement { domain, rounds: 1, at: now };
            } else if now.since(agreement.at) >= APART {
                *agreement = Agreement { domain, rounds: agreement.rounds.saturating_add(1), at: now };
            }
        }
    }

    /// The domain of a component that fails here, once enough rounds agree.
    #[must_use]
    pub fn domain(&self, component: &Component) -> Domain {
        match self.0.get(component) {
            Some(agreement) if agreement.rounds >= ROUNDS => agreement.domain,
            _ => Domain::Undetermined,
        }
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
            attribution.round(&[(Component::Efs, domain)].into(), at(milliseconds));
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
}
