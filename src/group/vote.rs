//! From a member's raw facts to its vote on one component. Its own verdict does not count: only whether it has seen the
//! thing work since my trouble began.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::word::{ComponentWord, Word};
use crate::clock::BootTime;
use crate::health::cause::{OnInstance, OnRegion, Status, TABLE};

/// One member's word on one component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vote {
    Healthy,
    Failing,
    Abstains,
}

impl Vote {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Failing => "failing",
            Self::Abstains => "abstains",
        }
    }
}

/// Who asks, and of what.
#[derive(Debug, Clone, Copy)]
pub struct Mine<'a> {
    pub deployment: &'a str,
    pub region: Option<&'a str>,
    pub group: Option<&'a str>,
    /// Fingerprint of what I probe.
    pub target: &'a str,
    /// Deadline of one attempt.
    pub timeout: Duration,
    /// When the first attempt of my present run of failures began; `None` while it works here.
    pub failing_since: Option<BootTime>,
    /// When the question was sent.
    pub sent: BootTime,
}

/// The vote of `word` on component `name`. The first rule that matches counts.
#[must_use]
pub fn vote(word: &Word, name: &str, mine: &Mine<'_>) -> Vote {
    let same_group = word.deployment == mine.deployment
        && word.region.as_deref() == mine.region
        && word.group.as_deref() == mine.group;
    let Some(theirs) = word.components.get(name).filter(|theirs| same_group && theirs.target == mine.target) else {
        return Vote::Abstains;
    };
    if theirs.in_flight_age_ms.is_some_and(|age| Duration::from_millis(age) > mine.timeout) {
        return Vote::Failing;
    }
    if matches!(theirs.status, Status::Starting | Status::Unknown) {
        return Vote::Abstains;
    }
    match newest(theirs, mine.timeout) {
        Newest::Fails => Vote::Failing,
        Newest::SaysNothing => Vote::Abstains,
        // A success that began before my trouble did says nothing of it. Ages only: nobody's clock is compared.
        Newest::Works(age) => match mine.failing_since {
            Some(since) if age > mine.sent.since(since) => Vote::Abstains,
            _ => Vote::Healthy,
        },
    }
}

/// Whether this member, as its word has it, was ever healthy on the thing that I probe.
#[must_use]
pub fn has_seen_it_work(word: &Word, name: &str, mine: &Mine<'_>) -> bool {
    word.deployment == mine.deployment
        && word
            .components
            .get(name)
            .is_some_and(|theirs| theirs.target == mine.target && theirs.last_ok_age_ms.is_some())
}

/// What the newest outcome was.
enum Newest {
    /// It works, as was seen so long ago at most.
    Works(Duration),
    Fails,
    /// It says nothing of the region, and nothing good of that instance.
    SaysNothing,
}

