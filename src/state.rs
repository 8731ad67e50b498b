//! What outlives the process: `state.json` in the state directory, 0600, replaced atomically, versioned.
//!
//! It belongs to one instance in one region of one deployment. A file of another (a copied AMI) is set aside as
//! `state.json.foreign` and not used.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::BootTime;
use crate::health::verdict::HoldOn;

/// The version this release writes. It reads this one and the one before.
const VERSION: u32 = 1;

const FILE: &str = "state.json";

/// Who a state file belongs to. An unknown instance or region matches any: without IMDS neither may be known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub deployment: String,
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
        self.deployment == other.deployment
            && same(&self.instance, &other.instance)
            && same(&self.region, &other.region)
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
    #[serde(default)]
    pub holds: BTreeMap<HoldOn, BootTime>,
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
    #[error("{path} has version {found}, this release reads up to {VERSION}")]
    Version { path: PathBuf, found: u32 },
    #[error("{path} belongs to {found:?}; it was set aside as `{FILE}.foreign`")]
    Foreign { path: PathBuf, found: Owner },
}

/// Reads the state of `owner`. A file that cannot be used is moved aside, so that nothing is lost and the next start
/// does not stumble over it again.
///
/// # Errors
/// When there is a file and it cannot be used; the caller starts afresh.
pub fn load(dir: &Path, owner: &Owner) -> Result<Option<State>, LoadError> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::Read { path, error }),
    };
    let aside = |suffix: &str| {
        // Best effort: if the rename fails, the next save replaces the file anyway.
        drop(fs::rename(&path, dir.join(format!("{FILE}.{suffix}"))));
    };
    let state: State = match serde_json::from_slice(&text) {
        Ok(state) => state,
        Err(error) => {
            aside("damaged");
            return Err(LoadError::Parse { path, error });
        }
    };
    if state.version > VERSION {
        aside("newer");
        return Err(LoadError::Version { path, found: state.version });
    }
    if !state.owner.agrees(owner) {
        aside("foreign");
        return Err(LoadError::Foreign { path, found: state.owner });
    }
    Ok(Some(state))
}

/// The boot in which the state file was written, also when the rest of it is of a version that this release cannot read.
#[must_use]
pub fn boot_of_file(dir: &Path) -> Option<String> {
    let text = fs::read(dir.join(FILE)).ok()?;
    let file: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(file.get("boot")?.as_str()?.to_owned())
}

/// Replaces the state file; after a crash at any point either the old or the new one is there.
///
/// # Errors
/// When the directory cannot be written.
pub fn save(dir: &Path, state: &State) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&State { version: VERSION, ..state.clone() })?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn owner(instance: &str) -> Owner {
        Owner {
            deployment: "shop-prod".to_owned(),
            instance: Some(instance.to_owned()),
            region: Some("ap-south-1".to_owned()),
        }
    }

    fn state() -> State {
        State {
            version: VERSION,
            owner: owner("i-0123456789abcdef0"),
            boot: "b".to_owned(),
            ever_healthy: [("database".to_owned(), "db:3306".to_owned())].into(),
            region_closed: true,
            holds: [(HoldOn::Database, BootTime::from_boot(Duration::from_millis(1_234_567)))].into(),
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
            Owner { deployment: "shop-test".to_owned(), ..state().owner },
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
    fn who_does_not_know_its_instance_takes_the_state_as_its_own() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state()).unwrap();
        let unknown = Owner { instance: None, region: None, ..state().owner };
        assert_eq!(load(dir.path(), &unknown).unwrap(), Some(state()));
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

    #[test]
    fn a_newer_version_is_set_aside_and_additions_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let mut value = serde_json::to_value(state()).unwrap();
        value["added_later"] = serde_json::json!({"x": 1});
        fs::write(dir.path().join(FILE), value.to_string()).unwrap();
        assert_eq!(load(dir.path(), &state().owner).unwrap(), Some(state()));
        value["version"] = (VERSION + 1).into();
        fs::write(dir.path().join(FILE), value.to_string()).unwrap();
        assert!(
            matches!(load(dir.path(), &state().owner), Err(LoadError::Version { found, .. }) if found == VERSION + 1)
        );
        assert_eq!(names(dir.path()), ["state.json.newer"]);
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
