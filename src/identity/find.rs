//! The task that finds out who this instance is: from the metadata service and, for the group, from AWS where that has
//! no tags. Asks until it knows the group, less and less often.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Identity;
use crate::aws::{Aws, Failure, pace};
use crate::group::membership;
use crate::probes::blocking::{FILE, Lane};
use crate::telemetry::event;

/// The first wait on an instance that is known to be one, while the metadata service or AWS does not answer.
const SOON: Duration = Duration::from_secs(5);

/// The first wait where there is no sign of EC2.
const ELSEWHERE: Duration = Duration::from_secs(60);

/// The wait after AWS said that this instance is in no group: it may be attached to one.
const ALONE: Duration = Duration::from_secs(600);

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// Finds it and tells whoever watches, until cancelled. `instance` and `region` are what the agent knows at its start, if
/// anything; the firmware and the metadata service know better.
pub async fn run(
    aws: Aws,
    instance: Option<String>,
    region: Option<String>,
    state_dir: PathBuf,
    identities: watch::Sender<Arc<Identity>>,
    seed: String,
    cancelled: CancellationToken,
) {
    let mut failures = 0;
    let mut told = None;
    loop {
        let wait = tokio::select! {
            () = cancelled.cancelled() => return,
            wait = look(&aws, instance.as_deref(), region.as_deref(), &state_dir, &identities, &mut told) => wait,
        };
        let wait = match wait {
            Next::Done => {
                cancelled.cancelled().await;
                return;
            }
            Next::Alone => {
                failures = 0;
                pace::spread(ALONE, 0, &seed)
            }
            Next::Again(first) => {
                failures += 1;
                pace::wait(first, failures - 1, &seed)
            }
        };
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep(wait) => {}
        }
    }
}

enum Next {
    Done,
    Alone,
    Again(Duration),
}

async fn look(
    aws: &Aws,
    known: Option<&str>,
    region: Option<&str>,
    state_dir: &Path,
    identities: &watch::Sender<Arc<Identity>>,
    told: &mut Option<&'static str>,
) -> Next {
    let mut found = Identity::from_imds().await;
    found.instance = super::instance().or(found.instance).or_else(|| known.map(str::to_owned));
    let is_sure = found.group.is_some();
    if let (Some(instance), None) = (&found.instance, &found.group) {
        // What was known before the agent started again, until AWS is heard: it may have been attached to another group.
        let dir = state_dir.to_owned();
        let read = timeout(FILE, LANE.run(move || membership::load(&dir))).await;
        let kept = read.ok().and_then(Result::ok).and_then(Result::ok).flatten();
        found.group = kept.filter(|kept| kept.member(instance).is_some()).map(|kept| kept.group);
    }
    tell(identities, &found);
    if is_sure {
        return Next::Done;
    }
    let region = found.region.clone().or_else(|| region.map(str::to_owned));
    let (Some(instance), Some(region)) = (found.instance.clone(), region) else {
        return Next::Again(if found == Identity::default() { ELSEWHERE } else { SOON });
    };
    match by_aws(aws, &region, &instance).await {
        Ok(Some(group)) => {
            found.group = Some(group);
            tell(identities, &found);
            Next::Done
        }
        Ok(None) => Next::Alone,
        Err(failure) => {
            if told.replace(failure.kind.name()) != Some(failure.kind.name()) {
                event::group_unknown(&failure.words());
            }
            Next::Again(SOON)
        }
    }
}

/// The group by Auto Scaling, else by the tag that it sets, for a role that may ask one of them only.
async fn by_aws(aws: &Aws, region: &str, instance: &str) -> Result<Option<String>, Failure> {
    match aws.group_of(region, instance).await {
        Ok(group) => Ok(group),
        Err(_) => aws.group_by_tag(region, instance).await,
    }
}

fn tell(identities: &watch::Sender<Arc<Identity>>, found: &Identity) {
    identities.send_if_modified(|known| {
        // A metadata service that falls silent takes nothing back.
        let now = Identity {
            instance: found.instance.clone().or_else(|| known.instance.clone()),
            region: found.region.clone().or_else(|| known.region.clone()),
            zone: found.zone.clone().or_else(|| known.zone.clone()),
            group: found.group.clone().or_else(|| known.group.clone()),
        };
        let changed = **known != now;
        if changed {
            *known = Arc::new(now);
        }
        changed
    });
}
