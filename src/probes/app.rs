//! EMPTY until its own commit: replaced whole by whoever owns this file.

use crate::observation::*;
use crate::probes::Probe;
#[derive(Debug)]
pub struct App;
impl Probe for App {
    async fn attempt(&mut self, _s: &mut Stages) -> Outcome {
        Outcome::Pass
    }
    async fn overdue(&mut self, _s: &Stages) -> Finding {
        unreachable!()
    }
}
impl App {
    pub fn new(_: &crate::config::AppProbe) -> Self {
        Self
    }
}
