//! Whether an image would work: the configuration, the accounts, the units, the folders, nginx, and that nothing of the
//! machine it is made on stays in it. Without network and without an agent.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{below, nginx, seal};
use crate::bootstrap::GROUP;
use crate::config::load::{self, File, Problems};
use crate::config::{self, Config};
use crate::health::cause::Status;
use crate::helper::tool::{Failed, tool};
use crate::report::items::Item;

/// The names of the parts.
pub const CONFIGURATION: &str = "configuration";
const ACCOUNTS: &str = "accounts";
const UNITS: &str = "units";
const FOLDERS: &str = "folders";
const FILES: &str = "files";
const NGINX: &str = "nginx";
const SEALED: &str = "sealed";

/// The agent's user and group, and the group that may give orders.
const USER: &str = "dr-agent";
const ADMINS: &str = "dr-agent-admin";

const AGENT: &str = "dr-agent.service";
const BOOTSTRAP: &str = "dr-agent-bootstrap.service";
const TMPFILES: &str = "usr/lib/tmpfiles.d/dr-agent.conf";

/// Every unit of the agent.
const SHIPPED: [&str; 11] = [
    AGENT,
    BOOTSTRAP,
    "dr-agent-bootstrap-retry.service",
    "dr-agent-gate.service",
    "dr-agent-database-proxy.service",
    "dr-agent-helper-nginx-restart.path",
    "dr-agent-helper-nginx-restart.service",
    "dr-agent-helper-efs-remount.path",
    "dr-agent-helper-efs-remount.service",
    "dr-agent-helper-repoint-apply.path",
    "dr-agent-helper-repoint-apply.service",
];

/// One program.
const LIMIT: Duration = Duration::from_secs(20);

/// Looks at this machine, with the configuration at `path` (else the usual one).
pub async fn look(path: Option<&Path>) -> Vec<Item> {
    let root = Path::new("/");
    let (config, mut items) = files(root, path);
    items.extend(nginx(tool(&["nginx", "-T"], LIMIT).await));
    items.push(verified(tool(&verify(), LIMIT).await));
    items.extend(sealed(root, &config));
    items
}

/// What is said by files alone.
#[must_use]
pub fn files(root: &Path, path: Option<&Path>) -> (Config, Vec<Item>) {
    let (config, configuration) = configuration(root, path);
    let items = vec![configuration, accounts(root), units(root, &config), folders(root), named_files(root, &config)];
    (config, items)
}

/// The configuration, which says the same of an image in every region, and whether it is good in each.
fn configuration(root: &Path, path: Option<&Path>) -> (Config, Item) {
    let place = path.map_or_else(|| below(root, Path::new(load::DEFAULT_PATH)), Path::to_owned);
    let judged = load::read(&place).and_then(|file| in_every_region(&file));
    let shown = place.display();
    match judged {
        Ok(config) if config.efs.is_some() && config.regions.values().any(|region| region.efs.is_none()) => {
            let item = Item::degraded(
                CONFIGURATION,
                format!("{shown} is good, and not every [region.NAME] has `efs`"),
                "add it, so that `dr-agent bootstrap` knows what to mount",
            );
            (config, item)
        }
        Ok(config) => (config, Item::well(CONFIGURATION, format!("{shown} is good"))),
        Err(problems) if problems.is_missing() && path.is_none() => {
            let item = Item::degraded(
                CONFIGURATION,
                format!("there is no {shown}: only nginx and the host would be watched"),
                "put it into the image, or have user data write it before network-online.target (`write_files`)",
            );
            (config::defaults(), item)
        }
        Err(problems) => {
            let hint = "`dr-agent config check` has it line by line";
            (config::defaults(), Item::unhealthy(CONFIGURATION, problems.lines().join("; "), hint))
        }
    }
}

fn in_every_region(file: &File) -> Result<Config, Problems> {
    let mut config = file.config(None)?;
    // Without a region there is no database, and none of its files.
    for region in config.regions.clone().keys() {
        config = file.config(Some(region))?;
    }
    Ok(config)
}

/// Names and numbers of a file such as /etc/passwd.
fn numbers(root: &Path, path: &str) -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root.join(path)).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

