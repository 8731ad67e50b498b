//! One look at the AWS side: the metadata service, then every call that has no effect. Costs a second where nobody
//! answers, and nothing else waits for it.

use std::time::Duration;

use tokio::time::timeout;

use crate::aws::trial::Trial;
use crate::aws::{self, Aws};
use crate::clock;
use crate::config::Config;
use crate::identity;
use crate::identity::metadata::{self, Metadata};
use crate::report::Report;
use crate::report::aws::{self as told, BY_SCALING, Call, GROUP, INSTANCE, Known, LIFECYCLE, REGION, Seen, ZONE};

/// The metadata service, with room for one question that hangs.
const METADATA_LIMIT: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Debug)]
pub(in crate::cli) struct Look {
    metadata: Metadata,
    trial: Option<Trial>,
    known: Vec<Known>,
}

/// The metadata service's word.
pub(in crate::cli) async fn metadata() -> Metadata {
    let late = Metadata { silence: Some(metadata::Silence::Late), ..Metadata::default() };
    timeout(METADATA_LIMIT, metadata::ask()).await.unwrap_or(late)
}

/// Who this instance is, by all but AWS: instance, region, zone and group, each by the one who knows best.
pub(in crate::cli) fn known(metadata: &Metadata, live: Option<&Report>, config: Option<&Config>) -> Vec<Known> {
    let by_metadata = |value: &Option<String>| (value.clone(), "metadata service");
    let by_agent = |value: Option<String>| (value, "running agent");
    let heard = &metadata.identity;
    let best = [
        (
            INSTANCE,
            vec![
                (identity::instance(), "firmware"),
                by_metadata(&heard.instance),
                by_agent(live.and_then(|live| live.agent.instance.clone())),
            ],
        ),
        (
            REGION,
            vec![
                by_metadata(&heard.region),
                by_agent(live.and_then(|live| live.agent.region.clone())),
                (config.and_then(|config| config.region.clone()), "--region, or /etc/dr-agent/region"),
            ],
        ),
        (ZONE, vec![by_metadata(&heard.zone)]),
        (
            GROUP,
            vec![
                by_metadata(&heard.group),
                by_agent(live.and_then(|live| live.group.as_ref()).map(|group| group.name.clone())),
            ],
        ),
    ];
    let first = |(what, words): (&str, Vec<(Option<String>, &str)>)| {
        let (value, from) = words.into_iter().find_map(|(value, from)| Some((value?, from)))?;
        Some(Known { what: what.to_owned(), value, from: from.to_owned() })
    };
    best.into_iter().filter_map(first).collect()
}

/// What is known of `what`.
pub(in crate::cli) fn value<'a>(known: &'a [Known], what: &str) -> Option<&'a str> {
    known.iter().find(|known| known.what == what).map(|known| known.value.as_str())
}

/// Looks, within 11 s. AWS is asked only by what is an instance in a region.
pub(super) async fn look(heard: Option<Metadata>, live: Option<&Report>, config: &Config) -> Look {
    let metadata = match heard {
        Some(metadata) => metadata,
        None => metadata().await,
    };
    let mut known = known(&metadata, live, Some(config));
    let (Some(instance), Some(region)) = (value(&known, INSTANCE), value(&known, REGION)) else {
        return Look { metadata, trial: None, known };
    };
    let aws = Aws::default();
    let trial = Box::pin(aws.try_calls(region, instance, value(&known, GROUP), clock::wall())).await;
    let state = trial.look.iter().flat_map(|look| &look.members).find(|member| member.instance == instance);
    let state = state.map(|member| member.lifecycle.clone());
    let group = trial.group.clone().filter(|_| value(&known, GROUP).is_none());
    known.extend(group.map(|(group, action)| {
        let from = if action == aws::INSTANCES { BY_SCALING } else { "its tag" };
        Known { what: GROUP.to_owned(), value: group, from: from.to_owned() }
    }));
    known.extend(state.map(|state| Known { what: LIFECYCLE.to_owned(), value: state, from: BY_SCALING.to_owned() }));
    Look { metadata, trial: Some(trial), known }
}

impl Look {
    /// What it comes to, beside what the running agent tells.
    pub(super) fn told(self, live: Option<&Report>, config: &Config) -> told::Aws {
        let calls: Option<&[Call]> = live.map(|live| live.aws.as_ref().map_or(&[][..], |aws| &aws.calls));
        let firmware = identity::instance();
        let Self { metadata, trial, known } = self;
        let seen = Seen { metadata: &metadata, firmware: firmware.as_deref(), known, trial: trial.as_ref(), calls };
        told::Aws::of(seen, config)
    }
}
