//! Reads `/proc/self/mountinfo`: what is mounted at a path. Pure, and never touches the path itself.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The port of NFS, when the mount options name no other.
pub(super) const NFS_PORT: u16 = 2049;

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    id: u32,
    parent: u32,
    point: PathBuf,
    pub(crate) fs_type: String,
    pub(crate) source: String,
    pub(super) read_only: bool,
    /// The options of the file system itself (not of this mount of it), comma-separated.
    options: String,
}

impl Mount {
    /// The server's address as the kernel has it, else as the source gives it, if it is a file system with a server.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        let option = |name: &str| self.options.split(',').find_map(|option| option.strip_prefix(name));
        let in_source = || self.source.split_once(":/").map(|(host, _)| host);
        let address: IpAddr = option("addr=").or_else(in_source)?.parse().ok()?;
        Some(SocketAddr::new(address, option("port=").and_then(|port| port.parse().ok()).unwrap_or(NFS_PORT)))
    }

    /// Whether the source has a host's name, which can be compared. An address says nothing of the file system behind
    /// it: it is that of a local proxy (efs-utils' TLS tunnel), or was given because the name did not resolve.
    pub(crate) fn has_named_source(&self) -> bool {
        let host = self.source.split(':').next().unwrap_or_default();
        !host.starts_with('[') && host != "localhost" && host.parse::<IpAddr>().is_err()
    }
}

