//! EMPTY until its own commit: replaced whole by whoever owns this file.
use crate::clock::BootTime;
use crate::snapshot::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::*;
use tokio_util::sync::CancellationToken;
pub const LEAST_BUDGET: Duration = Duration::from_secs(10);
pub fn ready() {}
pub fn stopping() {}
pub fn reloading() {}
pub async fn run(
    _t: Vec<(String, Duration, watch::Receiver<BootTime>)>,
    _s: watch::Receiver<Arc<Snapshot>>,
    c: CancellationToken,
) {
    c.cancelled().await
}
