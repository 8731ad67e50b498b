//! The task that asks the group, round after round, and knows the keys and the place of this instance in it.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ask;
use super::keys::Keys;
use super::membership::{self, Membership};
use super::view::Round;
use super::word::Place;
use crate::clock::BootTime;
use crate::input::Input;
use crate::probes::blocking::Lane;
use crate::snapshot::Snapshot;
use crate::telemetry::{ErrorChain, event};

/// From the start of one round to the start of the next while nothing fails here.
const CALM: Duration = Duration::from_secs(5);

/// The same while something does.
const TROUBLE: Duration = Duration::from_secs(2);

/// Questions a second, so that a large group does not keep itself busy: above 40 members a round in trouble takes longer.
const QUESTIONS: f64 = 20.0;

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// What other tasks know of this instance's place among its peers.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// `None` without a key file, or while it cannot be used.
    pub keys: Option<Keys>,
    /// Why a key file that is configured is not used.
    pub problem: Option<String>,
    pub place: Place,
}

/// Asks until cancelled. What cannot be read from the disk is tried again with the next round.
pub async fn run(
    state_dir: PathBuf,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    standing: watch::Sender<Arc<Standing>>,
    inputs: mpsc::Sender<Input>,
    cancelled: CancellationToken,
) {
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep_until(next) => {}
        }
        let started = Instant::now();
        let snapshot = Arc::clone(&snapshots.borrow());
        let (dir, key_file) = (state_dir.clone(), snapshot.config.key_file.clone());
        let read = LANE.run(move || (key_file.as_deref().map(Keys::read), membership::load(&dir)));
        let (keys, membership) = tokio::select! {
            () = cancelled.cancelled() => return,
            read = read => match read {
                Ok(read) => read,
                Err(_) => return,
            },
        };
        let (keys, problem) = match keys {
            None => (None, None),
            Some(Ok(keys)) => (Some(keys), None),
            Some(Err(error)) => (None, Some(ErrorChain(&error).to_string())),
        };
        let membership = membership.unwrap_or_else(|error| {
            event::membership_unreadable(&error);
            None
        });
        let instance = snapshot.about.owner.instance.as_deref();
        let place = membership.as_ref().map(|membership| place(membership, instance)).unwrap_or_default();
        let now = Arc::new(Standing { keys, problem, place });
        if let Some(problem) = now.problem.as_deref().filter(|_| standing.borrow().problem != now.problem) {
            event::keys_unusable(problem);
        }
        standing.send_replace(Arc::clone(&now));

        let (Some(membership), Some(instance)) = (membership, instance) else {
            next = started + CALM;
            continue;
        };
        let others: Vec<_> = membership.others(instance).cloned().collect();
        let port = snapshot.config.listen.peer.port();
        let deployment = &snapshot.config.deployment;
        let heard = ask::round(&others, now.place.zone.as_deref(), port, deployment, now.keys.as_ref()).await;
        let in_trouble = snapshot.components.iter().any(|(component, _)| component.is_failing_now());
        let least = Duration::from_secs_f64(f64::from(u32::try_from(others.len()).unwrap_or(u32::MAX)) / QUESTIONS);
        next = started + least.max(if in_trouble { TROUBLE } else { CALM });
        let round = Round { group: membership.group, at: BootTime::now(), heard };
        if inputs.send(Input::Round(round)).await.is_err() {
            return;
        }
    }
}

fn place(membership: &Membership, instance: Option<&str>) -> Place {
    let own = instance.and_then(|instance| membership.member(instance));
    Place { group: own.map(|_| membership.group.clone()), zone: own.map(|own| own.zone.clone()) }
}
