//! What identifies this machine, belongs to its region, or is a secret: found, and taken out of an image to be.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::below;
use crate::config::Config;
use crate::probes::efs::mountinfo;
use crate::repoint::apply;
use crate::report::items::Item;

/// Why a machine is not to be sealed. Nothing was removed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refused {
    #[error("an agent runs here, and would write its state again: `systemctl stop dr-agent` first")]
    Running,
    #[error(
        "`{0}` is there: this region was superseded or is closed, and its machines are no model; make the image of a fresh one"
    )]
    Fenced(PathBuf),
    #[error("the shared file system is mounted at `{0}`: `umount` it first")]
    Mounted(PathBuf),
}

/// A kind of trace, and where it was found.
struct Trace {
    name: &'static str,
    found: Vec<PathBuf>,
    what: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Remove,
    /// The file stays, without content: systemd makes a new machine id for an empty file.
    Empty,
}

/// Takes everything out that [`remains`] would complain of, if it can.
///
/// # Errors
/// When this is not a machine to make an image of.
pub fn seal(root: &Path, config: &Config) -> Result<Vec<Item>, Refused> {
    refuse(root, config)?;
    let mut items = Vec::new();
    for trace in traces(root, config) {
        let mut failed = Vec::new();
        for path in &trace.found {
            let done = match trace.what {
                How::Remove => remove(path),
                How::Empty => fs::write(path, ""),
            };
            failed.extend(done.err().map(|error| format!("{}: {error}", path.display())));
        }
        items.push(match (trace.found.len(), failed.is_empty()) {
            (0, _) => Item::well(trace.name, "there was nothing"),
            (_, true) => Item::well(trace.name, format!("taken out: {}", list(&trace.found))),
            (_, false) => Item::unhealthy(
                trace.name,
                format!("still there: {}", failed.join("; ")),
                "remove it by hand: it would be in every instance of the image",
            ),
        });
    }
    items.extend(not_ours(root, config));
    Ok(items)
}

/// What must not be in an image and is there. Empty for a sealed machine.
#[must_use]
pub fn remains(root: &Path, config: &Config) -> Vec<Item> {
    let found = traces(root, config).into_iter().filter(|trace| !trace.found.is_empty());
    let complaint = |trace: Trace| {
        Item::unhealthy(
            trace.name,
            format!("would be the same in every instance: {}", list(&trace.found)),
            "`dr-agent bootstrap --seal`, as the last step before the image is made",
        )
    };
    found.map(complaint).chain(not_ours(root, config)).collect()
}

fn refuse(root: &Path, config: &Config) -> Result<(), Refused> {
    let fence = below(root, &config.state_dir).join("public/fenced");
    if fs::symlink_metadata(&fence).is_ok() {
        return Err(Refused::Fenced(fence));
    }
    if UnixStream::connect(below(root, &config.listen.control)).is_ok() {
        return Err(Refused::Running);
    }
    let Some(efs) = &config.efs else { return Ok(()) };
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let point = below(root, &efs.path);
    if mountinfo::find(&mountinfo, &point).is_some() { Err(Refused::Mounted(point)) } else { Ok(()) }
}

fn traces(root: &Path, config: &Config) -> Vec<Trace> {
    let file = |path: &str| below(root, Path::new(path));
    let there = |paths: &[PathBuf]| -> Vec<PathBuf> {
        paths.iter().filter(|path| fs::symlink_metadata(path).is_ok()).cloned().collect()
    };
    let remove = |name, found| Trace { name, found, what: How::Remove };
    let homes = homes(root);
    let in_homes = |path: &str| there(&homes.iter().map(|home| home.join(path)).collect::<Vec<_>>());

    let machine_id = file("/etc/machine-id");
    let is_set = fs::read_to_string(&machine_id).is_ok_and(|id| !matches!(id.trim(), "" | "uninitialized"));
    // A link leads to the one above.
    let of_dbus = file("/var/lib/dbus/machine-id");
    let of_dbus = if of_dbus.is_symlink() { Vec::new() } else { there(&[of_dbus]) };

    // Those that the configuration names, and those in the usual place: it may come only with user data.
    let password_file = config.database.as_ref().and_then(|database| database.password_file.as_ref());
    let named: Vec<_> = config.key_file.iter().chain(password_file).map(|path| below(root, path)).collect();
    let usual = file("/etc/dr-agent");
    let is_secret = |name: &str| matches!(name.rsplit_once('.'), Some((_, "key" | "password")));
    let secrets: BTreeSet<_> = there(&named).into_iter().chain(entries(&usual, is_secret)).collect();
    let folders: BTreeSet<_> = named.iter().filter_map(|path| path.parent()).chain([usual.as_path()]).collect();
    // What a bootstrap that was killed left of one.
    let unfinished = folders.into_iter().flat_map(|dir| entries(dir, |name| name.starts_with(".new-")));

    let state = files_below(&below(root, &config.state_dir)).into_iter().chain(files_below(&file(apply::USUAL_DIR)));
    let cloud_init = entries(&file("/var/lib/cloud"), |name| name != "seed")
        .into_iter()
        .chain(entries(&file("/var/log"), |name| name.starts_with("cloud-init") && name.contains(".log")));
    let of_amazon = ["/var/lib/amazon/ssm", "/var/log/amazon/ssm", "/var/log/amazon/efs"];
    let leases = ["/var/lib/dhcp", "/var/lib/dhclient", "/var/lib/NetworkManager"];
    let leases = leases.into_iter().flat_map(|dir| entries(&file(dir), |name| name.contains(".lease")));
    let hostname = file("/etc/hostname");
    let names_one = fs::read_to_string(&hostname).is_ok_and(|name| name.starts_with("ip-") || name.starts_with("i-"));

    vec![
        Trace { name: "machine id", found: if is_set { vec![machine_id] } else { Vec::new() }, what: How::Empty },
        remove("machine id of D-Bus", of_dbus),
        remove("host name", if names_one { vec![hostname] } else { Vec::new() }),
        remove(
            "random seed",
            there(&[file("/var/lib/systemd/random-seed"), file("/var/lib/systemd/credential.secret")]),
        ),
        remove("SSH host keys", entries(&file("/etc/ssh"), |name| name.starts_with("ssh_host_"))),
        remove("authorized SSH keys", in_homes(".ssh/authorized_keys")),
        remove("shell history", in_homes(".bash_history")),
        remove("journal", entries(&file("/var/log/journal"), |_| true)),
        remove("cloud-init", cloud_init.collect()),
        remove(
            "Systems Manager and efs-utils",
            of_amazon.iter().flat_map(|dir| entries(&file(dir), |_| true)).collect(),
        ),
        remove("leases", leases.collect()),
        remove("state of the agent", state.collect()),
        remove("secrets of the agent", secrets.into_iter().chain(unfinished).collect()),
        remove("region", there(&[file("/etc/dr-agent/region")])),
    ]
}

