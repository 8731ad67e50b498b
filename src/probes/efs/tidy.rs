//! Canaries of instances that are gone: their files would pile up on the mount for ever, and every backup and replica
//! would carry them.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

/// Seconds, by the file server's clock, after which a canary that nobody wrote is its instance's last. Every living one
/// is written every few seconds.
const OLD: i64 = 7 * 24 * 3_600;

/// Files removed at once: no more load than a few probes.
const MOST: usize = 20;

/// Files looked at: each costs a question to the server. Of a larger crowd the rest comes when these are gone.
const LOOKED_AT: usize = 200;

/// Removes old canaries from `directory`, if `own`, which was written a moment ago, comes first by name among those of
/// living instances: one of them is enough.
///
/// # Errors
/// Of the first operation that fails. What is left is left to the next time.
pub(super) fn remove_old(directory: impl AsFd, own: &CStr) -> Result<usize, Errno> {
    // The server's clock, so that it does not matter what this machine's says.
    let now = statat(&directory, own, AtFlags::SYMLINK_NOFOLLOW)?.st_mtime;
    let listing = openat(&directory, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut old = Vec::new();
    for entry in Dir::new(listing)?.take(LOOKED_AT) {
        let entry = entry?;
        let name = entry.file_name();
        if name == own || !is_canary(name) {
            continue;
        }
        let found = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Another instance removed it in between.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            continue;
        }
        if now - found.st_mtime > OLD {
            old.push(name.to_owned());
        } else if name < own {
            return Ok(0);
        }
    }
    old.truncate(MOST);
    for name in &old {
        match unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(old.len())
}

/// Whether a file could be a canary: the names that [`crate::identity::file_name`] gives.
fn is_canary(name: &CStr) -> bool {
    let Ok(name) = name.to_str() else { return false };
    ["i-", "machine-"].iter().any(|kind| {
        let rest = name.strip_prefix(kind);
        rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric()))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use rustix::fs::{Timespec, Timestamps, utimensat};

    use super::*;

    /// A file that was written so many days before the file server's present.
    fn write(directory: &Path, name: &str, days: i64) {
        let file = directory.join(name);
        fs::write(&file, "canary").unwrap();
        let at = Timespec { tv_sec: 100 * 24 * 3_600 - days * 24 * 3_600, tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        utimensat(rustix::fs::CWD, &file, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_first_of_the_living_removes_the_canaries_of_the_gone_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        let open = File::open(dir).unwrap();
        for (name, days) in [("i-0aa", 8), ("i-0bb", 0), ("i-0cc", 6), ("i-0dd", 30), ("machine-0ee", 8)] {
            write(dir, name, days);
        }
        write(dir, "notes.txt", 90);
        write(dir, "i-", 90);
        fs::create_dir(dir.join("i-0ff")).unwrap();
        std::os::unix::fs::symlink("notes.txt", dir.join("i-099")).unwrap();
        let before = names(dir);

        assert_eq!(remove_old(&open, c"i-0cc"), Ok(0), "i-0bb lives and comes first");
        assert_eq!(names(dir), before);
        assert_eq!(remove_old(&open, c"i-0bb"), Ok(3));
        assert_eq!(names(dir), ["i-", "i-099", "i-0bb", "i-0cc", "i-0ff", "notes.txt"]);
        assert_eq!(remove_old(&open, c"i-0gone"), Err(Errno::NOENT));
    }

    #[test]
    fn a_crowd_goes_a_few_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let open = File::open(scratch.path()).unwrap();
        write(scratch.path(), "i-0", 0);
        for i in 0..30 {
            write(scratch.path(), &format!("i-1{i:02}"), 10);
        }
        assert_eq!(remove_old(&open, c"i-0"), Ok(20));
        assert_eq!(remove_old(&open, c"i-0"), Ok(10));
        assert_eq!(names(scratch.path()), ["i-0"]);
    }
}
