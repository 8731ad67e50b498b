//! Looks, plans, does it, looks again, and writes down what came of it. Every step has a deadline: a boot never waits for
//! what hangs.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::fchown;
use rustix::process::{Gid, Uid};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};

use super::mount::{self, ATTEMPT_SECONDS};
use super::plan::{self, CANARY, Facts, Fetch, JOURNAL, MOUNT, Plan, SECRETS, Start, Tag};
use super::secret::{self, NotThere};
use super::{GROUP, LOCAL, Record, VERB, folder};
use crate::clock;
use crate::config::load::{self, Loaded};
use crate::config::{Config, EfsProbe};
use crate::helper::Paths;
use crate::helper::tool::{Failed as ToolFailed, tool};
use crate::identity::{self, metadata};
use crate::probes::efs::mountinfo;
use crate::repoint::apply;
use crate::report::items::Item;
use crate::state;

/// What systemd does itself, which is busy during a boot.
const MANAGER: Duration = Duration::from_secs(15);

/// A question to AWS by its command line, which takes seconds to start on a small instance that boots.
const ASK: Duration = Duration::from_secs(12);

/// All attempts to fetch the secret: the role's credentials may come some seconds after the network.
const FETCH: Duration = Duration::from_secs(25);

/// All attempts to mount: nginx waits for so long, and then starts without. The retry unit goes on.
const MOUNTING: Duration = Duration::from_secs(30);

/// The first pause between attempts; each next one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks for the metadata service, which may be there a moment after the network.
const LOOKS: u32 = 3;

const SECRET_MODE: u32 = 0o640;

const JOURNAL_DIR: &str = "/var/log/journal";

