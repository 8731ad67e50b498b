//! EMPTY until its own commit: replaced whole by whoever owns this file.

use crate::observation::*;
use crate::probes::Probe;
#[derive(Debug)]
pub struct Exec;
impl Probe for Exec {
    async fn attempt(&mut self, _s: &mut Stages) -> Outcome {
        Outcome::Pass
    }
    async fn overdue(&mut self, _s: &Stages) -> Finding {
        unreachable!()
    }
}
impl Exec {
    pub fn new(_n: &str, _: &crate::config::ExecProbe) -> Self {
        Self
    }
}
