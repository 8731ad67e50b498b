//! The task that looks every 5 s where this instance is being taken, as AWS recommends. Only on an EC2 instance.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Identity;
use super::imds::{Answer, Imds};
use super::lifecycle::Heard;
use crate::input::Input;
use crate::snapshot::Snapshot;

/// From the end of one look to the start of the next.
const POLL: Duration = Duration::from_secs(5);

/// Looks until cancelled, once the metadata service has answered at all.
pub async fn run(
    mut identities: watch::Receiver<Arc<Identity>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    inputs: mpsc::Sender<Input>,
    cancelled: CancellationToken,
) {
    tokio::select! {
        () = cancelled.cancelled() => return,
        known = identities.wait_for(|identity| identity.region.is_some()) => if known.is_err() { return },
    }
    let mut imds = Imds::new();
    loop {
        let heard = tokio::select! {
            () = cancelled.cancelled() => return,
            heard = look(&mut imds) => heard,
        };
        let known = snapshots.borrow().lifecycle.clone();
        let now = known.after(heard);
        if now != known && inputs.send(Input::Lifecycle(now)).await.is_err() {
            return;
        }
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep(POLL) => {}
        }
    }
}

async fn look(imds: &mut Imds) -> Heard {
    let target = imds.get("autoscaling/target-lifecycle-state").await;
    if target == Answer::Silent {
        // The others would only wait as long.
        return Heard { target, spot: Answer::Silent, rebalance: Answer::Silent };
    }
    let spot = imds.get("spot/instance-action").await;
    let rebalance = imds.get("events/recommendations/rebalance").await;
    Heard { target, spot, rebalance }
}
