//! The repair ladder: what is tried on this instance before it is given up. Pure: time is an argument.
//!
//! nginx is restarted, a mount is remounted, three times, 40 s apart. What a rung does needs root, and is done by
//! [`crate::helper`]; which one is due is decided here.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Stamp;
use crate::observation::Component;

/// Attempts before the ladder is exhausted.
pub const ATTEMPTS: usize = 3;

/// From one attempt to the next, and from the last one to the end of the ladder: the helper's 30 s and the time in
/// which a probe sees what came of it.
pub const APART: Duration = Duration::from_secs(40);

/// Attempts within this time count although the component worked in between, so that what comes and goes is not
/// restarted for ever.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// What the root helper can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verb {
    #[serde(rename = "nginx-restart")]
    NginxRestart,
    #[serde(rename = "efs-remount")]
    EfsRemount,
}

impl Verb {
    pub const ALL: [Self; 2] = [Self::NginxRestart, Self::EfsRemount];

    /// Its name in files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NginxRestart => "nginx-restart",
            Self::EfsRemount => "efs-remount",
        }
    }

    /// What can be tried for a component.
    #[must_use]
    pub const fn of(component: &Component) -> Option<Self> {
        match component {
            Component::Nginx => Some(Self::NginxRestart),
            Component::Efs => Some(Self::EfsRemount),
            _ => None,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where the ladder of one verb stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// This attempt is due, counted from 1.
    Due(u32),
    /// Time to wait for what the last attempt brings.
    Wait(Duration),
    Exhausted,
}

/// The attempts made, of all verbs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repairs(Vec<(Verb, Stamp)>);

impl Repairs {
    /// Notes an attempt, and forgets what counts no more.
    pub fn note(&mut self, verb: Verb, now: &Stamp) {
        // Of a fault that lasts only the newest three matter, however old they are.
        let newest = self.0.iter().filter(|(other, _)| *other == verb).count().saturating_sub(ATTEMPTS - 1);
        let mut seen = 0;
        self.0.retain(|(other, _)| {
            seen += usize::from(*other == verb);
            *other != verb || seen > newest
        });
        self.0.push((verb, now.clone()));
    }

    /// Where the ladder of `verb` stands for a fault that has lasted `failing_for`.
    #[must_use]
    pub fn rung(&self, verb: Verb, failing_for: Duration, now: &Stamp) -> Rung {
        let counts = |at: &Stamp| at.boot == now.boot && at.age(now) <= failing_for.max(WINDOW);
        let ages: Vec<_> =
            self.0.iter().filter(|(other, at)| *other == verb && counts(at)).map(|(_, at)| at.age(now)).collect();
        match (ages.len(), ages.iter().min()) {
            (_, Some(&age)) if age < APART => Rung::Wait(APART.saturating_sub(age)),
            (made, _) if made >= ATTEMPTS => Rung::Exhausted,
            // Fewer than three.
            (made, _) => Rung::Due(u32::try_from(made).unwrap_or_default() + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootTime;
    use jiff::Timestamp;

    fn at(seconds: u64) -> Stamp {
        Stamp {
            boot: "b".to_owned(),
            time: BootTime::from_boot(Duration::from_secs(seconds)),
            wall: Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap(),
        }
    }

    #[test]
    fn three_attempts_forty_seconds_apart_and_then_it_is_exhausted() {
        let mut repairs = Repairs::default();
        let rung =
            |repairs: &Repairs, now: u64| repairs.rung(Verb::EfsRemount, Duration::from_secs(now - 1_000), &at(now));
        for (now, attempt) in [(1_010, 1), (1_050, 2), (1_090, 3)] {
            assert_eq!(rung(&repairs, now - 1).eq(&Rung::Due(attempt)), attempt == 1, "not before its time");
            assert_eq!(rung(&repairs, now), Rung::Due(attempt));
            repairs.note(Verb::EfsRemount, &at(now));
            assert_eq!(rung(&repairs, now + 39), Rung::Wait(Duration::from_secs(1)));
        }
        assert_eq!(rung(&repairs, 1_130), Rung::Exhausted);
        assert_eq!(rung(&repairs, 90_000), Rung::Exhausted, "as long as the fault lasts");
        assert_eq!(repairs.rung(Verb::NginxRestart, Duration::ZERO, &at(1_130)), Rung::Due(1), "another ladder");
    }

    #[test]
    fn a_fault_that_comes_back_at_once_gets_no_new_ladder_and_a_later_one_does() {
        let mut repairs = Repairs::default();
        for now in [1_000, 1_040, 1_080] {
            repairs.note(Verb::NginxRestart, &at(now));
        }
        assert_eq!(repairs.rung(Verb::NginxRestart, Duration::from_secs(1), &at(1_500)), Rung::Exhausted);
        assert_eq!(repairs.rung(Verb::NginxRestart, Duration::from_secs(1), &at(1_681)), Rung::Due(1));
        let another_boot = Stamp { boot: "c".to_owned(), ..at(1_200) };
        assert_eq!(repairs.rung(Verb::NginxRestart, Duration::from_secs(1), &another_boot), Rung::Due(1));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut repairs = Repairs::default();
        for now in 0..100 {
            repairs.note(Verb::ALL[usize::from(now % 2 == 0)], &at(now * 50));
        }
        assert_eq!(repairs.0.len(), 2 * ATTEMPTS);
    }
}
