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
