//! EMPTY until its own commit: replaced whole by whoever owns this file.

use crate::observation::*;
use crate::probes::Probe;
#[derive(Debug)]
pub struct Wiring;
impl Probe for Wiring {
    async fn attempt(&mut self, _s: &mut Stages) -> Outcome {
        Outcome::Pass
    }
    async fn overdue(&mut self, _s: &Stages) -> Finding {
        unreachable!()
    }
}
impl Wiring {
    pub fn new(
        _: &crate::config::WiringProbe,
        _d: &std::path::Path,
        _s: Option<tokio::sync::watch::Receiver<std::sync::Arc<crate::snapshot::Snapshot>>>,
    ) -> Self {
        Self
    }
}