/// Why nothing was done.
#[derive(Debug, Error)]
pub enum Failed {
    #[error("another bootstrap is at work")]
    Busy,
    #[error("cannot write to `{path}`")]
    Results {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

/// One bootstrap with the configuration at `path`, for the region `given` if there is one.
///
/// # Errors
/// When another one is at work, or its result could be written nowhere: then nothing was done.
pub async fn run(path: Option<&Path>, given: Option<String>) -> Result<Record, Failed> {
    let began = clock::wall();
    let own = apply::dir();
    let mut loaded = load::at_start_of_root(path, given.as_deref(), &own);
    let paths = Paths::of(&loaded.config.listen.control);
    let _lock = lock(&paths)?;
    let tell = |record: &Record| {
        paths.report(VERB, record).map_err(|error| Failed::Results { path: paths.results().to_owned(), error })
    };
    let before = Record::newest(&loaded.config.listen.control).map(|record| record.items);
    tell(&Record { began, ended: None, items: before.unwrap_or_default() })?;

    let heard = listen(&loaded, given.as_deref()).await;
    let instance = identity::instance().or_else(|| heard.identity.instance.clone());
    if given.is_none() && loaded.config.region.is_none() && !loaded.config.regions.is_empty() {
        let region = heard.identity.region.clone().or_else(|| remembered_region(&loaded, instance.clone()));
        loaded = load::at_start_of_root(path, region.as_deref(), &own);
    }
    let Loaded { config, problems, .. } = &loaded;
    let tag = tag(config, instance.as_deref(), &heard).await;
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let unit = config.efs.as_ref().and_then(|efs| fs::read_to_string(mount::unit_file(&efs.path)).ok());
    let plan = Plan::of(&Facts {
        config,
        problems,
        metadata_region: heard.identity.region.as_deref(),
        tag: &tag,
        mountinfo: &mountinfo,
        fstab: &fs::read_to_string("/etc/fstab").unwrap_or_default(),
        has_helper: Path::new(mount::HELPER).exists(),
        unit: unit.as_deref(),
        present: &present(config),
        keeps_journal: Path::new(JOURNAL_DIR).is_dir(),
    });
    let items = carry_out(plan, config).await;
    let record = Record { began, ended: Some(clock::wall()), items };
    tell(&record)?;
    Ok(record)
}

/// One at a time: the unit, its retries and a person. Ends with the process.
fn lock(paths: &Paths) -> Result<fs::File, Failed> {
    let path = paths.results().join("bootstrap.lock");
    let failed = |error| Failed::Results { path: path.clone(), error };
    fs::create_dir_all(paths.results()).map_err(failed)?;
    let file = fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Failed::Busy),
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Asks the metadata service; more than once only where something depends on it.
async fn listen(loaded: &Loaded, given: Option<&str>) -> metadata::Metadata {
    let config = &loaded.config;
    let needs_region = given.is_none() && config.region.is_none() && !config.regions.is_empty();
    let looks = if needs_region || names_secrets(config) { LOOKS } else { 1 };
    let mut heard = metadata::ask().await;
    for _ in 1..looks {
        // Switched off, or something else at its address, stays so.
        let may_come = matches!(heard.silence, Some(metadata::Silence::Late | metadata::Silence::Unreachable));
        if !may_come {
            break;
        }
        sleep(PAUSE).await;
        heard = metadata::ask().await;
    }
    heard
}

fn names_secrets(config: &Config) -> bool {
    config.key_file.is_some() || config.database.as_ref().is_some_and(|database| database.password_file.is_some())
}

/// The region that the state of this instance names, where an agent that starts looks last too.
fn remembered_region(loaded: &Loaded, instance: Option<String>) -> Option<String> {
    let owner = state::Owner { deployment: loaded.deployment(), instance, region: None };
    state::read(&loaded.config.state_dir, &owner).ok()??.owner.region
}

/// The tag by the metadata service, else, where that has no tags, by EC2.
async fn tag(config: &Config, instance: Option<&str>, heard: &metadata::Metadata) -> Tag {
    if !names_secrets(config) {
        return Tag::Absent;
    }
    match metadata::tag(secret::TAG).await {
        metadata::Tag::Is(value) => return Tag::Is(value),
        metadata::Tag::Absent => return Tag::Absent,
        metadata::Tag::Hidden => {}
    }
    let is_late = matches!(heard.silence, Some(metadata::Silence::Late));
    let region = config.region.as_deref().or(heard.identity.region.as_deref());
    let (instance, region) = match (instance, region) {
        (Some(instance), Some(region)) => (instance, region),
        (Some(_), None) => return Tag::Unknown("the region is not known".to_owned()),
        (None, _) if is_late => return Tag::Unknown("the metadata service did not answer in time".to_owned()),
        (None, _) => return Tag::Elsewhere,
    };
    let query = format!("Reservations[].Instances[].Tags[?Key=='{}'].Value[]", secret::TAG);
    let command = ["aws", "ec2", "describe-instances", "--region", region, "--instance-ids", instance];
    let command = [&command[..], &["--output", "text", "--query", &query]].concat();
    match tool(&command, ASK).await {
        Ok(said) => match said.trim() {
            "" | "None" => Tag::Absent,
            name => Tag::Is(name.to_owned()),
        },
        Err(error) => Tag::Unknown(error.to_string()),
    }
}

/// Of the files that the configuration names, those that are there.
fn present(config: &Config) -> Vec<PathBuf> {
    let database = config.database.as_ref();
    let files = [
        config.key_file.as_ref(),
        database.and_then(|database| database.password_file.as_ref()),
        database.and_then(|database| database.tls_ca.as_ref()),
    ];
    files.into_iter().flatten().filter(|path| path.is_file()).cloned().collect()
}

async fn carry_out(plan: Plan, config: &Config) -> Vec<Item> {
    let Plan { settled, fetch, mount, folder, make_journal } = plan;
    let mut items = settled;
    let secrets = async {
        match &fetch {
            Some(fetch) => Some(secrets(fetch).await),
            None => None,
        }
    };
    let journal = async { if make_journal { Some(journal().await) } else { None } };
    let mounted = async {
        match (&mount, &config.efs) {
            (Some(start), Some(efs)) => Some(mounted(start, efs).await),
            _ => None,
        }
    };
    let (secrets, journal, mounted) = tokio::join!(secrets, journal, mounted);
    let has_mount = mounted.as_ref().is_none_or(Result::is_ok);
    let of_mount = mounted.map(|result| result.unwrap_or_else(|item| item));
    items.extend([secrets, journal, of_mount].into_iter().flatten());
    if let (Some(folder), true) = (folder, has_mount) {
        items.push(folder::made(&folder).await);
    }
    let order = [plan::CONFIGURATION, plan::REGION, SECRETS, JOURNAL, MOUNT, CANARY, plan::DATABASE];
    items.sort_by_key(|item| order.iter().position(|name| *name == item.name));
    items
}

/// Fetches the secret and writes the files it is for.
async fn secrets(fetch: &Fetch) -> Item {
    let name = &fetch.name;
    match fetched(fetch).await {
        Ok(written) if written.is_empty() => Item::well(SECRETS, format!("are as the secret `{name}` has them")),
        Ok(written) => Item::well(SECRETS, format!("written from the secret `{name}`: {}", written.join(", "))),
        Err(error) => {
            let hint = format!("{}; then `systemctl restart dr-agent-bootstrap`", error.hint(&fetch.region));
            if fetch.is_refresh {
                Item::degraded(SECRETS, format!("are those of before: the secret `{name}` {error}"), hint)
            } else {
                Item::unhealthy(SECRETS, format!("are not complete: the secret `{name}` {error}"), hint)
            }
        }
    }
}

/// The files that were written; those that say so already are not.
async fn fetched(fetch: &Fetch) -> Result<Vec<String>, NotThere> {
    let Fetch { name, region, .. } = fetch;
    let command = ["aws", "secretsmanager", "get-secret-value", "--region", region, "--secret-id", name];
    let command = [&command[..], &["--query", "SecretString", "--output", "text"]].concat();
    let text = attempts(FETCH, async |left| tool(&command, left.min(ASK)).await).await.map_err(NotThere::NotFetched)?;
    let secret = secret::read(&text).map_err(NotThere::Unusable)?;
    let files = [(&fetch.password_file, secret.password, "password"), (&fetch.key_file, secret.key, "key")];
    let mut written = Ok(Vec::new());
    for (path, text, field) in files {
        let Some(path) = path else { continue };
        let done = match text {
            Some(text) => write_secret(path, &text).map_err(|error| NotThere::NotWritten { path: path.clone(), error }),
            None if path.is_file() => Ok(false),
            None => Err(NotThere::NoField { field, path: path.clone() }),
        };
        // One of them that is not there is no reason to be without the other.
        match (done, &mut written) {
            (Ok(true), Ok(written)) => written.push(path.display().to_string()),
            (Err(error), Ok(_)) => written = Err(error),
            _ => {}
        }
    }
    written
}

/// Replaces a file that root writes and the agent reads; `false` if it is so already.
fn write_secret(path: &Path, text: &str) -> io::Result<bool> {
    let is_so = |file: fs::Metadata| {
        let right = (file.mode() & 0o7777, file.uid(), file.gid()) == (SECRET_MODE, 0, GROUP);
        right && fs::read(path).is_ok_and(|old| old == text.as_bytes())
    };
    if fs::symlink_metadata(path).is_ok_and(is_so) {
        return Ok(false);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    fchown(file.as_file(), Some(Uid::ROOT), Some(Gid::from_raw(GROUP)))?;
    file.as_file().set_permissions(fs::Permissions::from_mode(SECRET_MODE))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(dir)?.sync_all()?;
    Ok(true)
}

async fn journal() -> Item {
    let made = async {
        tool(&["mkdir", "-p", JOURNAL_DIR], LOCAL).await?;
        tool(&["systemd-tmpfiles", "--create", "--prefix", JOURNAL_DIR], MANAGER).await?;
        tool(&["journalctl", "--flush"], MANAGER).await
    };
    match made.await {
        Ok(_) => Item::well(JOURNAL, "outlives a boot from now on"),
        Err(error) => Item::degraded(
            JOURNAL,
            format!("is lost with a reboot: {error}"),
            format!("`mkdir {JOURNAL_DIR} && systemctl restart systemd-journald`"),
        ),
    }
}

/// Writes the unit and has systemd mount it.
async fn mounted(start: &Start, efs: &EfsProbe) -> Result<Item, Item> {
    let (path, what) = (start.path.display(), &start.what);
    let began = clock::wall();
    let failed = |why: String, hint: &str| {
        let hint = format!("{hint}`systemctl status {}` has the last attempt, and there is one every 30 s", start.unit);
        Err(Item::unhealthy(MOUNT, format!("{path} is not mounted: {why}"), hint))
    };
    if let Some(text) = &start.write {
        let file = mount::unit_file(&start.path);
        let written =
            fs::create_dir_all(mount::DIR).and_then(|()| state::write_atomically(&file, text.as_bytes(), 0o644));
        if let Err(error) = written {
            return failed(format!("cannot write {}: {error}", file.display()), "");
        }
        if let Err(error) = tool(&["systemctl", "daemon-reload"], MANAGER).await {
            return failed(error.to_string(), "");
        }
    }
    // systemd ends an attempt at the unit's own limit, with all of its processes.
    let limit = Duration::from_secs(u64::from(ATTEMPT_SECONDS) + 3);
    let attempt = async |left: Duration| {
        tool(&["systemctl", "start", &start.unit], left.min(limit)).await?;
        Ok::<_, ToolFailed>(())
    };
    if let Err(error) = attempts(MOUNTING, attempt).await {
        // `mount` says why it failed, and nothing of a server that says nothing.
        let silence = || format!("no answer within {} s ({error})", MOUNTING.as_secs());
        let network = "allow TCP 2049 from this instance to the mount target in its zone; ";
        return failed(complaint(&start.unit, began).await.unwrap_or_else(silence), network);
    }
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    match mountinfo::find(&mountinfo, &start.path) {
        None => failed(format!("systemd says that {} is started, and nothing is there", start.unit), ""),
        Some(mounted) => match plan::unwanted(&mounted, efs) {
            None => Ok(Item::well(MOUNT, format!("{what} is mounted at {path}"))),
            Some(why) => failed(format!("something else is: {why}"), &format!("`umount {path}`; ")),
        },
    }
}

/// What `mount` said last, since these attempts began: what it said of earlier ones is over.
async fn complaint(unit: &str, began: Timestamp) -> Option<String> {
    let since = format!("--since=@{}", began.as_second());
    let command =
        ["journalctl", "--boot", "--unit", unit, "--identifier", "mount", &since, "--lines=2", "--output=cat"];
    let said = tool(&[&command[..], &["--no-pager", "--quiet"]].concat(), LOCAL).await.ok()?;
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    (!said.is_empty()).then_some(said)
}

/// Tries until it works or `limit` is over; `attempt` is told how much is left.
async fn attempts<T, E>(limit: Duration, mut attempt: impl AsyncFnMut(Duration) -> Result<T, E>) -> Result<T, E> {
    let end = Instant::now() + limit;
    let mut pause = PAUSE;
    loop {
        let result = attempt(end.saturating_duration_since(Instant::now())).await;
        // Less than a pause and a moment to try in is no attempt.
        if result.is_ok() || Instant::now() + pause * 2 > end {
            return result;
        }
        drop(timeout_at(end, sleep(pause)).await);
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_replaced_only_when_it_changes() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/database.password");
        assert!(write_secret(&path, "one\n").unwrap());
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o640, 0, 848));
        assert!(!write_secret(&path, "one\n").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), file.ino());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(write_secret(&path, "one\n").unwrap(), "everybody could read it");
        assert!(write_secret(&path, "two\n").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_made_less_and_less_often_until_the_time_is_over() {
        let (began, mut tries) = (Instant::now(), Vec::new());
        let result = attempts(Duration::from_secs(30), async |left| {
            tries.push(began.elapsed().as_secs());
            assert!(left <= Duration::from_secs(30));
            Err::<(), _>("refused")
        });
        assert_eq!(result.await, Err("refused"));
        assert_eq!(tries, [0, 1, 3, 7, 15]);
        assert!(began.elapsed() <= Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_that_takes_all_the_time_is_the_only_one() {
        let mut tries = 0;
        let result = attempts(Duration::from_secs(30), async |left| {
            tries += 1;
            sleep(left).await;
            Err::<(), _>("late")
        });
        assert_eq!((result.await, tries), (Err("late"), 1));
    }
}
