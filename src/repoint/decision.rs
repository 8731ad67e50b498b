//! What the agent decided, as the root helper reads it: names of regions, never a host.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::state::{read_plain, write_atomically};

/// In the state directory; where that takes nothing, beside the control socket.
const DIR: &str = "repoint";
const FILE: &str = "decision.json";
const VERIFIED: &str = "verified";

/// No decision is this long.
const LONGEST: u64 = 4096;

/// Characters of an id, of a region's name and of a state's word.
const LONGEST_WORD: usize = 64;

/// Which database plays a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Target {
    /// What it was.
    Unchanged,
    None,
    /// The database of this region.
    Region(String),
}

impl Target {
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::Region(name) => Some(name),
            Self::Unchanged | Self::None => None,
        }
    }
}

impl From<String> for Target {
    fn from(text: String) -> Self {
        match text.as_str() {
            "none" => Self::None,
            "unchanged" => Self::Unchanged,
            _ => Self::Region(text),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        match target {
            Target::None => "none".to_owned(),
            Target::Unchanged => "unchanged".to_owned(),
            Target::Region(name) => name,
        }
    }
}

/// One repoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// 32 hexadecimal digits that no other decision has.
    pub id: String,
    /// Never [`Target::Unchanged`].
    pub writer: Target,
    pub reader: Target,
    /// Of authority; 0 before the first.
    pub epoch: u64,
    /// Of authority, as the app is told.
    pub state: String,
    /// Only for an instance whose outputs never had a writer.
    #[serde(default)]
    pub only_new: bool,
    /// Takes back the decision of this id. What was there before it comes back if it has this decision's writer; else
    /// there is no writer.
    #[serde(default)]
    pub rollback: Option<String>,
}

/// Why there is no decision to carry out.
#[derive(Debug, Error)]
pub enum Unusable {
    #[error("cannot read {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{0} is not a regular file of at most {LONGEST} bytes")]
    NotAFile(PathBuf),
    #[error("{path} is not a decision")]
    Malformed {
        path: PathBuf,
        #[source]
        error: serde_json::Error,
    },
    #[error("{path} has a `{field}` that is not one")]
    Field { path: PathBuf, field: &'static str },
}

/// Where the decision is in a directory.
#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join(DIR).join(FILE)
}