fn accounts(root: &Path) -> Item {
    let (users, groups) = (numbers(root, "etc/passwd"), numbers(root, "etc/group"));
    let problem = match (users.get(USER), groups.get(USER), groups.contains_key(ADMINS)) {
        (Some(&GROUP), Some(&GROUP), true) => None,
        (None, _, _) | (_, None, _) => Some(format!("there is no user and group `{USER}`")),
        (_, _, false) => Some(format!("there is no group `{ADMINS}`")),
        (Some(user), Some(group), true) => Some(format!(
            "`{USER}` has the numbers {user} and {group}, and EFS stores {GROUP} as the owner of its folder"
        )),
    };
    match problem {
        None => Item::well(ACCOUNTS, format!("user and group `{USER}` have number {GROUP}")),
        Some(why) => Item::unhealthy(ACCOUNTS, why, "`systemd-sysusers`, or reinstall the package"),
    }
}

fn is_there(root: &Path, path: &str) -> bool {
    fs::symlink_metadata(root.join(path)).is_ok()
}

fn has_unit(root: &Path, unit: &str) -> bool {
    ["usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system"]
        .iter()
        .any(|dir| is_there(root, &format!("{dir}/{unit}")))
}

/// Whether nothing can start it.
fn is_masked(root: &Path, unit: &str) -> bool {
    fs::read_link(root.join("etc/systemd/system").join(unit)).is_ok_and(|to| to == Path::new("/dev/null"))
}

/// Whether something starts it: a link in a folder `*.wants` or `*.requires` of the administrator.
fn is_enabled(root: &Path, unit: &str) -> bool {
    let folders = fs::read_dir(root.join("etc/systemd/system")).into_iter().flatten().flatten();
    folders.map(|folder| folder.path()).any(|folder| {
        let starts = folder.extension().is_some_and(|kind| kind == "wants" || kind == "requires");
        starts && fs::symlink_metadata(folder.join(unit)).is_ok()
    })
}

