//! From the file's tables to a [`Config`]: every default and every bound is here, and of the probes and of repointing in
//! [`probes`] and [`repoint`].

mod probes;
mod repoint;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

use super::raw::{Section, Source};
use super::{Authority, Config, Listen, PublicAddress, Region, address};
use crate::health::verdict::Policy;
use crate::replace::plan::ReplacePolicy;

/// The shape of file that this release reads.
const SCHEMA: u32 = 1;

pub(super) const STATE_DIR: &str = "/var/lib/dr-agent";
const PUBLIC: &str = "/run/dr-agent-http/public.sock";
const CONTROL: &str = "/run/dr-agent/control.sock";
const PEER_PORT: u16 = 8484;

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const LIMIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
const HOLD: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// While it waits for a decision it answers 503: Route 53 must not leave the region for that.
const BOOT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30);
/// The agent may answer `starting` for at most this long: by then a health check would have taken it out.
const START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(15);
/// A grant must outlive the replacement that it is for: the look with its round, and the call, take 10 s each at most.
const COOLDOWN: RangeInclusive<Duration> = Duration::from_secs(30)..=Duration::from_secs(86_400);

/// The configuration of `region` by the file's top table. What is wrong is reported to `source`; the result is only
/// good if nothing was.
pub(super) fn config<'a>(source: &'a Source<'a>, table: &'a DeTable<'a>, region: Option<&str>) -> Config {
    let mut top = Section::top(source, table);
    if top.number("schema", SCHEMA, 0..=u32::MAX) != SCHEMA {
        top.reject("schema", format!("this release reads schema {SCHEMA}"));
    }
    let deployment = top.read("deployment", deployment).unwrap_or_else(|| "default".to_owned());
    let home = top.string("home").map(str::to_owned);
    let key_file = top.read("key_file", address::absolute);
    let state_dir = top.read("state_dir", address::absolute).unwrap_or_else(|| PathBuf::from(STATE_DIR));

    let regions = regions(&mut top);
    let region = pick(&top, &regions, home.as_deref(), region);
    let own = region.as_ref().and_then(|region| regions.get(region)).cloned().unwrap_or_default();
    let standby = regions.len() > 1 && region.is_some() && region != home;

    let listen = listen(top.section("listen"));
    let mut probe = top.section("probe");
    let has_account = probe.has("database");
    let nginx = probes::nginx(probe.section("nginx"));
    let app = probes::app(probe.section("app"));
    let efs = probes::efs(probe.section("efs"), own.efs.clone(), standby);
    let writer_expected = regions.len() < 2 || !standby;
    let known = (region.is_some(), own.database.as_deref());
    let database = probes::database(probe.section("database"), &top, known, writer_expected);
    let host = probes::host(probe.section("host"), &state_dir);
    let hosts = own.url.as_deref().and_then(|url| address::site(url).ok()).into_iter();
    let hosts = hosts.chain(app.as_ref().and_then(|app| app.host.clone()));
    let wiring = probes::wiring(probe.section("wiring"), &nginx.url, hosts);
    let exec = probes::exec(&mut probe);
    probe.end();

    let partial = region.is_none() && !regions.is_empty();
    let policy = policy(top.section("verdict"), standby, partial);
    let mut metrics = top.section("metrics");
    let allow = metrics.strings("allow").unwrap_or_default();
    let metrics_allow = allow
        .into_iter()
        .filter_map(|text| address::network(text).map_err(|why| metrics.reject("allow", why)).ok())
        .collect();
    metrics.end();

    let authority = authority(top.section("authority"), &regions, key_file.is_some());
    let replace = replace(top.section("replace"), key_file.is_some());
    let repoint = repoint::repoint(top.section("repoint"), has_account);
    let mut cloudwatch = top.section("cloudwatch");
    let namespace = cloudwatch.read("namespace", namespace);
    let cloudwatch_is_on = cloudwatch.is_there();
    cloudwatch.end();
    top.end();

    Config {
        deployment,
        home,
        region,
        key_file,
        state_dir,
        listen,
        nginx,
        app,
        efs,
        database,
        host,
        wiring,
        exec,
        policy,
        replace,
        authority,
        repoint,
        metrics_allow,
        cloudwatch: cloudwatch_is_on.then(|| namespace.unwrap_or_else(|| "DrAgent".to_owned())),
        regions,
        digest: None,
    }
}

fn word(text: &str, longest: usize, also: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    if text.is_empty() || text.len() > longest || !text.chars().all(fits) {
        let also: Vec<_> = also.chars().map(|c| format!("`{c}`")).collect();
        return Err(format!("must be 1 to {longest} letters, digits, {}", also.join(", ")));
    }
    Ok(text.to_owned())
}

fn deployment(text: &str) -> Result<String, String> {
    word(text, 64, "_-.")
}

