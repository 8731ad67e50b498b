//! Programs that root's commands run, each with a deadline.

use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::process::Command;
use tokio::time::timeout;

/// Characters of a program's complaint that are kept.
const COMPLAINT: usize = 300;

/// Why a program did not do what it should.
#[derive(Debug, Error)]
pub enum Failed {
    #[error("`{0}` cannot be run: {1}")]
    NotRun(String, String),
    #[error("`{0}` did not end within {1} s")]
    Late(String, u64),
    #[error("`{0}`: {1}")]
    Said(String, String),
}

/// Runs a program and gives what it wrote; it is killed at its deadline, with what it started.
///
/// # Errors
/// When it cannot be run, does not end in time, or ends with another code than 0.
pub async fn tool(command: &[&str], limit: Duration) -> Result<String, Failed> {
    let name = command.join(" ");
    let Some((program, arguments)) = command.split_first() else { return Ok(String::new()) };
    let mut process = Command::new(program);
    process.args(arguments).env("LC_ALL", "C.UTF-8").kill_on_drop(true);
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // `mount` and its like leave the work to another program, which must not outlive them.
    process.process_group(0);
    let child = process.spawn().map_err(|error| Failed::NotRun(name.clone(), error.to_string()))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut output = pin!(child.wait_with_output());
    let output = match timeout(limit, &mut output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(Failed::NotRun(name, error.to_string())),
        Err(_) => {
            // It fails when nobody is left, which is what it is for.
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            return Err(Failed::Late(name, limit.as_secs()));
        }
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(COMPLAINT).collect();
    Err(Failed::Said(name, if said.is_empty() { output.status.to_string() } else { said }))
}
