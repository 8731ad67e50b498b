//! What a bootstrap has to do, by what is there. Pure.

use std::path::{Path, PathBuf};

use super::mount::{self, Mount};
use super::secret::TAG;
use crate::config::{Config, EfsProbe};
use crate::health::cause::Status;
use crate::probes::efs::mountinfo;
use crate::report::items::Item;

/// The names of the parts.
pub const CONFIGURATION: &str = "configuration";
pub const REGION: &str = "region";
pub const SECRETS: &str = "secrets";
pub const JOURNAL: &str = "journal";
pub const MOUNT: &str = "mount";
pub const CANARY: &str = "canary";
pub const DATABASE: &str = "database";

/// What is there before anything is done.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// As it is in force for this region.
    pub config: &'a Config,
    /// What is wrong with the file.
    pub problems: &'a [String],
    /// The region by the metadata service.
    pub metadata_region: Option<&'a str>,
    pub tag: &'a Tag,
    pub mountinfo: &'a [u8],
    pub fstab: &'a str,
    /// efs-utils are installed.
    pub has_helper: bool,
    /// The mount unit as it is.
    pub unit: Option<&'a str>,
    /// Of the files that the configuration names, those that are there.
    pub present: &'a [PathBuf],
    /// The journal outlives a boot.
    pub keeps_journal: bool,
}

/// What the tag `dr-agent:secret` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    Is(String),
    Absent,
    /// This machine is not known to be an instance of EC2.
    Elsewhere,
    /// Nobody could tell, for this reason.
    Unknown(String),
}

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is settled without doing anything.
    pub settled: Vec<Item>,
    pub fetch: Option<Fetch>,
    pub mount: Option<Start>,
    /// The folder of the canary, once the file system is mounted.
    pub folder: Option<PathBuf>,
    pub make_journal: bool,
}

/// A secret to fetch, and the files that it is for.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetch {
    pub name: String,
    pub region: String,
    pub password_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// All files are there: they serve if it cannot be fetched.
    pub is_refresh: bool,
}

/// A mount to make.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    pub path: PathBuf,
    pub unit: String,
    /// The unit's text, if it is not there yet; an operator's line in fstab makes its own.
    pub write: Option<String>,
    /// For people.
    pub what: String,
}

impl Plan {
    #[must_use]
    pub fn of(facts: &Facts<'_>) -> Self {
        let mut plan = Self { make_journal: !facts.keeps_journal, ..Self::default() };
        plan.settled.push(configuration(facts));
        plan.settled.extend(region(facts));
        match secrets(facts) {
            Ok(fetch) => plan.fetch = Some(fetch),
            Err(item) => plan.settled.extend(item),
        }
        if facts.keeps_journal {
            plan.settled.push(Item::well(JOURNAL, "outlives a boot"));
        }
        match facts.config.efs.as_ref().map(|efs| mount(facts, efs)) {
            None => {}
            Some(Ok(start)) => {
                plan.folder = Some(folder(&start.path));
                plan.mount = Some(start);
            }
            Some(Err(item)) => {
                if item.status == Status::Healthy {
                    plan.folder = facts.config.efs.as_ref().map(|efs| folder(&efs.path));
                }
                plan.settled.push(item);
            }
        }
        plan.settled.extend(database(facts));
        plan
    }
}

fn folder(mount: &Path) -> PathBuf {
    mount.join(".dr-agent")
}

fn configuration(facts: &Facts<'_>) -> Item {
    if facts.problems.is_empty() {
        return Item::well(CONFIGURATION, "is good");
    }
    let hint = "correct the file by what `dr-agent config check` says, then `systemctl restart dr-agent-bootstrap`";
    Item::unhealthy(CONFIGURATION, facts.problems.join("; "), hint)
}

fn region(facts: &Facts<'_>) -> Option<Item> {
    match (facts.config.region.as_deref(), facts.metadata_region) {
        (Some(region), Some(other)) if region != other => Some(Item::degraded(
            REGION,
            format!("is taken to be {region}, and the metadata service says {other}"),
            "correct the [region.*] tables, or /etc/dr-agent/region, which came with the image if nobody wrote it here",
        )),
        (Some(region), _) => Some(Item::well(REGION, region)),
        (None, _) if facts.config.regions.is_empty() => None,
        (None, _) => Some(Item::unhealthy(
            REGION,
            "is not known, and with it neither the file system nor the database",
            "write its name to /etc/dr-agent/region, or allow the instance metadata service",
        )),
    }
}