fn newest(theirs: &ComponentWord, timeout: Duration) -> Newest {
    let ok = theirs.last_ok_age_ms.map(Duration::from_millis);
    let fail = theirs.last_fail_age_ms.map(Duration::from_millis);
    // A cause that only a newer release knows counts as any failure.
    let row = theirs.cause.as_deref().and_then(|name| TABLE.iter().find(|row| row.name == name));
    if row.is_some_and(|row| row.region == OnRegion::Holds) {
        // It did not come so far as to ask.
        return Newest::SaysNothing;
    }
    let fail = match (ok, fail) {
        // Attempts follow each other, so an ok attempt that began after a failed one had ended is the newer one.
        (Some(ok), fail) if fail.is_none_or(|fail| ok <= fail) => return Newest::Works(ok),
        (_, Some(fail)) => fail,
        (_, None) => return Newest::SaysNothing,
    };
    match row {
        // It leaves both verdicts alone: read-only is a matter of role. The attempt began before it ended.
        Some(row) if row.instance == OnInstance::Keeps && row.region == OnRegion::Keeps => {
            Newest::Works(fail + timeout)
        }
        Some(row) if row.region == OnRegion::Keeps => Newest::SaysNothing,
        _ => Newest::Fails,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::word::PROTO;
    use crate::health::cause::Cause;
    use crate::health::component::ComponentState;

    const TIMEOUT: Duration = Duration::from_millis(1_500);

    fn at(milliseconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(milliseconds))
    }

    /// My trouble began at 10 s, I ask at 15 s.
    fn mine() -> Mine<'static> {
        Mine {
            deployment: "shop",
            region: Some("ap-south-1"),
            group: Some("web"),
            target: "t",
            timeout: TIMEOUT,
            failing_since: Some(at(10_000)),
            sent: at(15_000),
        }
    }

    fn word(component: ComponentWord) -> Word {
        Word {
            proto: PROTO,
            deployment: "shop".to_owned(),
            region: Some("ap-south-1".to_owned()),
            group: Some("web".to_owned()),
            instance: None,
            zone: None,
            boot: String::new(),
            state: "serving".to_owned(),
            serving: true,
            region_closed: false,
            draining: false,
            authority: None,
            components: [("database".to_owned(), component)].into(),
        }
    }

    fn seen(status: Status, cause: Option<Cause>, ok: Option<u64>, fail: Option<u64>) -> ComponentWord {
        ComponentWord {
            target: "t".to_owned(),
            status,
            cause: cause.map(|cause| cause.name().to_owned()),
            last_ok_age_ms: ok,
            last_fail_age_ms: fail,
            in_flight_age_ms: None,
        }
    }

    fn of(component: ComponentWord) -> Vote {
        vote(&word(component), "database", &mine())
    }

    #[test]
    fn a_success_counts_only_if_it_began_after_my_trouble() {
        assert_eq!(of(seen(Status::Healthy, None, Some(5_000), None)), Vote::Healthy);
        assert_eq!(
            of(seen(Status::Healthy, None, Some(5_001), None)),
            Vote::Abstains,
            "the first to notice is no proof"
        );
        assert_eq!(of(seen(Status::Degraded, Some(Cause::DatabaseSlow), Some(100), None)), Vote::Healthy);
        let calm = Mine { failing_since: None, ..mine() };
        assert_eq!(vote(&word(seen(Status::Healthy, None, Some(60_000), None)), "database", &calm), Vote::Healthy);
    }

    #[test]
    fn the_newest_outcome_counts_whatever_the_status_says_yet() {
        let refused = Some(Cause::DatabaseRefused);
        assert_eq!(of(seen(Status::Healthy, refused, Some(2_000), Some(100))), Vote::Failing);
        assert_eq!(of(seen(Status::Unhealthy, None, Some(100), Some(2_000))), Vote::Healthy);
        assert_eq!(of(seen(Status::Unhealthy, refused, None, Some(2_000))), Vote::Failing);
        let mut unheard = seen(Status::Unhealthy, None, Some(2_000), Some(100));
        unheard.cause = Some("database-eaten".to_owned());
        assert_eq!(of(unheard), Vote::Failing, "a newer release's cause");
    }

    #[test]
    fn an_attempt_that_does_not_end_is_a_failure() {
        let mut hung = seen(Status::Healthy, None, Some(100), None);
        hung.in_flight_age_ms = Some(1_501);
        assert_eq!(of(hung.clone()), Vote::Failing);
        hung.in_flight_age_ms = Some(1_500);
        assert_eq!(of(hung), Vote::Healthy);
    }

    #[test]
    fn a_read_only_database_answers() {
        let read_only = Some(Cause::DatabaseReadOnly);
        assert_eq!(of(seen(Status::Unhealthy, read_only, Some(90_000), Some(3_000))), Vote::Healthy);
        assert_eq!(
            of(seen(Status::Unhealthy, read_only, Some(90_000), Some(3_501))),
            Vote::Abstains,
            "it began earlier"
        );
    }

    #[test]
    fn who_knows_nothing_or_is_of_another_group_abstains() {
        assert_eq!(of(seen(Status::Starting, None, None, None)), Vote::Abstains);
        assert_eq!(of(seen(Status::Unknown, None, Some(10), None)), Vote::Abstains);
        assert_eq!(of(seen(Status::Unhealthy, None, None, None)), Vote::Abstains);
        let good = || seen(Status::Healthy, None, Some(10), None);
        let mut other = good();
        other.target = "u".to_owned();
        assert_eq!(of(other), Vote::Abstains);
        for change in [
            (|word| word.deployment = "other".to_owned()) as fn(&mut Word),
            |word| word.group = None,
            |word| word.region = Some("us-east-1".to_owned()),
            |word| word.components.clear(),
        ] {
            let mut word = word(good());
            assert_eq!(vote(&word, "database", &mine()), Vote::Healthy);
            change(&mut word);
            assert_eq!(vote(&word, "database", &mine()), Vote::Abstains);
        }
    }

    #[test]
    fn who_could_not_ask_has_no_word_and_has_seen_nothing_work() {
        use crate::health::component::Schedule;
        use crate::observation::{Component, Facts, Finding, Observation, Outcome};
        let second = Duration::from_secs(1);
        let schedule = Schedule { interval: 2 * second, timeout: second, fast_interval: None, fall: 3, rise: 3 };
        for row in TABLE.iter().filter(|row| row.region == OnRegion::Holds) {
            let mut theirs = ComponentState::new(Component::Database, "t".to_owned(), schedule, false, at(0));
            for began in (2_000..15_000).step_by(2_000) {
                theirs.apply(Observation {
                    component: Component::Database,
                    began: at(began),
                    took: Duration::ZERO,
                    outcome: Outcome::Fail(Finding::new(row.cause, "x")),
                    stages: Vec::new(),
                    facts: Facts::None,
                });
            }
            assert_eq!(theirs.status, row.status, "{}", row.name);
            assert!(!theirs.ever_healthy && !theirs.is_working_now() && theirs.passes == 0, "{}", row.name);
            let said = word(seen(theirs.status, theirs.newest_cause(), None, None));
            assert_eq!(theirs.last_ok, None);
            assert!(!has_seen_it_work(&said, "database", &mine()), "{}", row.name);
            // Nor has one that worked before.
            let later = seen(theirs.status, theirs.newest_cause(), Some(100), None);
            assert_eq!(of(later), Vote::Abstains, "{}", row.name);
        }
    }
}