/// What may be meant, so that only a person can take it out.
fn not_ours(root: &Path, config: &Config) -> Vec<Item> {
    let mut items = Vec::new();
    let homes = homes(root);
    let in_homes = |names: &[&str]| -> Vec<PathBuf> {
        let paths = homes.iter().flat_map(|home| names.iter().map(|name| home.join(name)));
        paths.filter(|path| path.exists()).collect()
    };
    items.extend(in_homes(&[".aws/credentials", ".aws/sso", ".aws/cli/cache"]).into_iter().map(|path| {
        let why = format!("{} would be in every instance, which has a role of its own", path.display());
        Item::unhealthy("AWS credentials", why, "remove it")
    }));
    let logins = [".my.cnf", ".mylogin.cnf", ".mysql_history", ".netrc"];
    let keys = [".ssh/id_rsa", ".ssh/id_ecdsa", ".ssh/id_ed25519", ".git-credentials"];
    items.extend(in_homes(&[&logins[..], &keys].concat()).into_iter().map(|path| {
        let why = format!("{} would be in every instance", path.display());
        Item::unhealthy("passwords and keys of people", why, "remove it")
    }));
    let fstab = fs::read_to_string(below(root, Path::new("/etc/fstab"))).unwrap_or_default();
    let lines = fstab.lines().filter(|line| !line.trim_start().starts_with('#'));
    if let Some(id) = lines.flat_map(str::split_whitespace).find_map(file_system) {
        items.push(Item::unhealthy(
            "fstab",
            format!("/etc/fstab names {id}, which is in one region"),
            "remove the line: `dr-agent bootstrap` mounts what [region.NAME] names, in each region its own",
        ));
    }
    let hosts: Vec<String> = config.regions.values().filter_map(|region| Some(region.database_at()?.host)).collect();
    for output in &config.repoint.outputs {
        let path = below(root, &output.path);
        let text = fs::read_to_string(&path).unwrap_or_default();
        if let Some(host) = hosts.iter().find(|host| text.contains(host.as_str())) {
            let why = format!("{} names {host}, which is one region's", path.display());
            items.push(Item::unhealthy(
                "database outputs",
                why,
                "remove the file: the agent writes it in each instance",
            ));
        }
    }
    items
}

/// The id of an EFS file system at the beginning of a word.
fn file_system(word: &str) -> Option<&str> {
    let rest = word.strip_prefix("fs-")?;
    let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
    (end >= 8).then(|| &word[..end + 3])
}

fn homes(root: &Path) -> Vec<PathBuf> {
    let mut homes = entries(&below(root, Path::new("/home")), |_| true);
    homes.push(below(root, Path::new("/root")));
    homes
}

/// What is in a folder, by name; nothing if there is none.
fn entries(dir: &Path, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let found = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        found.filter(|entry| is_meant(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The files in a folder and in the folders in it, which themselves are the package's.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let is_folder = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|file| file.is_dir());
    let below = |path: PathBuf| if is_folder(&path) { files_below(&path) } else { vec![path] };
    entries(dir, |_| true).into_iter().flat_map(below).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<_> = paths.iter().take(3).map(|path| path.display().to_string()).collect();
    match paths.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
#[path = "seal/tests.rs"]
mod tests;
