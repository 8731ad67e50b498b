//! `dr-agent helper VERB`: what needs root, done for one request of the agent and told in a file. systemd starts it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::process::Command;
use tokio::runtime;
use tokio::time::timeout;

use super::{Exit, HelperVerb, render};
use crate::config::load;
use crate::replace::helper::{Done, Paths};
use crate::replace::ladder::Verb;

/// All steps together stay under the unit's 30 s.
const CHECK: Duration = Duration::from_secs(8);
const RESTART: Duration = Duration::from_secs(20);
const MOUNT: Duration = Duration::from_secs(12);
const ANSWER: Duration = Duration::from_secs(5);
const DETACH: Duration = Duration::from_secs(2);

/// Characters of a program's complaint that are kept.
const COMPLAINT: usize = 300;

/// Why a repair failed.
#[derive(Debug, Error)]
enum Failed {
    #[error("`{0}` cannot be run: {1}")]
    NotRun(String, String),
    #[error("`{0}` did not end within {1} s")]
    Late(String, u64),
    #[error("`{0}`: {1}")]
    Said(String, String),
    #[error("there is no [probe.efs] in the configuration")]
    NoMount,
    #[error("/etc/fstab has no line for `{0}`")]
    NoLine(String),
    #[error("it was mounted beside the old one and does not answer: {0}")]
    Silent(String),
    #[error("cannot make the staging directory: {0}")]
    Staging(String),
}

pub(super) fn run(config: Option<&Path>, verb: HelperVerb) -> Exit {
    let verb = match verb {
        HelperVerb::NginxRestart => Verb::NginxRestart,
        HelperVerb::EfsRemount => Verb::EfsRemount,
    };
    let config = load::at_start(config, super::region(None).as_deref()).config;
    let paths = Paths::of(&config.listen.control);
    let id = match paths.requested(verb) {
        Ok(id) => id,
        Err(error) => {
            render::errors(&[format!("there is no request: {error}")]);
            return Exit::Usage;
        }
    };
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return Exit::Unknown };
    let result = runtime.block_on(async {
        match verb {
            Verb::NginxRestart => nginx_restart().await,
            Verb::EfsRemount => {
                let mount = config.efs.as_ref().map(|efs| efs.path.display().to_string());
                efs_remount(&mount.ok_or(Failed::NoMount)?, &paths.staging().display().to_string()).await
            }
        }
    });
    // A program that hangs in the dead mount must not keep the result.
    runtime.shutdown_background();
    let done = Done { id, ok: result.is_ok(), error: result.as_ref().err().map(ToString::to_string) };
    if let Err(error) = paths.report(verb, &done) {
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

/// Not with a configuration that nginx would refuse: then it would be gone for good.
async fn nginx_restart() -> Result<(), Failed> {
    tool(&["nginx", "-t"], CHECK).await?;
    tool(&["systemctl", "restart", "nginx"], RESTART).await.map(drop)
}

/// Mounts it a second time, and puts that in the place of the old one only if it answers: an open port proves a kernel,
/// not a server.
async fn efs_remount(mount: &str, staging: &str) -> Result<(), Failed> {
    let line =
        tool(&["findmnt", "--fstab", "--noheadings", "--raw", "--output", "SOURCE,FSTYPE,OPTIONS", mount], DETACH)
            .await
            .map_err(|_| Failed::NoLine(mount.to_owned()))?;
    let mut fields = line.split_whitespace();
    let (Some(source), Some(fs_type), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(Failed::NoLine(mount.to_owned()));
    };
    tool(&["mkdir", "-p", staging], DETACH).await.map_err(|error| Failed::Staging(error.to_string()))?;
    let mounted = tool(&["mount", "-t", fs_type, "-o", options, source, staging], MOUNT).await;
    let answers = match mounted {
        Ok(_) => tool(&["ls", "-A", staging], ANSWER).await.map_err(|error| Failed::Silent(error.to_string())),
        Err(error) => Err(error),
    };
    let replaced = match answers {
        Ok(_) => {
            // It fails when nothing is mounted there, which is as good.
            drop(tool(&["umount", "--lazy", mount], DETACH).await);
            tool(&["mount", "--bind", staging, mount], DETACH).await.map(drop)
        }
        Err(error) => Err(error),
    };
    // What is bound elsewhere stays there.
    drop(tool(&["umount", "--lazy", staging], DETACH).await);
    replaced
}

/// Runs a program and gives what it wrote; it is killed at its deadline.
async fn tool(command: &[&str], limit: Duration) -> Result<String, Failed> {
    let name = command.join(" ");
    let Some((program, arguments)) = command.split_first() else { return Ok(String::new()) };
    let mut process = Command::new(program);
    process.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(limit, process.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(Failed::NotRun(name, error.to_string())),
        Err(_) => return Err(Failed::Late(name, limit.as_secs())),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(COMPLAINT).collect();
    Err(Failed::Said(name, if said.is_empty() { output.status.to_string() } else { said }))
}