/// The secret to fetch, or what there is to say instead.
fn secrets(facts: &Facts<'_>) -> Result<Fetch, Option<Item>> {
    let config = facts.config;
    let password_file = config.database.as_ref().and_then(|database| database.password_file.clone());
    let key_file = config.key_file.clone();
    let named: Vec<&PathBuf> = password_file.iter().chain(&key_file).collect();
    let missing: Vec<&PathBuf> = named.iter().copied().filter(|path| !facts.present.contains(path)).collect();
    let is_refresh = missing.is_empty();
    // What another attempt may change is unhealthy: there is one.
    let complaint = |why: String, hint: String| {
        if is_refresh {
            return Some(Item::well(SECRETS, format!("are there; {why}")));
        }
        let what = if missing.iter().any(|path| Some(*path) == password_file.as_ref()) {
            "no password file, so the database is not asked"
        } else {
            "no key file, so no other agent is believed"
        };
        let item = if matches!(facts.tag, Tag::Unknown(_)) { Item::unhealthy } else { Item::degraded };
        Some(item(SECRETS, format!("{what}; {why}"), hint))
    };
    if named.is_empty() {
        return Err(None);
    }
    let paths = || missing.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ");
    match (facts.tag, &config.region) {
        (Tag::Is(name), _) if !is_name(name) => Err(complaint(
            format!("the tag `{TAG}` is not the name of a secret"),
            format!("let the tag be the secret's name, then `systemctl restart {UNIT}`"),
        )),
        (Tag::Is(_), None) => Err(complaint(
            "a secret is in a region, and the region is not known".to_owned(),
            format!("see `{REGION}`, then `systemctl restart {UNIT}`"),
        )),
        (Tag::Is(name), Some(region)) => {
            Ok(Fetch { name: name.clone(), region: region.clone(), password_file, key_file, is_refresh })
        }
        (Tag::Absent, _) => Err(complaint(
            format!("the instance has no tag `{TAG}`"),
            format!("write {} (root:dr-agent, 0640), or tag the instance with the name of a secret", paths()),
        )),
        (Tag::Elsewhere, _) => Err(complaint(
            "this machine is not known to be an instance of EC2".to_owned(),
            format!("write {} (root:dr-agent, 0640)", paths()),
        )),
        (Tag::Unknown(why), _) => Err(complaint(
            format!("whether the instance has the tag `{TAG}` could not be told: {why}"),
            "allow tags in the instance metadata (`InstanceMetadataTags`), or `ec2:DescribeInstances` to the role"
                .to_owned(),
        )),
    }
}

const UNIT: &str = "dr-agent-bootstrap";

/// As Secrets Manager has names and ARNs. Never an option.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-:".contains(c);
    (1..=2048).contains(&text.len()) && text.chars().all(fits) && !text.starts_with('-')
}

/// The mount to make, or what there is to say instead.
fn mount(facts: &Facts<'_>, efs: &EfsProbe) -> Result<Start, Item> {
    let path = efs.path.display();
    let in_fstab = mount::is_in_fstab(facts.fstab, &efs.path);
    let mounted = mountinfo::find(facts.mountinfo, &efs.path);
    // An automount that nobody has used yet is mounted by its start.
    if let Some(mounted) = mounted.filter(|mounted| !(in_fstab && mounted.fs_type == "autofs")) {
        let of_another = || {
            let (unit, id) = (facts.unit.and_then(Mount::read)?, efs.file_system.as_ref()?);
            // Behind the tunnel of efs-utils every file system has the same source.
            let is_it = mounted.has_named_source() || in_fstab || unit.what.contains(id.as_str());
            (!is_it).then(|| format!("of {}, not of {id}", unit.what))
        };
        return Err(match unwanted(&mounted, efs).or_else(of_another) {
            None => Item::well(MOUNT, format!("{path} is a mount of {}", mounted.source)),
            Some(why) => Item::unhealthy(
                MOUNT,
                format!("{path} is a mount already: {why}"),
                format!("`umount {path}`, remove what mounts it, then `systemctl restart {UNIT}`"),
            ),
        });
    }
    let unit = mount::unit_name(&efs.path);
    if in_fstab {
        let what = format!("the file system of the line in /etc/fstab for {path}");
        return Ok(Start { path: efs.path.clone(), unit, write: None, what });
    }
    let Some((id, region)) = efs.file_system.as_ref().zip(facts.config.region.as_ref()) else {
        return Err(Item::unhealthy(
            MOUNT,
            format!("no file system is named for {path}"),
            "add `efs` to this region's [region.NAME] table, or a line for the mount point to /etc/fstab",
        ));
    };
    let wanted = Mount::of(id, region, facts.has_helper);
    let text = wanted.unit(&efs.path);
    let write = (facts.unit != Some(&text)).then_some(text);
    Ok(Start { path: efs.path.clone(), unit, write, what: wanted.what })
}

/// Why what is mounted is not what the configuration wants.
#[must_use]
pub(crate) fn unwanted(mounted: &mountinfo::Mount, efs: &EfsProbe) -> Option<String> {
    if !efs.types.contains(&mounted.fs_type) {
        return Some(format!("its type is {}, not {}", mounted.fs_type, efs.types.join(" or ")));
    }
    let id = efs.file_system.as_ref()?;
    let is_other = mounted.has_named_source() && !mounted.source.contains(id.as_str());
    is_other.then(|| format!("of {}, not of {id}", mounted.source))
}

fn database(facts: &Facts<'_>) -> Option<Item> {
    let database = facts.config.database.as_ref()?;
    let endpoint = format!("{}:{}", database.host, database.port);
    Some(match &database.tls_ca {
        Some(bundle) if !facts.present.contains(bundle) => Item::degraded(
            DATABASE,
            format!("{endpoint} cannot be asked: there is no {}", bundle.display()),
            "put the bundle of RDS's authorities there, or name another file in `probe.database.tls_ca`",
        ),
        _ => Item::well(DATABASE, endpoint),
    })
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
