//! A machine that becomes an image: what must not be in it, and what must.
//!
//! An image is started many times, in two regions. What identifies one machine, belongs to one region or is a secret is
//! taken out by [`seal`]; whether that was done, and whether the rest would work, [`inspect`] says without network and
//! agent. Both look at the folder that they are given as the root of the machine.

pub mod inspect;
pub mod nginx;
pub mod seal;

use std::path::{Path, PathBuf};

/// `path`, which is absolute, as seen from outside of `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix("/").map_or_else(|_| root.join(path), |path| root.join(path))
}
