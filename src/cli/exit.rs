//! What a command ends with.

use std::process::ExitCode;

use crate::health::cause::Status;

/// What a command ends with. Listed in `--help` and the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    Ok = 0,
    Degraded = 1,
    Unhealthy = 2,
    Unknown = 3,
    Usage = 64,
    NotRunning = 69,
    Permission = 77,
    Configuration = 78,
}

pub(super) const EXIT_CODES: &str = "\
Exit codes:
   0  ok, or done
   1  degraded: it works, but something is not as it should be
   2  unhealthy: something is broken, or an answer is 503
   3  unknown: something could not be told
  64  wrong usage, or refused
  69  the agent is not running, or ended by itself
  77  no permission
  78  the configuration is bad";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Status> for Exit {
    fn from(status: Status) -> Self {
        match status {
            Status::Healthy => Self::Ok,
            Status::Degraded => Self::Degraded,
            Status::Unhealthy => Self::Unhealthy,
            Status::Unknown | Status::Starting => Self::Unknown,
        }
    }
}
