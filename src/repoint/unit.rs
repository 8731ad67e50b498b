//! Making the app and the database proxy read what was written, by systemd. Each step has a deadline; together they stay
//! under the 30 s of the helper's unit.

use std::time::Duration;

use crate::config::{Apply, Format, Output, Repoint};
use crate::helper::tool::{Failed, tool};

/// The second nginx, in `packaging/systemd`.
const PROXY: &str = "dr-agent-database-proxy.service";

const ASK: Duration = Duration::from_secs(2);
/// Reading the configuration and starting new workers.
const RELOAD: Duration = Duration::from_secs(5);
/// The unit's `TimeoutStopSec` and a second.
const STOP: Duration = Duration::from_secs(6);
const APP: Duration = Duration::from_secs(10);

/// What a program that a person stopped may end with, which systemd counts as failed: SIGTERM and SIGINT, as a JVM says. Whose
/// start took too long may end so as well, with another result.
const STOPPED: [&str; 2] = ["ExecMainStatus=143", "ExecMainStatus=130"];

/// Who reads something else from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) app: bool,
    pub(super) proxy: bool,
}

impl Changes {
    /// Whoever has an output.
    pub(super) fn all(outputs: &[Output]) -> Self {
        let is_proxy = |output: &Output| matches!(output.format, Format::Proxy(_));
        Self { app: outputs.iter().any(|output| !is_proxy(output)), proxy: outputs.iter().any(is_proxy) }
    }
}

/// Tells them; `opens`: there is a writer. Gives what went wrong.
pub(super) async fn apply(repoint: &Repoint, changes: Changes, opens: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if changes.proxy {
        let told = if opens { reload_proxy().await } else { systemctl(&["stop", PROXY], STOP).await.map(drop) };
        problems.extend(told.err().map(|error| error.to_string()));
    }
    if changes.app {
        problems.extend(app(&repoint.apply, opens).await.err().map(|error| error.to_string()));
    }
    problems
}

async fn reload_proxy() -> Result<(), Failed> {
    if let Err(error) = systemctl(&["try-reload-or-restart", PROXY], RELOAD).await {
        // Its workers still hold sessions to the old writer.
        drop(systemctl(&["stop", PROXY], STOP).await);
        return Err(error);
    }
    // Not waited for: during a boot it starts after the gate, and the gate waits for this.
    systemctl(&["start", "--no-block", PROXY], ASK).await.map(drop)
}

/// `opens`: what failed without a writer may start now that there is one.
async fn app(apply: &Apply, opens: bool) -> Result<(), Failed> {
    let (verb, unit) = match apply {
        Apply::Reload(unit) => ("reload", unit),
        Apply::Restart(unit) => ("restart", unit),
        Apply::Nothing => return Ok(()),
    };
    let state = systemctl(&["show", "--property=LoadState,ActiveState,Result,ExecMainStatus", unit], ASK).await?;
    let has = |line: &str| state.lines().any(|found| found == line);
    let (failed, is_starting) = (has("ActiveState=failed"), has("ActiveState=activating"));
    let is_down = has("LoadState=loaded") && (failed || has("ActiveState=inactive"));
    if is_starting || verb == "restart" && !is_down || failed && opens {
        // Else its start limit, which is meant for what crashes, counts each of these and ends it for good.
        drop(systemctl(&["reset-failed", unit], ASK).await);
    }
    if is_starting {
        // It cannot be reloaded, and may have read what was there before, so it has to end. Its next start may wait for a
        // writer, and takes as long as it takes.
        systemctl(&["stop", unit], APP).await?;
        return systemctl(&["start", "--no-block", unit], ASK).await.map(drop);
    }
    if !is_down {
        return systemctl(&[verb, unit], APP).await.map(drop);
    }
    // What does not run reads the outputs when it starts, during a boot after the gate: so whether it does is its own.
    let was_stopped = has("Result=exit-code") && STOPPED.iter().any(|line| has(line));
    if failed && opens && !was_stopped {
        drop(systemctl(&["start", "--no-block", unit], ASK).await);
    }
    Ok(())
}

async fn systemctl(arguments: &[&str], limit: Duration) -> Result<String, Failed> {
    tool(&[&["systemctl"], arguments].concat(), limit).await
}
