//! EMPTY until its own commit: replaced whole by whoever owns this file.
use crate::snapshot::*;
use std::path::*;
use std::sync::Arc;
use tokio::sync::*;
use tokio_util::sync::CancellationToken;
pub struct Markers {
    pub fenced: bool,
    pub instance_closed: bool,
    pub region_closed: bool,
}
pub fn resume(_d: &Path) -> Markers {
    Markers { fenced: false, instance_closed: false, region_closed: false }
}
pub async fn run(_d: PathBuf, _s: watch::Receiver<Arc<Snapshot>>, _i: mpsc::Sender<Input>, c: CancellationToken) {
    c.cancelled().await
}
