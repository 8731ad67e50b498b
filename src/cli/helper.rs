//! `dr-agent helper VERB`: what needs root, done for one request of the agent and told in a file. systemd starts it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime;
use tokio::time::{Instant, sleep};

use super::{Exit, HelperCommand, render};
use crate::bootstrap::mount::{EFS_UTILS, Mount, unit_file, unit_name};
use crate::clock;
use crate::config::defaults;
use crate::config::load::{self, Loaded};
use crate::helper::tool::{self, tool};
use crate::helper::{Done, Paths};
use crate::probes::efs::mountinfo;
use crate::replace::ladder::Verb;
use crate::repoint::apply;
use crate::repoint::gate::{self, Opened};

/// All steps together stay under the unit's 30 s.
const CHECK: Duration = Duration::from_secs(8);
const RESTART: Duration = Duration::from_secs(20);
const MOUNT: Duration = Duration::from_secs(12);
/// Where it is mounted twice.
const EACH: Duration = Duration::from_secs(7);
/// Before systemd is asked again.
const PAUSE: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(5);
const DETACH: Duration = Duration::from_secs(2);

/// Why a repair failed.
#[derive(Debug, Error)]
enum Failed {
    #[error(transparent)]
    Tool(#[from] tool::Failed),
    #[error("there is no [probe.efs] in the configuration{0}")]
    NoMount(String),
    #[error("nothing says how `{0}` is mounted: neither a line in /etc/fstab nor the unit of `dr-agent bootstrap`")]
    NoLine(String),
    #[error("it was mounted beside the old one and does not answer: {0}")]
    Silent(String),
    #[error("cannot make the staging directory: {0}")]
    Staging(String),
    #[error("systemd has no unit for `{0}`, in which the tunnel of efs-utils would run: `systemctl daemon-reload`")]
    NoUnit(String),
    #[error("the file system answers, and systemd did not mount it anew: {0}")]
    NotAgain(String),
}

pub(super) fn run(config: Option<&Path>, command: HelperCommand) -> Exit {
    match command {
        HelperCommand::NginxRestart => repair(config, Verb::NginxRestart),
        HelperCommand::EfsRemount => repair(config, Verb::EfsRemount),
        HelperCommand::RepointApply => repoint_apply(config),
        HelperCommand::GateOpen { wait } => {
            gate_open(config, wait);
            Exit::Ok
        }
    }
}

fn runtime() -> std::io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

fn repair(config: Option<&Path>, verb: Verb) -> Exit {
    let Loaded { config, problems, .. } = load::at_start_of_root(config, super::region(None).as_deref(), &apply::dir());
    let paths = Paths::of(&config.listen.control);
    // Its file may have been touched, and systemd starts this for that too.
    let Some(id) = paths.unanswered(verb.name()) else {
        render::note("there is no request that was not carried out");
        return Exit::Ok;
    };
    let Ok(runtime) = runtime() else { return Exit::Unknown };
    let result = runtime.block_on(async {
        match verb {
            Verb::NginxRestart => nginx_restart().await,
            Verb::EfsRemount => {
                let mount = config.efs.as_ref().map(|efs| efs.path.display().to_string());
                let no_mount = Failed::NoMount(problems.iter().flat_map(|problem| ["; ", problem]).collect());
                efs_remount(&mount.ok_or(no_mount)?, &paths.staging().display().to_string()).await
            }
        }
    });
    // A program that hangs in the dead mount must not keep the result.
    runtime.shutdown_background();
    let done = Done { id, ok: result.is_ok(), error: result.as_ref().err().map(ToString::to_string) };
    if let Err(error) = paths.report(verb.name(), &done) {
        render::errors(&[format!("cannot write the result: {error}")]);
        return Exit::Permission;
    }
    match result {
        Ok(()) => Exit::Ok,
        Err(error) => {
            render::error(&error);
            Exit::Unhealthy
        }
    }
}

fn repoint_apply(config: Option<&Path>) -> Exit {
    let Ok(runtime) = runtime() else { return Exit::Unknown };
    match runtime.block_on(apply::run(config)) {
        Ok(applied) => {
            let warning = applied.warning.map(|warning| format!("warning: {warning}"));
            let problems: Vec<_> = warning.into_iter().chain(applied.done.error).collect();
            if !problems.is_empty() {
                render::errors(&problems);
            }
            if applied.done.ok { Exit::Ok } else { Exit::Unhealthy }
        }
        Err(error @ apply::Failed::Configuration(_)) => {
            render::error(&error);
            Exit::Configuration
        }
        Err(error) => {
            render::error(&error);
            Exit::Unknown
        }
    }
}

/// Whatever goes wrong here, the site must start.
fn gate_open(path: Option<&Path>, limit: Duration) {
    let dir = apply::dir();
    let config = apply::configuration(path, &dir).map_or_else(|_| defaults(), |(config, _)| config);
    let (Ok(runtime), Ok(boot)) = (runtime(), clock::boot_id()) else { return };
    let run_dir = config.listen.control.parent().unwrap_or(Path::new("/run/dr-agent"));
    let opened = runtime.block_on(gate::wait(&config.state_dir, run_dir, &boot, limit));
    let words = match opened {
        Opened::NoEpoch => "this machine knows of no owner of the data: nothing to wait for",
        Opened::Decided => "the agent decided, and the outputs say so",
        Opened::Late => "the agent did not decide in time: what is closed stays closed, what is open opens",
    };
    render::data(&format!("{words}\n"));
}

/// Not with a configuration that nginx would refuse: then it would be gone for good.
async fn nginx_restart() -> Result<(), Failed> {
    tool(&["nginx", "-t"], CHECK).await?;
    tool(&["systemctl", "restart", "nginx"], RESTART).await?;
    Ok(())
}

/// Mounts it a second time, and puts that in the place of the old one only if it answers: an open port proves a kernel,
/// not a server.
async fn efs_remount(mount: &str, staging: &str) -> Result<(), Failed> {
    let how = how(mount).await.ok_or_else(|| Failed::NoLine(mount.to_owned()))?;
    if how.fs_type == EFS_UTILS {
        return efs_utils_remount(mount, staging, &how).await;
    }
    let replaced = match tried(&how, staging, MOUNT).await {
        Ok(()) => {
            detach(mount).await;
            tool(&["mount", "--bind", staging, mount], DETACH).await.map(drop).map_err(Failed::Tool)
        }
        Err(error) => Err(error),
    };
    // What is bound elsewhere stays there.
    detach(staging).await;
    replaced
}

/// A mount by efs-utils cannot be moved: its tunnel ends with whoever started it, here this helper, and is ended by
/// efs-utils when nothing is mounted where it was asked for. So once it answers beside the old one it is made anew by the
/// mount's unit, as at boot.
async fn efs_utils_remount(mount: &str, staging: &str, how: &Mount) -> Result<(), Failed> {
    let unit = unit_name(Path::new(mount));
    let file = tool(&["systemctl", "show", "--property=FragmentPath", "--value", &unit], DETACH).await?;
    if file.trim().is_empty() {
        return Err(Failed::NoUnit(mount.to_owned()));
    }
    let tried = tried(how, staging, EACH).await;
    detach(staging).await;
    tried?;
    detach(mount).await;
    started(&unit, mount).await
}

/// Whether it answers when it is mounted at `staging`, where it is left.
async fn tried(Mount { what, fs_type, options }: &Mount, staging: &str, limit: Duration) -> Result<(), Failed> {
    tool(&["mkdir", "-p", staging], DETACH).await.map_err(|error| Failed::Staging(error.to_string()))?;
    tool(&["mount", "-t", fs_type, "-o", options, what, staging], limit).await?;
    tool(&["ls", "-A", staging], ANSWER).await.map(drop).map_err(|error| Failed::Silent(error.to_string()))
}

/// It fails when nothing is mounted there, which is as good.
async fn detach(point: &str) {
    drop(tool(&["umount", "--lazy", point], DETACH).await);
}

/// Has systemd mount it. Not by `restart`, which would restart whatever requires the mount.
async fn started(unit: &str, mount: &str) -> Result<(), Failed> {
    let end = Instant::now() + EACH;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        tool(&["systemctl", "start", unit], left).await.map_err(|error| Failed::NotAgain(error.to_string()))?;
        let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
        if mountinfo::find(&mountinfo, Path::new(mount)).is_some() {
            return Ok(());
        }
        // It had nothing to do: it has not seen yet that the old one is gone.
        if Instant::now() + PAUSE > end {
            return Err(Failed::NotAgain(format!("{unit} is started, and nothing is there")));
        }
        sleep(PAUSE).await;
    }
}

/// How it is mounted, by /etc/fstab, else by the unit that the bootstrap wrote in this boot.
async fn how(mount: &str) -> Option<Mount> {
    let command = ["findmnt", "--fstab", "--noheadings", "--raw", "--output", "SOURCE,FSTYPE,OPTIONS", mount];
    let line = tool(&command, DETACH).await.unwrap_or_default();
    let mut fields = line.split_whitespace().map(str::to_owned);
    if let (Some(what), Some(fs_type), Some(options)) = (fields.next(), fields.next(), fields.next()) {
        return Some(Mount { what, fs_type, options });
    }
    Mount::read(&fs::read_to_string(unit_file(Path::new(mount))).ok()?)
}