fn regions(top: &mut Section<'_>) -> BTreeMap<String, Region> {
    let mut regions = BTreeMap::new();
    for (name, mut section) in top.named_sections("region") {
        // The two words stand for no region where a region is named.
        if word(name, 32, "-").is_err() || ["none", "unchanged"].contains(&name) {
            top.reject("region", format!("`{name}` is not the name of a region, as in [region.ap-south-1]"));
        }
        let database = section.read("database", |text| address::host_and_port(text).map(|_| text.to_owned()));
        let efs = section.read("efs", |text| {
            let id = text.strip_prefix("fs-").filter(|id| id.len() >= 8 && id.chars().all(|c| c.is_ascii_hexdigit()));
            id.map(|_| text.to_owned())
                .ok_or_else(|| "must be a file system's id: `fs-` and 8 or more hexadecimal digits".to_owned())
        });
        let url = section.read("url", |text| address::site(text).map(|_| text.to_owned()));
        section.end();
        regions.insert(name.to_owned(), Region { database, efs, url });
    }
    if regions.len() > 2 {
        top.reject("region", format!("there are {} [region.*] tables: a deployment has one or two", regions.len()));
    }
    regions
}

/// The region this instance is in, checked against what the file knows.
fn pick(
    top: &Section<'_>,
    regions: &BTreeMap<String, Region>,
    home: Option<&str>,
    region: Option<&str>,
) -> Option<String> {
    let tables = || regions.keys().map(|name| format!("[region.{name}]")).collect::<Vec<_>>().join(" and ");
    match home {
        None if regions.len() > 1 => {
            top.reject("home", "with two regions, say which one has Route 53's PRIMARY record");
        }
        Some(home) if !regions.is_empty() && !regions.contains_key(home) => {
            top.reject("home", format!("there is no table [region.{home}]; the file has {}", tables()));
        }
        _ => {}
    }
    match region {
        Some(region) if !regions.is_empty() && !regions.contains_key(region) => {
            top.reject(
                "region",
                format!("this instance is in `{region}` and the file has {}: add [region.{region}]", tables()),
            );
            None
        }
        // With only one in the file there is nothing to choose from.
        None if regions.len() == 1 => regions.keys().next().cloned(),
        region => region.map(str::to_owned),
    }
}

fn listen(mut section: Section<'_>) -> Listen {
    let public = section.read("public", address::public).unwrap_or_else(|| PublicAddress::Unix(PUBLIC.into()));
    let peer = section.read("peer", |text| {
        text.parse().map_err(|_| "must be an address with a port: \"[::]:8484\" or \"10.0.0.5:8484\"".to_owned())
    });
    let peer = peer.unwrap_or_else(|| SocketAddr::from(([0u16; 8], PEER_PORT)));
    let control = section.read("control", address::absolute).unwrap_or_else(|| CONTROL.into());
    section.end();
    Listen { public, peer, control }
}

fn policy(mut section: Section<'_>, standby: bool, partial: bool) -> Policy {
    let policy = Policy {
        start_limit: section.duration("start_limit", Duration::from_secs(15), START),
        hold_database: section.duration("hold_database", Duration::from_secs(150), HOLD),
        hold_efs: section.duration("hold_efs", Duration::from_secs(60), HOLD),
        hold_capacity: section.duration("hold_capacity", Duration::from_secs(60), HOLD),
        reopen: section.duration("reopen", Duration::from_secs(60), HOLD),
        standby,
        partial,
    };
    section.end();
    policy
}

fn authority(mut section: Section<'_>, regions: &BTreeMap<String, Region>, has_keys: bool) -> Option<Authority> {
    let mut order = None;
    if let Some(list) = section.strings("regions") {
        let tables: Vec<&str> = regions.keys().map(String::as_str).collect();
        let mut sorted = list.clone();
        sorted.sort_unstable();
        if let [first, second] = list[..] {
            if sorted == tables {
                order = Some([first.to_owned(), second.to_owned()]);
            } else {
                let tables = if tables.is_empty() { "none".to_owned() } else { tables.join(", ") };
                section.reject("regions", format!("must name the regions that have a [region.*] table: {tables}"));
            }
        } else {
            section.reject("regions", "must name exactly two regions");
        }
    } else if section.is_there() && !section.has("regions") {
        section.reject("regions", "name both regions; their order can never be changed afterwards");
    }
    if order.is_some() && !has_keys {
        section.reject("regions", "two regions need `key_file`: without keys neither believes what the other says");
    }
    let poll = section.duration("poll", Duration::from_secs(5), INTERVAL);
    let boot_wait = section.duration("boot_wait", Duration::from_secs(10), BOOT);
    let takeover_wait = section.duration("takeover_wait", Duration::from_secs(15), HOLD);
    if takeover_wait < 2 * poll {
        section.reject("takeover_wait", "must be at least twice `poll`: the other region closes within two rounds");
    }
    section.end();
    Some(Authority { regions: order?, poll, boot_wait, takeover_wait })
}

fn namespace(text: &str) -> Result<String, String> {
    let name = word(text, 255, "_-./#:")?;
    if name.starts_with("AWS/") { Err("must not begin with `AWS/`: those are AWS's own".to_owned()) } else { Ok(name) }
}

fn replace(mut section: Section<'_>, has_keys: bool) -> ReplacePolicy {
    let enforce = section.word("mode", &["observe", "enforce"]) == "enforce";
    if enforce && !has_keys {
        section.reject("mode", "needs `key_file`: without keys nobody can prove to be of the group and agree");
    }
    let policy = ReplacePolicy {
        enforce,
        sustain: section.duration("sustain", Duration::from_secs(300), LIMIT),
        cooldown: section.duration("cooldown", Duration::from_secs(900), COOLDOWN),
    };
    section.end();
    policy
}