/// What is mounted at `path`, on top if several are stacked. Lines that cannot be read are skipped.
pub(crate) fn find(mountinfo: &[u8], path: &Path) -> Option<Mount> {
    let mut there: Vec<Mount> =
        mountinfo.split(|&byte| byte == b'\n').filter_map(parse).filter(|mount| mount.point == path).collect();
    // A mount on top of another is its child; the order of the lines alone does not tell once mounts were moved.
    let top = there.iter().rposition(|mount| !there.iter().any(|other| other.parent == mount.id))?;
    Some(there.swap_remove(top))
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS`.
fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let number = |index: usize| str::from_utf8(fields.get(index)?).ok()?.parse().ok();
    let end_of_tags = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let options = text(fields.get(end_of_tags + 3)?);
    let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mount {
        id: number(0)?,
        parent: number(1)?,
        point: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        fs_type: text(fields.get(end_of_tags + 1)?),
        source: text(fields.get(end_of_tags + 2)?),
        read_only: is_read_only(&text(fields.get(5)?)) || is_read_only(&options),
        options,
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// The kernel writes space, tab, newline, `#` and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] if byte == b'\\' => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFS: &str = "fs-0123456789abcdef0.efs.ap-south-1.amazonaws.com:/";

    fn one(text: &str, path: &str) -> Option<Mount> {
        find(text.as_bytes(), Path::new(path))
    }

    fn nfs_line(source: &str, options: &str) -> String {
        format!("101 30 0:52 / /mnt/efs rw,relatime shared:52 - nfs4 {source} rw,vers=4.1,{options}\n")
    }

    #[test]
    fn a_plain_nfs_mount() {
        let line = nfs_line(EFS, "hard,noresvport,timeo=600,clientaddr=10.0.1.9,local_lock=none,addr=10.0.1.5");
        let mount = one(&format!("30 1 259:1 / / rw - ext4 /dev/root rw\n{line}"), "/mnt/efs/").unwrap();
        assert_eq!((mount.fs_type.as_str(), mount.source.as_str()), ("nfs4", EFS));
        assert!(!mount.read_only);
        assert!(mount.has_named_source());
        assert_eq!(mount.server(), Some("10.0.1.5:2049".parse().unwrap()));
    }

    #[test]
    fn a_mount_through_the_tls_proxy() {
        let mount =
            one(&nfs_line("127.0.0.1:/", "port=20049,clientaddr=127.0.0.1,addr=127.0.0.1"), "/mnt/efs").unwrap();
        assert!(!mount.has_named_source());
        assert_eq!(mount.server(), Some("127.0.0.1:20049".parse().unwrap()));
        for address in ["[::1]:/", "[fd00::7]:/", "localhost:/", "10.0.1.5:/"] {
            assert!(!one(&nfs_line(address, ""), "/mnt/efs").unwrap().has_named_source(), "{address}");
        }
    }

    #[test]
    fn a_server_that_only_the_source_names_by_its_address() {
        let mount = |source: &str| one(&format!("7 1 0:9 / /a rw - fuse.x {source} rw\n"), "/a").unwrap();
        assert_eq!(mount("10.0.1.5:/share").server(), Some("10.0.1.5:2049".parse().unwrap()));
        assert_eq!(mount("nas.example.com:/share").server(), None, "a name would have to be looked up");
        assert_eq!(mount("10.0.1.5").server(), None);
    }

    #[test]
    fn no_tag_one_tag_or_several() {
        for tags in ["", "shared:1 ", "shared:1 master:2 propagate_from:3 unbindable "] {
            let text = format!("7 1 0:9 / /a rw,nosuid {tags}- fuse.hangfs hangfs ro,user_id=0\n");
            let mount = one(&text, "/a").unwrap();
            assert_eq!(mount.fs_type, "fuse.hangfs");
            assert!(mount.read_only, "by the options of the file system");
            assert_eq!(mount.server(), None);
        }
    }

    #[test]
    fn escapes_are_octal() {
        let text = "7 1 0:9 / /mnt/a\\040b\\134c\\011 rw - nfs4 s:/x\\040y rw\n";
        assert_eq!(one(text, "/mnt/a b\\c\t").unwrap().source, "s:/x y");
        assert_eq!(unescape(b"\\04"), b"\\04", "what is not an escape stays");
        assert_eq!(unescape(b"\\999"), b"\\999");
    }

    #[test]
    fn a_source_may_be_empty() {
        assert_eq!(one("7 1 0:9 / /a rw - tmpfs  rw\n", "/a").unwrap().source, "");
    }

    #[test]
    fn of_stacked_mounts_the_top_one_counts() {
        let under = "40 30 0:50 / /mnt/efs rw - nfs4 old:/ rw,addr=10.0.0.1\n";
        let top = "41 40 0:51 / /mnt/efs rw - nfs4 new:/ rw,addr=10.0.0.2\n";
        assert_eq!(one(&format!("{under}{top}"), "/mnt/efs").unwrap().source, "new:/");
        assert_eq!(one(&format!("{top}{under}"), "/mnt/efs").unwrap().source, "new:/", "whatever the order");
    }

    #[test]
    fn a_bind_mount_has_its_file_systems_source() {
        let text = format!("50 30 0:52 /site/uploads /srv/uploads ro - nfs4 {EFS} rw,addr=10.0.1.5\n");
        let mount = one(&text, "/srv/uploads").unwrap();
        assert_eq!(mount.source, EFS);
        assert!(mount.read_only, "by the options of the mount");
    }

    #[test]
    fn what_is_not_there_and_what_is_not_a_line() {
        assert_eq!(one(&nfs_line(EFS, ""), "/mnt"), None);
        assert_eq!(one(&nfs_line(EFS, ""), "/mnt/efs/site"), None);
        for broken in
            ["", "7 1 0:9 / /a rw", "7 1 0:9 / /a rw -", "7 1 0:9 / /a rw - nfs4 x", "x 1 0:9 / /a rw - nfs4 x rw"]
        {
            assert_eq!(one(broken, "/a"), None, "{broken:?}");
        }
    }

    #[test]
    fn this_machines_own_mountinfo() {
        let mountinfo = std::fs::read("/proc/self/mountinfo").unwrap();
        assert_eq!(find(&mountinfo, Path::new("/proc")).unwrap().fs_type, "proc");
    }
}
