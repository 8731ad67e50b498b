//! EMPTY until its own commit: replaced whole by whoever owns this file.

use crate::observation::*;
use crate::probes::Probe;
#[derive(Debug)]
pub struct Efs;
impl Probe for Efs {
    async fn attempt(&mut self, _s: &mut Stages) -> Outcome {
        Outcome::Pass
    }
    async fn overdue(&mut self, _s: &Stages) -> Finding {
        unreachable!()
    }
}
impl Efs {
    pub fn new(_: &crate::config::EfsProbe, _d: &Context) -> Self {
        Self
    }
}

#[derive(Debug)]
pub struct Context {
    pub state_dir: std::path::PathBuf,
    pub instance: String,
    pub boot: String,
}
pub const CHILD_COMMAND: &str = "efs-child";
pub mod child {
    pub fn run(_a: impl Iterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
        std::process::ExitCode::SUCCESS
    }
}
