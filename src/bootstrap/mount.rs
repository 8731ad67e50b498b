//! The mount unit of the shared file system: its name, its text, and how to read it back. Pure.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where the unit is: made anew in every boot, so that an image of this machine never carries it to another region.
pub const DIR: &str = "/run/systemd/system";

/// What efs-utils installs: it puts NFS into a TLS tunnel, and adds the recommended options itself.
pub const HELPER: &str = "/sbin/mount.efs";

/// The type of its mounts.
pub const EFS_UTILS: &str = "efs";

/// Recommended by AWS for a mount without its helper. `hard`: a write is never given up half-way; `noresvport`: a new port
/// after a lost connection.
const NFS: &str = "_netdev,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport";
const EFS: &str = "_netdev,noresvport,tls";

/// One attempt to mount, and to unmount.
pub const ATTEMPT_SECONDS: u32 = 15;

/// What `mount` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub what: String,
    pub fs_type: String,
    pub options: String,
}

impl Mount {
    /// The mount of the file system `id` in `region`.
    #[must_use]
    pub fn of(id: &str, region: &str, has_helper: bool) -> Self {
        if has_helper {
            // Else they ask the metadata service, which may be switched off.
            let options = format!("{EFS},region={region}");
            return Self { what: format!("{id}:/"), fs_type: EFS_UTILS.to_owned(), options };
        }
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let what = format!("{id}.efs.{region}.{suffix}:/");
        Self { what, fs_type: "nfs4".to_owned(), options: NFS.to_owned() }
    }

    /// The unit that mounts it at `path`.
    #[must_use]
    pub fn unit(&self, path: &Path) -> String {
        let Self { what, fs_type, options } = self;
        let mut text = String::new();
        // Writing to a string cannot fail. A `%` begins a specifier in a unit.
        let _ = write!(
            text,
            "\
# Written by `dr-agent bootstrap` from its configuration, at every boot.
[Unit]
Description=The shared file system {what}

[Mount]
What={what}
Where={}
Type={fs_type}
Options={options}
TimeoutSec={ATTEMPT_SECONDS}
",
            path.display().to_string().replace('%', "%%")
        );
        text
    }

    /// What such a unit, by this program or by a person, tells `mount`.
    #[must_use]
    pub fn read(unit: &str) -> Option<Self> {
        let value = |key: &str| {
            let lines = unit.lines().filter_map(|line| line.trim().split_once('='));
            lines.rev().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().replace("%%", "%"))
        };
        Some(Self { what: value("What")?, fs_type: value("Type")?, options: value("Options").unwrap_or_default() })
    }
}

/// The name that systemd wants for the unit of a mount point.
#[must_use]
pub fn unit_name(path: &Path) -> String {
    let text = path.as_os_str().as_encoded_bytes();
    let parts: Vec<&[u8]> = text.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).collect();
    let mut name = String::new();
    for (index, byte) in parts.join(&b'/').into_iter().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(byte)),
            byte => _ = write!(name, "\\x{byte:02x}"),
        }
    }
    format!("{}.mount", if name.is_empty() { "-" } else { &name })
}

/// Where the unit of a mount point is.
#[must_use]
pub fn unit_file(path: &Path) -> PathBuf {
    Path::new(DIR).join(unit_name(path))
}

/// Whether the text of an fstab has a line for `path`.
#[must_use]
pub fn is_in_fstab(fstab: &str, path: &Path) -> bool {
    let lines = fstab.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mut points = lines.filter_map(|line| line.split_whitespace().nth(1));
    points.any(|point| Path::new(&point.replace("\\040", " ")) == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "fs-0123456789abcdef0";

    #[test]
    fn without_the_helper_it_is_nfs_as_aws_recommends_it() {
        let mount = Mount::of(ID, "ap-south-1", false);
        assert_eq!(mount.what, "fs-0123456789abcdef0.efs.ap-south-1.amazonaws.com:/");
        assert_eq!(Mount::of(ID, "cn-north-1", false).what, "fs-0123456789abcdef0.efs.cn-north-1.amazonaws.com.cn:/");
        insta::assert_snapshot!(mount.unit(Path::new("/mnt/efs")), @r"
        # Written by `dr-agent bootstrap` from its configuration, at every boot.
        [Unit]
        Description=The shared file system fs-0123456789abcdef0.efs.ap-south-1.amazonaws.com:/

        [Mount]
        What=fs-0123456789abcdef0.efs.ap-south-1.amazonaws.com:/
        Where=/mnt/efs
        Type=nfs4
        Options=_netdev,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport
        TimeoutSec=15
        ");
    }

    #[test]
    fn with_the_helper_it_is_encrypted() {
        let mount = Mount::of(ID, "ap-south-1", true);
        assert_eq!((mount.what.as_str(), mount.fs_type.as_str()), ("fs-0123456789abcdef0:/", "efs"));
        assert_eq!(mount.options, "_netdev,noresvport,tls,region=ap-south-1");
    }

    #[test]
    fn what_was_written_is_read_back() {
        for has_helper in [false, true] {
            let mount = Mount::of(ID, "ap-south-1", has_helper);
            assert_eq!(Mount::read(&mount.unit(Path::new("/srv/100%"))), Some(mount));
        }
        assert_eq!(Mount::read("[Mount]\nWhere=/x\n"), None);
    }

    /// As `systemd-escape --path --suffix=mount` has them.
    #[test]
    fn a_mount_point_has_one_unit_name() {
        for (path, name) in [
            ("/mnt/efs", "mnt-efs.mount"),
            ("/mnt//efs/", "mnt-efs.mount"),
            ("/", "-.mount"),
            ("/srv/a-b c", "srv-a\\x2db\\x20c.mount"),
            ("/.shared/x.y", "\\x2eshared-x.y.mount"),
            ("/ä", "\\xc3\\xa4.mount"),
        ] {
            assert_eq!(unit_name(Path::new(path)), name);
        }
    }

    #[test]
    fn an_operators_fstab_is_seen() {
        let fstab = "# x /mnt/no nfs4\nUUID=1 / ext4 defaults 0 1\nfs-1:/ /mnt/efs efs _netdev 0 0\nx /a\\040b ext4\n";
        assert!(is_in_fstab(fstab, Path::new("/mnt/efs")));
        assert!(is_in_fstab(fstab, Path::new("/a b")));
        assert!(!is_in_fstab(fstab, Path::new("/mnt/no")));
    }
}
