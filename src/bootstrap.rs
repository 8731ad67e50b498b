//! What a boot makes of a machine before it serves: secrets, the shared mount, a journal that stays. `dr-agent bootstrap`,
//! run by root at every boot, from the same file as the agent.
//!
//! ```text
//!  the file, IMDS, mountinfo, /etc/fstab, what is on disk      run.rs     Facts
//!                           |
//!                     Plan::of(&Facts)                         plan.rs    pure: what to do, or why nothing
//!                           |                                  mount.rs   pure: the mount unit
//!      fetch the secret, mount, make the folder, look again    run.rs     each with a deadline
//!                           |                                  folder.rs  the folder of the canaries
//!                           |                                  secret.rs  pure: what the secret must be
//!        /run/dr-agent-result/bootstrap.json                   the Record, which `check` and `status` show
//! ```
//!
//! It may run again at any time: what is as it should be is left alone. Nobody waits for it but nginx, and nginx not for
//! ever; a machine whose bootstrap failed comes up, and says why.

mod folder;
pub mod mount;
pub mod plan;
pub mod run;
pub mod secret;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::health::cause::Status;
use crate::helper::Paths;
use crate::report::items::{Item, overall};

/// The name of its result.
pub const VERB: &str = "bootstrap";

/// All of it. The unit gives it some seconds more.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A step on a local disk, or on a mount that answers.
const LOCAL: Duration = Duration::from_secs(5);

/// The group that may read secrets and write the canary's folder: the package's, fixed because EFS stores numbers.
pub const GROUP: u32 = 848;

/// What came of the newest bootstrap of this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub began: Timestamp,
    /// `None` while it runs, and if it was ended from outside.
    pub ended: Option<Timestamp>,
    /// While it runs, of the one before it.
    pub items: Vec<Item>,
}

impl Record {
    /// What the newest bootstrap of this boot said, if there was one: its folder does not outlive the boot.
    #[must_use]
    pub fn newest(control: &Path) -> Option<Self> {
        Paths::of(control).newest(VERB)
    }

    #[must_use]
    pub fn status(&self, now: Timestamp) -> Status {
        match self.ended {
            None if self.is_overdue(now) => Status::Unhealthy,
            None if self.items.is_empty() => Status::Starting,
            _ => overall(&self.items),
        }
    }

    /// It should have ended long ago.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let age = Duration::try_from(now.duration_since(self.began)).unwrap_or_default();
        self.ended.is_none() && age > LIMIT + Duration::from_secs(15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_never_ended_is_unhealthy_after_its_limit() {
        let began: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        let mut record = Record { began, ended: None, items: Vec::new() };
        assert_eq!(record.status(began), Status::Starting);
        record.items.push(Item::unhealthy("mount", "", ""));
        assert_eq!(record.status(began), Status::Unhealthy, "trying again changes nothing");
        record.items.clear();
        let late: Timestamp = "2026-11-24T10:02:00Z".parse().unwrap();
        assert_eq!(record.status(late), Status::Unhealthy);
        record.ended = Some(late);
        assert_eq!(record.status(late), Status::Healthy);
        record.items.push(Item::degraded("secrets", "", ""));
        assert_eq!(record.status(late), Status::Degraded);
    }
}
