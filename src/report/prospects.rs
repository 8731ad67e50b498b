//! What a configuration makes work, and what it lacks.

use serde::{Deserialize, Serialize};

use crate::config::Config;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub what: String,
    pub costs: String,
    pub fix: String,
}

pub(super) fn works(config: &Config) -> Vec<String> {
    let mut watched = vec!["nginx"];
    watched.extend(config.app.as_ref().map(|_| "app"));
    let mut shared = Vec::new();
    shared.extend(config.efs.as_ref().map(|_| "efs"));
    shared.extend(config.database.as_ref().map(|_| "database"));
    watched.extend(&shared);
    watched.push("host");
    let region = if shared.is_empty() {
        "`/health/region` for Route 53: from whether anybody can serve, nothing else".to_owned()
    } else {
        format!("`/health/region` for Route 53: from {}, and whether anybody can serve", shared.join(" and "))
    };
    vec![format!("`/health/instance` for the load balancer: from {}", watched.join(", ")), region]
}

/// In the order in which to fix it.
pub(super) fn missing(config: &Config) -> Vec<Missing> {
    let mut list = Vec::new();
    let mut lacks = |what: &str, costs: &str, fix: &str| {
        list.push(Missing { what: what.to_owned(), costs: costs.to_owned(), fix: fix.to_owned() });
    };
    if config.wiring.hosts.is_empty() {
        lacks(
            "no configuration file is in force",
            "built-in defaults apply, so only nginx and the host are watched, and nobody looks whether nginx hands the health paths to the agent",
            "edit /etc/dr-agent/agent.toml, then `dr-agent config check`",
        );
    }
    let region_unknown = config.region.is_none() && !config.regions.is_empty();
    if region_unknown {
        lacks(
            "the region of this instance is not known",
            "the database's endpoint and the expected file system are not known either, so neither is checked",
            "write its name to /etc/dr-agent/region, or allow the instance metadata service (hop limit, IMDSv2)",
        );
    }
    if config.app.is_none() {
        lacks(
            "no [probe.app]",
            "a site that fails behind a well nginx looks healthy",
            "add the table, with the site's `host`",
        );
    }
    if config.efs.is_none() {
        lacks(
            "no [probe.efs]",
            "a shared mount that hangs or is not there is not seen",
            "add the table, with the mount's `path`, if there is one",
        );
    }
    if config.database.is_none() && !region_unknown {
        lacks(
            "no [probe.database]",
            "a database that fails is not seen",
            "add the table, with `user` and `password_file`, and the endpoint in [region.NAME]",
        );
    }
    if config.regions.len() < 2 || config.database.is_none() {
        lacks(
            "with one region, or without a database, promotion and fencing are off",
            "`/health/promoted` answers 503, and nothing takes over from another region",
            "nothing to do if that is meant",
        );
    } else if config.authority.is_none() {
        lacks(
            "no [authority]",
            "nobody notices a promotion, fences the region that was superseded, or repoints the app",
            "add the table with `regions`, in an order that never changes, then `dr-agent authority init`",
        );
    }
    list
}
