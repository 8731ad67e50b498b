//! What outlives the process: `state.json` in the state directory, 0600, replaced atomically, versioned.
//!
//! It belongs to one instance in one region of one deployment. A file of another (a copied AMI) is set aside as
//! `state.json.foreign` and not used.
//!
//! # Versions
//!
//! A release and the one before it read each other's file, so that neither an upgrade nor the way back forgets what was
//! closed:
//!
//! - A field that is added has a default, for a file that does not have it yet. A release that does not know a field or
//!   a kind of hold ignores it, and drops it with its next save. The version stays.
//! - The version rises only when that is not enough: a field goes, or what it says changes. That takes two releases:
//!   the first reads the new version and writes the old one still, the second writes the new one and reads both.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::authority::ledger::Ledger;
use crate::authority::memory::Memory;
use crate::clock::BootTime;
use crate::health::verdict::HoldOn;
use crate::identity::lifecycle::Lifecycle;

/// The version this release writes.
const WRITES: u32 = 1;

/// The versions it reads: what the release before it writes, and what the one after it may write.
const READS: RangeInclusive<u32> = 1..=1;

const FILE: &str = "state.json";

/// Who a state file belongs to. What is unknown matches any: without IMDS neither instance nor region may be known yet,
/// and the built-in defaults in place of a bad file do not know the deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub deployment: Option<String>,
    #[serde(default)]
    pub instance: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
}

impl Owner {
    /// Whether two owners may be the same.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        same(&self.deployment, &other.deployment)
            && same(&self.instance, &other.instance)
            && same(&self.region, &other.region)
    }

    /// Takes over what `other` knows, whose agreement was asked.
    pub fn learn(&mut self, other: &Self) {
        for (known, told) in [
            (&mut self.deployment, &other.deployment),
            (&mut self.instance, &other.instance),
            (&mut self.region, &other.region),
        ] {
            if told.is_some() {
                known.clone_from(told);
            }
        }
    }
}

/// The content of the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    pub owner: Owner,
    /// The kernel's id of the boot in which it was written.
    pub boot: String,
    /// Components that were healthy once, with the target they were healthy on.
    #[serde(default)]
    pub ever_healthy: BTreeMap<String, String>,
    #[serde(default)]
    pub region_closed: bool,
    /// When the running holds began; meaningful in the same boot only.
    #[serde(default, deserialize_with = "known_holds")]
    pub holds: BTreeMap<HoldOn, BootTime>,
    /// Where Auto Scaling and EC2 take the instance; meaningful in the same boot only.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// What decisions about the owner of the data remember.
    #[serde(default)]
    pub authority: Option<Memory>,
    /// The changes of the owner that were seen.
    #[serde(default, deserialize_with = "known_ledger")]
    pub ledger: Arc<Ledger>,
}

/// It is for people: what cannot be read of it costs no more than itself.
fn known_ledger<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Ledger>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(Arc::new(serde_json::from_value(value).unwrap_or_default()))
}

fn known_holds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<HoldOn, BootTime>, D::Error> {
    let mut known = BTreeMap::new();
    for (name, since) in BTreeMap::<String, Value>::deserialize(deserializer)? {
        // The release after this one may know more kinds.
        let Ok(on) = serde_json::from_value(Value::String(name)) else { continue };
        known.insert(on, serde_json::from_value(since).map_err(D::Error::custom)?);
    }
    Ok(known)
}

/// What a file of any version has.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

/// Why there is no usable state.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{path} is not a state file this version can read")]
    Parse {
        path: PathBuf,
        #[source]
        error: serde_json::Error,
    },
    #[error("{path} has version {found}, this release reads {} to {}", READS.start(), READS.end())]
    Version { path: PathBuf, found: u32 },
    #[error("{path} belongs to {found:?}; an agent that starts sets it aside as `{FILE}.foreign`")]
    Foreign { path: PathBuf, found: Owner },
}

