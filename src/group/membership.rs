//! Who is in the group: learned from AWS now and then, kept on disk, so that asking each other needs no AWS.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::write_atomically;

/// The group as it was known last, this instance included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Name of the Auto Scaling group.
    pub group: String,
    /// When AWS said so.
    pub at: Timestamp,
    /// By instance id.
    pub members: Vec<Member>,
    /// Instances that the group should have, as AWS said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
}

/// One instance of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Instance id.
    pub instance: String,
    /// Availability zone.
    pub zone: String,
    /// Its private address.
    pub address: IpAddr,
    /// Where its peer listener is, if not where this instance has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Membership {
    /// This instance's own entry.
    #[must_use]
    pub fn member(&self, instance: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.instance == instance)
    }

    /// What to believe when AWS has `described` the group of `instance` at `at`. An answer that lacks this very instance,
    /// which runs, may lack others that do: it adds, takes nobody away, and does not count as a new description. A
    /// capacity that was not told stays what it was.
    #[must_use]
    pub fn described(
        before: Option<&Self>,
        group: &str,
        instance: &str,
        mut described: Vec<Member>,
        desired: Option<u32>,
        at: Timestamp,
    ) -> Self {
        let before = before.filter(|before| before.group == group);
        let desired = desired.or_else(|| before?.desired);
        if described.iter().all(|member| member.instance != instance) {
            let known = before.into_iter().flat_map(|before| &before.members);
            let missing = known.filter(|old| described.iter().all(|new| new.instance != old.instance));
            let missing: Vec<_> = missing.cloned().collect();
            described.extend(missing);
            described.sort_by(|a, b| a.instance.cmp(&b.instance));
            let at = before.map_or(at, |before| before.at);
            return Self { group: group.to_owned(), at, members: described, desired };
        }
        Self { group: group.to_owned(), at, members: described, desired }
    }

    /// Everybody else.
    pub fn others<'a>(&'a self, instance: &'a str) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(move |member| member.instance != instance)
    }
}

/// Where it is kept.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("members.json")
}

/// What was known last; `None` if nothing was. Blocking.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn load(state_dir: &Path) -> io::Result<Option<Membership>> {
    match fs::read(path(state_dir)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps it. Blocking.
///
/// # Errors
/// When it cannot be written.
pub fn save(state_dir: &Path, membership: &Membership) -> io::Result<()> {
    write_atomically(&path(state_dir), &serde_json::to_vec_pretty(membership)?, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_this_instance_takes_nobody_away() {
        let member = |instance: &str| Member {
            instance: instance.to_owned(),
            zone: "a".to_owned(),
            address: "10.0.0.1".parse().unwrap(),
            port: None,
        };
        let before = Membership {
            group: "web".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            members: vec![member("i-0a"), member("i-0b")],
            desired: Some(2),
        };
        let after = |described: &[&str], group: &str| {
            let described_itself = described.contains(&"i-0a");
            let described = described.iter().map(|instance| member(instance)).collect();
            let now = Membership::described(Some(&before), group, "i-0a", described, None, Timestamp::MAX);
            assert_eq!((now.group.as_str(), now.desired), (group, (group == "web").then_some(2)));
            let is_new = group == "other" || described_itself;
            assert_eq!(now.at, if is_new { Timestamp::MAX } else { Timestamp::UNIX_EPOCH });
            now.members.into_iter().map(|member| member.instance).collect::<Vec<_>>()
        };
        assert_eq!(after(&["i-0a", "i-0c"], "web"), ["i-0a", "i-0c"]);
        assert_eq!(after(&["i-0c"], "web"), ["i-0a", "i-0b", "i-0c"]);
        assert_eq!(after(&[], "web"), ["i-0a", "i-0b"]);
        // What was known of another group is of no use.
        assert_eq!(after(&["i-0c"], "other"), ["i-0c"]);
        assert!(after(&[], "other").is_empty());
    }

    #[test]
    fn what_is_kept_comes_back_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        let member = |instance: &str, address: &str| Member {
            instance: instance.to_owned(),
            zone: "ap-south-1a".to_owned(),
            address: address.parse().unwrap(),
            port: None,
        };
        let members = vec![member("i-0a", "10.0.0.1"), member("i-0b", "2001:db8::2")];
        let at = Timestamp::UNIX_EPOCH;
        let membership = Membership { group: "web".to_owned(), at, members, desired: Some(2) };
        save(dir.path(), &membership).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(membership.clone()));
        assert_eq!(membership.others("i-0a").map(|m| m.instance.as_str()).collect::<Vec<_>>(), ["i-0b"]);
        assert_eq!(membership.member("i-0b").map(|m| m.zone.as_str()), Some("ap-south-1a"));
        fs::write(path(dir.path()), "{").unwrap();
        assert!(load(dir.path()).is_err());
    }
}
