//! The task that learns from AWS who is in the group and keeps it on disk, where every round reads it: every 10 minutes,
//! and once when something begins to fail or a member falls silent, which may be because it was ended. Nothing waits for
//! it, and without an answer the old list stays.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::membership::{self, Member, Membership};
use crate::aws::{Aws, pace};
use crate::clock::{self, BootTime};
use crate::identity::Identity;
use crate::probes::blocking::{FILE, Lane};
use crate::snapshot::Snapshot;
use crate::telemetry::{ErrorChain, event};

/// From one answer to the next question, ±20 %.
const INTERVAL: Duration = Duration::from_secs(600);

/// The least between two questions, whatever fails how often.
const LEAST: Duration = Duration::from_secs(60);

/// The first wait after a question that failed.
const RETRY: Duration = Duration::from_secs(30);

/// Members that start together ask within this time; sooner while nobody is known.
const START: Duration = Duration::from_secs(60);
const START_ALONE: Duration = Duration::from_secs(5);

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// Asks until cancelled. The snapshots, which come every few seconds, are its clock.
pub async fn run(
    aws: Aws,
    state_dir: PathBuf,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    identities: watch::Receiver<Arc<Identity>>,
    cancelled: CancellationToken,
) {
    let mut questions = Questions::new(BootTime::now());
    let dir = state_dir.clone();
    let kept = timeout(FILE, LANE.run(move || membership::load(&dir))).await;
    let known = matches!(kept, Ok(Ok(Ok(Some(_)))));
    let mut complained = None;
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let heard = snapshot.round.iter().flat_map(|round| &round.heard);
        let silent = heard.filter(|heard| heard.word.is_err()).map(|heard| heard.instance.as_str());
        questions.see(
            snapshot.components.iter().any(|(component, _)| component.is_failing_now()),
            silent,
            BootTime::now(),
        );
        let identity = Arc::clone(&identities.borrow());
        let about = &snapshot.about.owner;
        let instance = identity.instance.as_ref().or(about.instance.as_ref());
        let region = identity.region.as_ref().or(about.region.as_ref());
        if let (Some(group), Some(instance), Some(region)) = (&identity.group, instance, region)
            && questions.due(instance, known) <= BootTime::now()
        {
            // Only how ready a region is hangs on its group's size.
            let has_readiness = snapshot.config.authority.is_some();
            let desired = async { if has_readiness { aws.desired(region, group).await.ok().flatten() } else { None } };
            let asked = async { tokio::join!(aws.members(region, group), desired) };
            let (members, desired) = tokio::select! {
                () = cancelled.cancelled() => return,
                asked = asked => asked,
            };
            questions.asked(members.is_ok(), BootTime::now());
            let problem = match members {
                Ok(members) => {
                    let told = Told { group: group.clone(), members, desired };
                    keep(state_dir.clone(), instance.clone(), told).await.err()
                }
                Err(failure) => Some(failure.words()),
            };
            if let Some(problem) = problem.as_ref().filter(|_| problem != complained) {
                event::members_unknown(problem);
            }
            complained = problem;
        }
        tokio::select! {
            () = cancelled.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
        }
    }
}

/// What AWS says of a group.
struct Told {
    group: String,
    members: Vec<Member>,
    /// Not asked for, or only this question failed: `None`.
    desired: Option<u32>,
}

/// Brings what is on disk up to date.
async fn keep(state_dir: PathBuf, instance: String, told: Told) -> Result<(), String> {
    let work = move || {
        // One that cannot be read is replaced.
        let before = membership::load(&state_dir).ok().flatten();
        let Told { group, members, desired } = told;
        let now = Membership::described(before.as_ref(), &group, &instance, members, desired, clock::wall());
        membership::save(&state_dir, &now)?;
        Ok::<_, std::io::Error>((before, now))
    };
    let kept = timeout(FILE, LANE.run(work)).await.map_err(|_| "the state directory does not answer".to_owned())?;
    let (before, now) = kept.map_err(|error| error.to_string())?.map_err(|error| ErrorChain(&error).to_string())?;
    if before.is_none_or(|before| before.members != now.members) {
        event::members_changed(&now);
    }
    Ok(())
}

/// When to ask. Pure.
#[derive(Debug)]
struct Questions {
    started: BootTime,
    /// When the newest one ended.
    asked: Option<BootTime>,
    /// So many so far, for the spread.
    count: u32,
    /// In a row.
    failures: u32,
    failing: bool,
    /// Who does not answer, and since when.
    silent: BTreeMap<String, BootTime>,
    /// Something began to fail and nobody was asked since.
    incident: bool,
}

