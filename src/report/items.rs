//! One thing that was done or looked at, with its status: of the bootstrap, of the sealing of an image, of the look at one.

use serde::{Deserialize, Serialize};

use crate::health::cause::Status;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub name: String,
    pub status: Status,
    /// What it is now.
    pub words: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Item {
    #[must_use]
    pub fn well(name: &str, words: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status: Status::Healthy, words: words.into(), hint: None }
    }

    #[must_use]
    pub fn worse(name: &str, status: Status, words: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status, words: words.into(), hint: Some(hint.into()) }
    }

    #[must_use]
    pub fn degraded(name: &str, words: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::worse(name, Status::Degraded, words, hint)
    }

    #[must_use]
    pub fn unhealthy(name: &str, words: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::worse(name, Status::Unhealthy, words, hint)
    }
}

/// All of them in one status, in the order in which exit codes rank them.
#[must_use]
pub fn overall(items: &[Item]) -> Status {
    let worst = [Status::Unhealthy, Status::Unknown, Status::Starting, Status::Degraded];
    worst.into_iter().find(|status| items.iter().any(|item| item.status == *status)).unwrap_or(Status::Healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts() {
        let well = Item::well("a", "");
        let degraded = Item::degraded("b", "", "");
        let unhealthy = Item::unhealthy("c", "", "");
        assert_eq!(overall(&[]), Status::Healthy);
        assert_eq!(overall(&[well.clone(), degraded.clone()]), Status::Degraded);
        assert_eq!(overall(&[unhealthy, degraded, well]), Status::Unhealthy);
    }
}