/// Reads the state of `owner`. A file that cannot be used is moved aside, so that nothing is lost and the next start
/// does not stumble over it again.
///
/// # Errors
/// When there is a file and it cannot be used; the caller starts afresh.
pub fn load(dir: &Path, owner: &Owner) -> Result<Option<State>, LoadError> {
    let result = read(dir, owner);
    let suffix = match &result {
        Ok(_) | Err(LoadError::Read { .. }) => return result,
        Err(LoadError::Parse { .. }) => "damaged",
        Err(LoadError::Version { .. }) => "version",
        Err(LoadError::Foreign { .. }) => "foreign",
    };
    // Best effort: if the rename fails, the next save replaces the file anyway.
    drop(fs::rename(dir.join(FILE), dir.join(format!("{FILE}.{suffix}"))));
    result
}

/// Reads the state of `owner` and leaves the file where it is, whatever it is.
///
/// # Errors
/// When there is a file and it cannot be used.
pub fn read(dir: &Path, owner: &Owner) -> Result<Option<State>, LoadError> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::Read { path, error }),
    };
    let parse_failed = |error| LoadError::Parse { path: path.clone(), error };
    // First of all: a file of another version need not look like a state.
    let AnyVersion { version: found } = serde_json::from_slice(&text).map_err(parse_failed)?;
    if !READS.contains(&found) {
        return Err(LoadError::Version { path, found });
    }
    let state: State = serde_json::from_slice(&text).map_err(parse_failed)?;
    if !state.owner.agrees(owner) {
        return Err(LoadError::Foreign { path, found: state.owner });
    }
    Ok(Some(state))
}

/// The boot in which the state file was written, also when the rest of it is of a version that this release cannot read.
#[must_use]
pub fn boot_of_file(dir: &Path) -> Option<String> {
    let text = fs::read(dir.join(FILE)).ok()?;
    let file: Value = serde_json::from_slice(&text).ok()?;
    Some(file.get("boot")?.as_str()?.to_owned())
}

/// Replaces the state file; after a crash at any point either the old or the new one is there.
///
/// # Errors
/// When the directory cannot be written.
pub fn save(dir: &Path, state: &State) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&State { version: WRITES, ..state.clone() })?;
    write_atomically(&dir.join(FILE), &text, 0o600)
}

/// Writes a file through a temporary one beside it: content, mode, fsync, rename, fsync of the directory.
///
/// # Errors
/// When any of these fails; the old file is then still there.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(dir)?.sync_all()
}

