//! What the configuration says of authority.

use super::super::facts::Place;
use crate::config::{Authority, Config, HostPort, Region};
use crate::database::Endpoint;

/// What the task needs of it; another one means another task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) authority: Authority,
    pub(super) place: Place,
    pub(super) deployment: String,
    pub(super) own: Endpoint,
    pub(super) other: Option<Endpoint>,
    pub(super) url: Option<String>,
    pub(super) has_outputs: bool,
}

impl Setup {
    pub(super) fn of(config: &Config) -> Option<Self> {
        let authority = config.authority.clone()?;
        let region = config.region.clone()?;
        let other = authority.regions.iter().find(|name| **name != region)?.clone();
        let place = Place { region, other, home: config.home.clone()?, regions: authority.regions.clone() };
        let own = Endpoint::from(config.database.as_ref()?);
        let across = config.regions.get(&place.other);
        let at = |HostPort { host, port }| Endpoint { host, port, ..own.clone() };
        Some(Self {
            other: across.and_then(Region::database_at).map(at),
            url: across.and_then(|region| region.url.clone()),
            own: own.clone(),
            authority,
            place,
            deployment: config.deployment.clone(),
            has_outputs: !config.repoint.outputs.is_empty(),
        })
    }
}
