//! One output file, replaced as one: a reader sees the old text or the new one, whatever happens in between.
//!
//! The new text is written beside the old one, in the folder that was opened once, and takes its place by a rename; owner
//! and mode stay. The folder may belong to the app's user, so nothing here follows a link in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fchmod, fchown, fstat, fsync, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use thiserror::Error;

/// No output is this long; what is, is no output.
const LONGEST: u64 = 64 * 1024;

/// For a file that was not there before. There is no secret in it.
const NEW_MODE: u32 = 0o644;

/// Set-user-id and the like are not handed on.
const MODE_MASK: u32 = 0o777;

/// Why a file was not replaced. The old text is still there.
#[derive(Debug, Error)]
pub enum Error {
    #[error("{path}: cannot {what}")]
    Io {
        path: PathBuf,
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("{0}: is a link, which root does not follow; name the file that it leads to")]
    Link(PathBuf),
    #[error("{0}: is not a regular file of at most {LONGEST} bytes")]
    NotAFile(PathBuf),
}

/// A new text beside the old one. Dropped, it is gone.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
    new: OsString,
    committed: bool,
}

/// The text of a file as it is; `None` if there is no file. What is not text is as good as empty of meaning.
///
/// # Errors
/// When it cannot be read, or is not a file.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    let (folder, name) = open_folder(path)?;
    Ok(look(path, &folder, name)?.map(|found| found.text))
}

/// Writes `text` beside the file; `None` if that is what the file says already.
///
/// # Errors
/// When it cannot be written, as on a full disk, or must not be.
pub fn stage(path: &Path, text: &str) -> Result<Option<Staged>, Error> {
    let (folder, name) = open_folder(path)?;
    let old = look(path, &folder, name)?;
    if old.as_ref().is_some_and(|old| old.text == text) {
        return Ok(None);
    }
    // One name, so that what a killed run left goes with the next one.
    let mut new = OsString::from(".");
    new.push(name);
    new.push(".dr-agent-new");
    let failed = |what, error: Errno| Error::Io { path: path.to_owned(), what, error: error.into() };
    match unlinkat(&folder, &new, AtFlags::empty()) {
        // A file system that cannot be written says so below.
        Ok(()) | Err(Errno::NOENT | Errno::ROFS) => {}
        Err(error) => return Err(failed("remove what an earlier run left beside it", error)),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(&folder, &new, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed("write beside it", error))?;
    let staged = Staged { path: path.to_owned(), folder, name: name.to_owned(), new, committed: false };
    let mut file = File::from(fd);
    file.write_all(text.as_bytes()).map_err(|error| Error::Io {
        path: path.to_owned(),
        what: "write beside it",
        error,
    })?;
    if let Some(old) = &old {
        fchown(&file, Some(Uid::from_raw(old.uid)), Some(Gid::from_raw(old.gid)))
            .map_err(|error| failed("keep its owner", error))?;
    }
    let mode = old.as_ref().map_or(NEW_MODE, |old| old.mode & MODE_MASK);
    fchmod(&file, Mode::from_raw_mode(mode)).map_err(|error| failed("keep its mode", error))?;
    fsync(&file).map_err(|error| failed("flush it to disk", error))?;
    Ok(Some(staged))
}

impl Staged {
    /// Puts the new text in the place of the old one.
    ///
    /// # Errors
    /// When it cannot be put there; or when it is there and may be lost if the machine loses power now.
    pub fn commit(mut self) -> Result<(), Error> {
        let failed = |what, error: Errno| Error::Io { path: self.path.clone(), what, error: error.into() };
        renameat(&self.folder, &self.new, &self.folder, &self.name).map_err(|error| failed("replace it", error))?;
        self.committed = true;
        fsync(&self.folder).map_err(|error| failed("flush its folder to disk", error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // If it stays, the next run removes it.
            let _ = unlinkat(&self.folder, &self.new, AtFlags::empty());
        }
    }
}

/// What is there now.
struct Found {
    text: String,
    uid: u32,
    gid: u32,
    mode: u32,
}

/// Links on the way are the administrator's: only the last step is not followed.
fn open_folder(path: &Path) -> Result<(OwnedFd, &OsStr), Error> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotAFile(path.to_owned()));
    };
    let fd = openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let fd = fd.map_err(|error| Error::Io { path: path.to_owned(), what: "open its folder", error: error.into() })?;
    Ok((fd, name))
}

fn look(path: &Path, folder: &OwnedFd, name: &OsStr) -> Result<Option<Found>, Error> {
    let unreadable = |error: io::Error| Error::Io { path: path.to_owned(), what: "read it", error };
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(unreadable(error.into())),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            return Err(Error::Link(path.to_owned()));
        }
        Ok(_) => {}
    }
    // It may have been exchanged since: what was opened counts.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(folder, name, flags, Mode::empty()).map_err(|error| unreadable(error.into()))?;
    let stat = fstat(&fd).map_err(|error| unreadable(error.into()))?;
    let is_short = u64::try_from(stat.st_size).is_ok_and(|size| size <= LONGEST);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_short {
        return Err(Error::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    File::from(fd).take(LONGEST).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some(Found { text, uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn replace(path: &Path, text: &str) -> Result<bool, Error> {
        let staged = stage(path, text)?;
        let changes = staged.is_some();
        staged.map_or(Ok(()), Staged::commit).map(|()| changes)
    }

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn owner_and_mode_stay_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database.env");
        assert_eq!(read(&path).unwrap(), None);
        assert!(replace(&path, "one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4640)).unwrap();
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4640)).unwrap();
        }
        let before = fs::metadata(&path).unwrap().ino();
        assert!(!replace(&path, "one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), before, "it says so already");
        fs::write(dir.path().join(".database.env.dr-agent-new"), "left by a killed run").unwrap();
        assert!(replace(&path, "two").unwrap());
        let now = fs::metadata(&path).unwrap();
        assert_eq!(now.mode() & 0o7777, 0o640);
        assert!(!root || (now.uid(), now.gid()) == (1234, 4321));
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        drop(stage(&path, "three").unwrap());
        assert_eq!(
            (read(&path).unwrap().as_deref(), names(dir.path())),
            (Some("two"), vec!["database.env".to_owned()])
        );
    }

    #[test]
    fn a_link_is_not_followed_and_neither_is_one_in_the_place_of_the_new_text() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "precious").unwrap();
        symlink(&real, &link).unwrap();
        assert!(matches!(replace(&link, "x"), Err(Error::Link(_))));
        fs::write(dir.path().join("out"), "old").unwrap();
        symlink(&real, dir.path().join(".out.dr-agent-new")).unwrap();
        assert!(replace(&dir.path().join("out"), "new").unwrap());
        assert_eq!(fs::read_to_string(&real).unwrap(), "precious");
        // A folder that is reached by a link is the administrator's way to it.
        symlink(dir.path(), dir.path().join("current")).unwrap();
        assert!(replace(&dir.path().join("current/out"), "newer").unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "newer");
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("long"), vec![b'x'; 100_000]).unwrap();
        for name in ["folder", "long"] {
            assert!(matches!(replace(&dir.path().join(name), "x"), Err(Error::NotAFile(_))), "{name}");
        }
        assert!(matches!(
            replace(&dir.path().join("missing/out"), "x"),
            Err(Error::Io { what: "open its folder", .. })
        ));
        assert!(matches!(replace(Path::new("/"), "x"), Err(Error::NotAFile(_))));
    }
}