/// The text of a plain file of at most `longest` bytes in a folder that somebody with fewer rights can write: no link is
/// followed and nobody is waited for, as at a FIFO.
///
/// # Errors
/// `InvalidInput` when it is something else or longer, `InvalidData` when it is not UTF-8; else what the system says.
pub fn read_plain(path: &Path, longest: u64) -> io::Result<String> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = fs::File::options().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > longest {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("not a plain file of at most {longest} bytes"),
        ));
    }
    let mut text = String::new();
    file.take(longest).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use serde_json::json;

    fn owner(instance: &str) -> Owner {
        Owner {
            deployment: Some("shop-prod".to_owned()),
            instance: Some(instance.to_owned()),
            region: Some("ap-south-1".to_owned()),
        }
    }

    fn state() -> State {
        State {
            version: WRITES,
            owner: owner("i-0123456789abcdef0"),
            boot: "b".to_owned(),
            ever_healthy: [("database".to_owned(), "db:3306".to_owned())].into(),
            region_closed: true,
            holds: [(HoldOn::Database, BootTime::from_boot(Duration::from_millis(1_234_567)))].into(),
            lifecycle: Lifecycle { rebalance: true, ..Lifecycle::default() },
            authority: Some(Memory::default()),
            ledger: Arc::default(),
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_saved_is_loaded_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path(), &state().owner).unwrap().is_none());
        save(dir.path(), &state()).unwrap();
        save(dir.path(), &state()).unwrap();
        assert_eq!(load(dir.path(), &state().owner).unwrap(), Some(state()));
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(dir.path()), [FILE], "no temporary file stays");
    }

    #[test]
    fn another_machines_state_is_set_aside() {
        let strangers = [
            owner("i-00000000000000000"),
            Owner { region: Some("us-east-1".to_owned()), ..state().owner },
            Owner { deployment: Some("shop-test".to_owned()), ..state().owner },
        ];
        for stranger in strangers {
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), &state()).unwrap();
            assert!(
                matches!(load(dir.path(), &stranger), Err(LoadError::Foreign { found, .. }) if found == state().owner)
            );
            assert_eq!(names(dir.path()), ["state.json.foreign"], "kept, for whoever wants to know");
            assert!(load(dir.path(), &stranger).unwrap().is_none(), "the next start does not stumble over it");
        }
    }

    #[test]
    fn who_does_not_know_itself_takes_the_state_as_its_own() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state()).unwrap();
        for unknown in [Owner { instance: None, region: None, ..state().owner }, Owner::default()] {
            assert_eq!(load(dir.path(), &unknown).unwrap(), Some(state()));
        }
    }

    #[test]
    fn a_damaged_or_half_written_file_is_moved_aside() {
        let whole = serde_json::to_vec(&state()).unwrap();
        let half = &whole[..whole.len() / 2];
        let contents: [&[u8]; 7] =
            [b"", b"{}", b"null", half, b"\xff\xfe\x00", b"[1,2]", br#"{"version":-1,"owner":{},"boot":""}"#];
        for content in contents {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), content).unwrap();
            let result = load(dir.path(), &state().owner);
            assert!(matches!(result, Err(LoadError::Parse { .. })), "{content:?}: {result:?}");
            assert_eq!(names(dir.path()), ["state.json.damaged"]);
            save(dir.path(), &state()).unwrap();
            assert_eq!(load(dir.path(), &state().owner).unwrap(), Some(state()));
        }
    }

    /// `state.json` with this content, loaded.
    fn loaded(dir: &Path, content: &Value) -> Result<Option<State>, LoadError> {
        fs::write(dir.join(FILE), content.to_string()).unwrap();
        load(dir, &state().owner)
    }

    #[test]
    fn the_release_before_wrote_less_and_its_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let oldest = json!({"version": 1, "owner": {"deployment": "shop-prod"}, "boot": "b"});
        let owner = Owner { deployment: Some("shop-prod".to_owned()), ..Owner::default() };
        let expected = State { version: 1, owner, boot: "b".to_owned(), ..State::default() };
        assert_eq!(loaded(dir.path(), &oldest).unwrap(), Some(expected));
    }

    #[test]
    fn the_release_after_adds_and_all_that_is_known_here_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut newer = serde_json::to_value(state()).unwrap();
        newer["added"] = json!({"x": 1});
        newer["owner"]["added"] = json!("y");
        newer["holds"]["added"] = json!(["z"]);
        let read = loaded(dir.path(), &newer).unwrap().unwrap();
        assert_eq!(read, state());
        // What is saved on the way back is a file that the release after reads in turn.
        save(dir.path(), &read).unwrap();
        assert_eq!(load(dir.path(), &state().owner).unwrap(), Some(state()));
    }

    #[test]
    fn a_known_hold_without_a_time_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut damaged = serde_json::to_value(state()).unwrap();
        damaged["holds"]["database"] = json!("yesterday");
        assert!(matches!(loaded(dir.path(), &damaged), Err(LoadError::Parse { .. })));
    }

    #[test]
    fn what_is_written_is_read_and_a_version_out_of_reach_is_set_aside_whatever_its_shape() {
        assert!(READS.contains(&WRITES));
        for version in [READS.start() - 1, READS.end() + 1] {
            let mut same_shape = serde_json::to_value(state()).unwrap();
            same_shape["version"] = version.into();
            for content in [same_shape, json!({"version": version, "boot": 5, "verdicts": []})] {
                let dir = tempfile::tempdir().unwrap();
                let result = loaded(dir.path(), &content);
                assert!(matches!(result, Err(LoadError::Version { found, .. }) if found == version), "{result:?}");
                assert_eq!(names(dir.path()), ["state.json.version"]);
            }
        }
    }

    #[test]
    fn a_crash_in_the_middle_of_a_save_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state()).unwrap();
        fs::write(dir.path().join(".new-abc"), b"{\"version\": 1, \"own").unwrap();
        assert_eq!(load(dir.path(), &state().owner).unwrap(), Some(state()));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"x").unwrap();
        // Not even root can.
        assert!(save(&file, &state()).is_err());
        assert!(save(&dir.path().join("missing"), &state()).is_err());
        assert!(matches!(load(&file, &state().owner), Err(LoadError::Read { .. })));
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }

    #[test]
    fn a_target_that_cannot_be_replaced_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(FILE).join("x")).unwrap();
        assert!(save(dir.path(), &state()).is_err());
        assert_eq!(names(dir.path()), [FILE]);
    }
}
