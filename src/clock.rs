//! The boot clock and the wall clock, read here and nowhere else.
//!
//! Ages and verdict windows use `CLOCK_BOOTTIME`: it counts through suspend and hibernation, so a pass from before a
//! hibernation is old when the machine wakes, and no step of the wall clock changes a verdict. Decisions never read a
//! clock: they get the time as an argument.

use std::fs;
use std::io;
use std::ops::Add;
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point on `CLOCK_BOOTTIME`: the time since this machine booted, sleep included; by default the boot itself.
/// Meaningless in another boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootTime(Duration);

impl BootTime {
    /// A point so long after boot. For tests and for times read back from the state file of the same boot.
    #[must_use]
    pub const fn from_boot(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// The one reading of the clock.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        // The kernel never returns a negative boot time nor more than 10^9 - 1 nanoseconds.
        Self(Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0)))
    }

    /// The time from `earlier` to this point; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This point moved back, not before the boot.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    /// Time since the boot.
    #[must_use]
    pub const fn elapsed(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// One moment on both clocks, to be kept on disk: within its boot the boot clock tells its age, after it the wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The kernel's id of the boot.
    pub boot: String,
    pub time: BootTime,
    pub wall: Timestamp,
}

impl Stamp {
    /// This moment, in the boot `boot`.
    #[must_use]
    pub fn now(boot: &str) -> Self {
        Self { boot: boot.to_owned(), time: BootTime::now(), wall: wall() }
    }

    /// How old it is at `now`. What seems to lie in the future is no age at all, so a limit that waits for an age waits
    /// longer when a clock was set back.
    #[must_use]
    pub fn age(&self, now: &Self) -> Duration {
        if self.boot == now.boot {
            now.time.since(self.time)
        } else {
            Duration::try_from(now.wall.duration_since(self.wall)).unwrap_or_default()
        }
    }
}

/// Wall-clock time, for people, the history and limits that outlive a boot. Never for an age or a verdict.
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp::now()
}

/// The kernel's random id of this boot, by which what one boot persisted is told from another's.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_by_the_boot_clock_within_a_boot_and_never_negative() {
        let stamp = |boot: &str, seconds: u64, wall: i64| Stamp {
            boot: boot.to_owned(),
            time: BootTime::from_boot(Duration::from_secs(seconds)),
            wall: Timestamp::from_second(wall).unwrap(),
        };
        let then = stamp("a", 100, 1_000);
        assert_eq!(then.age(&stamp("a", 160, 999_000)).as_secs(), 60, "whatever the wall clock did");
        assert_eq!(then.age(&stamp("b", 5, 1_600)).as_secs(), 600);
        assert_eq!(then.age(&stamp("b", 5, 400)).as_secs(), 0, "it was set back");
    }
}