impl Questions {
    const fn new(started: BootTime) -> Self {
        let silent = BTreeMap::new();
        Self { started, asked: None, count: 0, failures: 0, failing: false, silent, incident: false }
    }

    /// Whether anything fails here now, and which members do not answer.
    fn see<'a>(&mut self, failing: bool, silent: impl Iterator<Item = &'a str>, now: BootTime) {
        self.incident |= failing && !self.failing;
        self.failing = failing;
        let since = |member: &str| self.silent.get(member).copied().unwrap_or(now);
        self.silent = silent.map(|member| (member.to_owned(), since(member))).collect();
    }

    const fn asked(&mut self, answered: bool, now: BootTime) {
        self.asked = Some(now);
        self.count = self.count.wrapping_add(1);
        self.failures = if answered { 0 } else { self.failures.saturating_add(1) };
        self.incident = false;
    }

    fn due(&self, instance: &str, known: bool) -> BootTime {
        let Some(asked) = self.asked else {
            let within = if known && !self.incident { START } else { START_ALONE };
            return self.started + within.mul_f64(pace::fraction(0, instance));
        };
        let regular = if self.failures == 0 {
            asked + pace::spread(INTERVAL, self.count, instance)
        } else {
            asked + pace::wait(RETRY, self.failures - 1, instance)
        };
        // Twice for each: EC2 may say for a while that an ended instance runs.
        let unexplained = self.failures == 0 && self.silent.values().any(|since| asked < *since + LEAST);
        if self.incident || unexplained { regular.min(asked + LEAST) } else { regular }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "i-0123456789abcdef0";

    fn at(second: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(second))
    }

    /// Seconds until it is due, from `now`.
    fn wait(questions: &Questions, now: u64) -> u64 {
        questions.due(ID, true).since(at(now)).as_secs()
    }

    #[test]
    fn in_calm_it_asks_every_ten_minutes_and_members_at_different_times() {
        let mut questions = Questions::new(at(1_000));
        assert!(wait(&questions, 1_000) < 60);
        assert!(questions.due(ID, false).since(at(1_000)) < START_ALONE);
        let mut waits = std::collections::BTreeSet::new();
        for round in 0..10 {
            questions.asked(true, at(2_000 * (round + 1)));
            waits.insert(wait(&questions, 2_000 * (round + 1)));
        }
        assert!(waits.iter().all(|wait| (480..720).contains(wait)) && waits.len() > 5, "{waits:?}");
    }

    #[test]
    fn an_incident_is_one_question_more_and_never_two_within_a_minute() {
        let mut questions = Questions::new(at(1_000));
        questions.asked(true, at(1_010));
        questions.see(true, [].into_iter(), at(1_500));
        assert_eq!(wait(&questions, 1_010), 60);
        questions.asked(true, at(1_500));
        // The same incident.
        questions.see(true, [].into_iter(), at(1_500));
        assert!(wait(&questions, 1_500) >= 480);
        questions.see(false, [].into_iter(), at(1_500));
        questions.see(true, [].into_iter(), at(1_500));
        assert_eq!(wait(&questions, 1_500), 60);
    }

    #[test]
    fn a_member_that_falls_silent_is_two_questions_more_and_never_two_within_a_minute() {
        let mut questions = Questions::new(at(1_000));
        let silent = |questions: &mut Questions, silent: &[&'static str], now| {
            questions.see(false, silent.iter().copied(), at(now));
        };
        questions.asked(true, at(1_010));
        silent(&mut questions, &["i-0b"], 1_500);
        assert_eq!(wait(&questions, 1_010), 60, "it is overdue");
        questions.asked(true, at(1_501));
        silent(&mut questions, &["i-0b"], 1_510);
        assert_eq!(wait(&questions, 1_501), 60);
        questions.asked(true, at(1_561));
        // Still listed: as far as AWS knows it runs.
        silent(&mut questions, &["i-0b"], 1_570);
        assert!(wait(&questions, 1_561) >= 480);
        silent(&mut questions, &["i-0b", "i-0c"], 1_600);
        assert_eq!(wait(&questions, 1_561), 60);
        silent(&mut questions, &[], 1_610);
        assert!(wait(&questions, 1_561) >= 480, "everybody answers");
    }

    #[test]
    fn failures_are_tried_again_less_and_less_often() {
        let mut questions = Questions::new(at(1_000));
        let mut before = 0;
        for (failures, least) in [(1, 24), (2, 48), (3, 96), (5, 384), (6, 480), (60, 480)] {
            while questions.failures < failures {
                questions.asked(false, at(2_000));
            }
            let now = wait(&questions, 2_000);
            assert!(now >= least && now <= 720, "{failures}: {now}");
            assert!(now * 2 > before, "{failures}: {now} after {before}");
            before = now;
        }
    }
}