fn units(root: &Path, config: &Config) -> Item {
    let missing: Vec<_> = SHIPPED.into_iter().filter(|unit| !has_unit(root, unit)).collect();
    if !missing.is_empty() {
        return Item::unhealthy(UNITS, format!("missing: {}", missing.join(", ")), "reinstall the package");
    }
    let has_secrets = config.key_file.is_some() || config.database.as_ref().is_some_and(|d| d.password_file.is_some());
    let repoints = !config.repoint.outputs.is_empty();
    let needed = |units: &[(bool, &'static str)], is_wrong: &dyn Fn(&str) -> bool| -> Vec<&'static str> {
        units.iter().filter(|(needed, unit)| *needed && is_wrong(unit)).map(|(_, unit)| *unit).collect()
    };
    // The agent wants these: they need no link.
    let helpers = [
        (config.replace.enforce, "dr-agent-helper-nginx-restart.path"),
        (config.replace.enforce && config.efs.is_some(), "dr-agent-helper-efs-remount.path"),
        (repoints, "dr-agent-helper-repoint-apply.path"),
    ];
    let masked = needed(&helpers, &|unit| is_masked(root, unit));
    if !masked.is_empty() {
        let why = format!("masked, and this configuration needs them: {}", masked.join(", "));
        return Item::degraded(UNITS, why, format!("`systemctl unmask {}`", masked.join(" ")));
    }
    let enabled = [
        (true, "nginx.service"),
        (true, AGENT),
        (config.efs.is_some() || has_secrets, BOOTSTRAP),
        (repoints, "dr-agent-gate.service"),
    ];
    let idle = needed(&enabled, &|unit| !is_enabled(root, unit));
    if idle.is_empty() {
        return Item::well(UNITS, "are there, and those that this configuration needs are enabled");
    }
    let status =
        if idle.contains(&AGENT) || idle.contains(&"nginx.service") { Status::Unhealthy } else { Status::Degraded };
    let hint = format!("`systemctl enable {}`", idle.join(" "));
    Item::worse(UNITS, status, format!("nothing starts {}", idle.join(", ")), hint)
}

/// The folders of the file for systemd-tmpfiles that are on disk; those in /run are made by each boot.
fn folders(root: &Path) -> Item {
    let Ok(text) = fs::read_to_string(root.join(TMPFILES)) else {
        return Item::unhealthy(FOLDERS, format!("there is no /{TMPFILES}"), "reinstall the package");
    };
    let (users, groups) = (numbers(root, "etc/passwd"), numbers(root, "etc/group"));
    let mut wrong = Vec::new();
    for line in text.lines() {
        let [kind, path, mode, user, group] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        let Ok(found) = fs::symlink_metadata(below(root, Path::new(path))) else { continue };
        if kind != "d" || path.starts_with("/run/") {
            continue;
        }
        let is_so = found.is_dir()
            && u32::from_str_radix(mode, 8).is_ok_and(|mode| found.permissions().mode() & 0o7777 == mode)
            && users.get(user).is_none_or(|user| *user == found.uid())
            && groups.get(group).is_none_or(|group| *group == found.gid());
        if !is_so {
            wrong.push(format!("{path} is not {mode} {user}:{group}"));
        }
    }
    if wrong.is_empty() {
        Item::well(FOLDERS, "are as the package has them")
    } else {
        Item::unhealthy(FOLDERS, wrong.join("; "), "`systemd-tmpfiles --create dr-agent.conf`")
    }
}

/// What the configuration names and only the image can bring.
fn named_files(root: &Path, config: &Config) -> Item {
    let mut wrong = Vec::new();
    if let Some(bundle) = config.database.as_ref().and_then(|database| database.tls_ca.as_ref())
        && !below(root, bundle).is_file()
    {
        wrong.push(format!("{} (`probe.database.tls_ca`) is not there", bundle.display()));
    }
    for (name, probe) in &config.exec {
        let Some(program) = probe.command.first() else { continue };
        let wanted = |file: &fs::Metadata| file.is_file() && file.uid() == 0 && file.mode() & 0o111 != 0;
        if !fs::metadata(below(root, &PathBuf::from(program))).is_ok_and(|file| wanted(&file)) {
            wrong.push(format!("{program} (`probe.exec.{name}`) is no program of root's"));
        }
    }
    if wrong.is_empty() {
        Item::well(FILES, "what the configuration names is there")
    } else {
        Item::degraded(FILES, wrong.join("; "), "put it into the image")
    }
}

/// What `nginx -T` means.
fn nginx(said: Result<String, Failed>) -> Vec<Item> {
    let faults = match said {
        Ok(dump) => nginx::faults(&dump),
        Err(error) => {
            let hint = "install nginx, and correct what `nginx -t` says";
            return vec![Item::unhealthy(NGINX, error.to_string(), hint)];
        }
    };
    let degraded = |servers: &[String], why: &str, hint: &str| {
        (!servers.is_empty()).then(|| Item::degraded(NGINX, format!("{why}: {}", servers.join(", ")), hint))
    };
    let without = degraded(
        &faults.without,
        "without the agent's paths and without the fence",
        "put `include /etc/nginx/dr-agent.d/*.conf;` into these server blocks, as the first line",
    );
    let late = degraded(
        &faults.late,
        "what comes before the agent's include answers users of a fenced region too",
        "move `include /etc/nginx/dr-agent.d/*.conf;` to the top of these server blocks",
    );
    let found: Vec<_> = without.into_iter().chain(late).collect();
    if found.is_empty() {
        vec![Item::well(NGINX, "its configuration is good, and every server block has the include")]
    } else {
        found
    }
}

fn verify() -> Vec<&'static str> {
    // Paths and services; each brings what it starts.
    [&["systemd-analyze", "verify", "--man=no"], &SHIPPED[..]].concat()
}

/// What `systemd-analyze verify` means.
fn verified(said: Result<String, Failed>) -> Item {
    const NAME: &str = "unit files";
    match said {
        Ok(_) => Item::well(NAME, "systemd understands them"),
        Err(error @ Failed::Said(..)) => {
            Item::unhealthy(NAME, error.to_string(), "correct the unit or the drop-in that it names")
        }
        Err(error) => Item::worse(NAME, Status::Unknown, error.to_string(), "`systemd-analyze verify` must be there"),
    }
}

fn sealed(root: &Path, config: &Config) -> Vec<Item> {
    let remains = seal::remains(root, config);
    if remains.is_empty() {
        vec![Item::well(SEALED, "nothing that is known to belong to one machine, region or person is there")]
    } else {
        remains
    }
}

#[cfg(test)]
#[path = "inspect/tests.rs"]
mod tests;
