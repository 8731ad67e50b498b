//! EMPTY until its own commit: replaced whole by whoever owns this file.

use crate::observation::*;
use crate::probes::Probe;
#[derive(Debug)]
pub struct Nginx;
impl Probe for Nginx {
    async fn attempt(&mut self, _s: &mut Stages) -> Outcome {
        Outcome::Pass
    }
    async fn overdue(&mut self, _s: &Stages) -> Finding {
        unreachable!()
    }
}
impl Nginx {
    pub fn new(_: &crate::config::NginxProbe) -> Self {
        Self
    }
}
