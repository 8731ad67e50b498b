//! The task that asks the group, round after round, and knows the keys and the place of this instance in it. Members
//! that AWS has not named yet introduce themselves ([`super::guests`]).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::ask;
use super::guests::{Guests, Knocks};
use super::keys::{Keys, Unusable};
use super::membership::{self, Membership};
use super::view::{Me, Round};
use super::word::Place;
use crate::clock::BootTime;
use crate::identity::Identity;
use crate::input::Input;
use crate::probes::blocking::{FILE, Lane};
use crate::snapshot::Snapshot;
use crate::telemetry::{ErrorChain, event};

/// From the start of one round to the start of the next while nothing fails here.
const CALM: Duration = Duration::from_secs(5);

/// The same while something does.
const TROUBLE: Duration = Duration::from_secs(2);

/// The same while who owns the data hangs on what the members say.
const HURRY: Duration = Duration::from_millis(500);

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
    /// Where the members are that AWS has named.
    pub addresses: BTreeSet<IpAddr>,
}

/// Asks until cancelled. What cannot be read from the disk is tried again with the next round.
pub async fn run(
    state_dir: PathBuf,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut identities: watch::Receiver<Arc<Identity>>,
    knocks: Knocks,
    standing: watch::Sender<Arc<Standing>>,
    inputs: mpsc::Sender<Input>,
    cancelled: CancellationToken,
) {
    let (mut next, mut soonest) = (Instant::now(), Instant::now());
    let mut guests = Guests::default();
    let mut known = Known::default();
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep_until(next) => {}
            true = hurry(&mut snapshots, soonest) => {}
            // Whoever decides about authority in a boot needs the group's tags, and so its name.
            Ok(()) = identities.changed() => {}
        }
        let started = Instant::now();
        soonest = started + HURRY;
        let snapshot = Arc::clone(&snapshots.borrow());
        let (dir, key_file) = (state_dir.clone(), snapshot.config.key_file.clone());
        let read = LANE.run(move || (key_file.as_deref().map(Keys::read), membership::load(&dir)));
        tokio::select! {
            () = cancelled.cancelled() => return,
            read = timeout(FILE, read) => match read {
                Ok(Ok((keys, membership))) => known = Known::of(keys, membership),
                Ok(Err(_)) => return,
                // The disk hangs: what was read last is asked on.
                Err(_) => {}
            },
        }
        let Known { keys, problem, membership } = known.clone();
        let instance = snapshot.about.owner.instance.as_deref();
        let place = place(&identities.borrow(), membership.as_ref(), instance);
        // What is known of another group is of no use.
        let membership = membership.filter(|membership| place.group.as_ref() == Some(&membership.group));
        let addresses = membership.iter().flat_map(|known| &known.members).map(|member| member.address).collect();
        let now = Arc::new(Standing { keys, problem, place, addresses });
        if let Some(problem) = now.problem.as_deref().filter(|_| standing.borrow().problem != now.problem) {
            event::keys_unusable(problem);
        }
        standing.send_replace(Arc::clone(&now));

        let (Some(group), Some(instance)) = (now.place.group.as_deref(), instance) else {
            next = started + CALM;
            continue;
        };
        if let Some(membership) = &membership {
            guests.described(membership);
        }
        guests.knocked(knocks.take(), &now.addresses);
        let described = membership.iter().flat_map(|membership| membership.others(instance));
        let others: Vec<_> = described.chain(guests.members()).cloned().collect();
        let port = snapshot.config.listen.peer.port();
        let deployment = &snapshot.config.deployment;
        let (strangers, keys) = (guests.strangers(), now.keys.as_ref());
        let introductions = join_all(
            strangers
                .iter()
                .map(|&address| async move { ask::at(SocketAddr::new(address, port), deployment, keys?).await }),
        );
        let zone = now.place.zone.as_deref();
        let (heard, introduced) = if now.problem.is_some() {
            (ask::nobody(&others, zone), Vec::new())
        } else {
            tokio::join!(ask::round(&others, zone, port, deployment, keys), introductions)
        };
        let me = Me { deployment, region: snapshot.about.owner.region.as_deref(), group: Some(group) };
        for (address, word) in strangers.into_iter().zip(introduced) {
            guests.introduced(address, word.as_ref(), &me, instance, membership.as_ref());
        }
        let in_trouble = snapshot.components.iter().any(|(component, _)| component.is_failing_now());
        let least = Duration::from_secs_f64(f64::from(u32::try_from(others.len()).unwrap_or(u32::MAX)) / QUESTIONS);
        next = started + least.max(if in_trouble { TROUBLE } else { CALM });
        soonest = started + least.max(HURRY);
        let desired = membership.and_then(|membership| membership.desired);
        let round = Round { group: group.to_owned(), at: BootTime::now(), heard, desired };
        if inputs.send(Input::Round(round)).await.is_err() {
            return;
        }
    }
}

/// Waits until somebody hurries, and then until `soonest`; false when nobody will any more.
async fn hurry(snapshots: &mut watch::Receiver<Arc<Snapshot>>, soonest: Instant) -> bool {
    let hurries = |snapshot: &Arc<Snapshot>| snapshot.authority.as_deref().is_some_and(|said| said.decision.hurries);
    let is_open = snapshots.wait_for(hurries).await.is_ok();
    sleep_until(soonest).await;
    is_open
}

/// What was read from the disk last.
#[derive(Debug, Clone, Default)]
struct Known {
    keys: Option<Keys>,
    problem: Option<String>,
    membership: Option<Membership>,
}

impl Known {
    fn of(keys: Option<Result<Keys, Unusable>>, membership: io::Result<Option<Membership>>) -> Self {
        let (keys, problem) = match keys {
            None => (None, None),
            Some(Ok(keys)) => (Some(keys), None),
            Some(Err(error)) => (None, Some(ErrorChain(&error).to_string())),
        };
        let membership = membership.unwrap_or_else(|error| {
            event::membership_unreadable(&error);
            None
        });
        Self { keys, problem, membership }
    }
}

/// By who this instance is, else by what was known before the agent started.
fn place(identity: &Identity, membership: Option<&Membership>, instance: Option<&str>) -> Place {
    let own = membership.and_then(|membership| Some((membership, membership.member(instance?)?)));
    Place {
        group: identity.group.clone().or_else(|| own.map(|(membership, _)| membership.group.clone())),
        zone: identity.zone.clone().or_else(|| own.map(|(_, own)| own.zone.clone())),
    }
}