/// Writes the decision into the state directory. After a crash at any point the old or the new one is there. Blocking.
///
/// # Errors
/// When that cannot be written: then it is to be [written beside](write_beside) the control socket.
pub fn write(state_dir: &Path, run_dir: &Path, decision: &Decision) -> io::Result<()> {
    write_in(state_dir, decision)?;
    match fs::remove_file(path(run_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes the decision beside the control socket, in memory: a state directory that takes nothing keeps no app writing to
/// a database that is not the owner's. It counts before the one in the state directory. Blocking.
///
/// # Errors
/// When that cannot be written either.
pub fn write_beside(run_dir: &Path, decision: &Decision) -> io::Result<()> {
    write_in(run_dir, decision)
}

/// Writes down that the app was seen to reach what the decision `id` gave it. Blocking.
///
/// # Errors
/// When it cannot be written.
pub fn write_verified(state_dir: &Path, id: &str) -> io::Result<()> {
    write_atomically(&state_dir.join(DIR).join(VERIFIED), id.as_bytes(), 0o644)
}

/// Whether the decision `id` is the one that was verified last. Where nobody has written that down it is: an agent of an
/// earlier release did not. Blocking.
#[must_use]
pub fn was_verified(state_dir: &Path, id: &str) -> bool {
    fs::read_to_string(state_dir.join(DIR).join(VERIFIED)).map_or(true, |verified| verified.trim() == id)
}

fn write_in(dir: &Path, decision: &Decision) -> io::Result<()> {
    let dir = dir.join(DIR);
    match fs::DirBuilder::new().mode(0o755).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    write_atomically(&dir.join(FILE), &serde_json::to_vec(decision)?, 0o644)
}

/// Reads the newest decision. Blocking.
///
/// # Errors
/// When there is none, or it is not one.
pub fn read(state_dir: &Path, run_dir: &Path) -> Result<Decision, Unusable> {
    match read_in(run_dir) {
        Err(Unusable::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => read_in(state_dir),
        beside => beside,
    }
}

/// Reads the decision in a directory. Its folder is the agent's, and what it says reaches files of root: so nothing but a plain file is
/// read, and no word passes that could be more than a word.
fn read_in(dir: &Path) -> Result<Decision, Unusable> {
    let path = path(dir);
    let text = match read_plain(&path, LONGEST) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(Unusable::NotAFile(path)),
        Err(error) => return Err(Unusable::Unreadable { path, error }),
    };
    let decision: Decision =
        serde_json::from_str(&text).map_err(|error| Unusable::Malformed { path: path.clone(), error })?;
    let field = |field| Err(Unusable::Field { path: path.clone(), field });
    if !is_word(&decision.id) || decision.rollback.as_deref().is_some_and(|id| !is_word(id)) {
        return field("id");
    }
    if decision.writer == Target::Unchanged || decision.writer.region().is_some_and(|name| !is_word(name)) {
        return field("writer");
    }
    if decision.reader.region().is_some_and(|name| !is_word(name)) {
        return field("reader");
    }
    if !is_word(&decision.state) {
        return field("state");
    }
    Ok(decision)
}

fn is_word(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=LONGEST_WORD).contains(&text.len()) && text.chars().all(fits)
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    pub(in crate::repoint) fn decision(id: &str, writer: &str, reader: &str) -> Decision {
        Decision {
            id: id.to_owned(),
            writer: writer.to_owned().into(),
            reader: reader.to_owned().into(),
            epoch: 3,
            state: "owner".to_owned(),
            only_new: false,
            rollback: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read_in(dir.path()), Err(Unusable::Unreadable { .. })));
        for decision in [
            decision("a1", "ap-south-1", "unchanged"),
            Decision { rollback: Some("a1".to_owned()), ..decision("a2", "none", "us-east-1") },
        ] {
            write_in(dir.path(), &decision).unwrap();
            assert_eq!(read_in(dir.path()).unwrap(), decision);
        }
        let text = fs::read_to_string(path(dir.path())).unwrap();
        assert!(text.contains(r#""writer":"none","reader":"us-east-1","epoch":3"#), "{text}");
    }

    #[test]
    fn where_the_state_directory_takes_nothing_it_stands_beside_the_socket() {
        let (state, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let read = || read(state.path(), run.path()).unwrap().id;
        write(state.path(), run.path(), &decision("a1", "a", "a")).unwrap();
        assert_eq!(read(), "a1");
        write_beside(run.path(), &decision("a2", "none", "a")).unwrap();
        assert_eq!(read(), "a2", "the newer one");
        write(state.path(), run.path(), &decision("a3", "b", "a")).unwrap();
        assert_eq!(read(), "a3", "the state directory takes it again");
        assert!(!path(run.path()).exists());
    }

    #[test]
    fn nothing_passes_that_is_more_than_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let good = decision("a1", "ap-south-1", "ap-south-1");
        for (field, bad) in [
            ("id", Decision { id: "../x".to_owned(), ..good.clone() }),
            ("id", Decision { rollback: Some(String::new()), ..good.clone() }),
            ("writer", Decision { writer: Target::Unchanged, ..good.clone() }),
            ("writer", Decision { writer: Target::Region("a\nb".to_owned()), ..good.clone() }),
            ("reader", Decision { reader: Target::Region("a b".to_owned()), ..good.clone() }),
            ("state", Decision { state: "x\nPATH=/tmp".to_owned(), ..good.clone() }),
        ] {
            write_in(dir.path(), &bad).unwrap();
            let error = read_in(dir.path()).unwrap_err();
            assert!(matches!(error, Unusable::Field { field: found, .. } if found == field), "{error}");
        }
    }

    #[test]
    fn only_a_plain_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        write_in(dir.path(), &decision("a1", "none", "none")).unwrap();
        let real = dir.path().join("elsewhere");
        fs::rename(path(dir.path()), &real).unwrap();
        symlink(&real, path(dir.path())).unwrap();
        assert!(matches!(read_in(dir.path()), Err(Unusable::Unreadable { .. })), "a link");
        fs::remove_file(path(dir.path())).unwrap();
        fs::create_dir(path(dir.path())).unwrap();
        assert!(matches!(read_in(dir.path()), Err(Unusable::NotAFile(_))), "a folder");
        fs::remove_dir(path(dir.path())).unwrap();
        fs::write(path(dir.path()), vec![b' '; 5000]).unwrap();
        assert!(matches!(read_in(dir.path()), Err(Unusable::NotAFile(_))), "too long");
        fs::write(path(dir.path()), b"\xff").unwrap();
        assert!(matches!(read_in(dir.path()), Err(Unusable::Unreadable { .. })), "no text");
        fs::write(path(dir.path()), "{").unwrap();
        assert!(matches!(read_in(dir.path()), Err(Unusable::Malformed { .. })));
    }
}
