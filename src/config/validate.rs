//! From the file's tables to a [`Config`]: every default and every bound is here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::raw::{Section, Source};
use super::{
    AppProbe, Config, DatabaseProbe, EfsProbe, ExecProbe, HostProbe, HttpUrl, Listen, NginxProbe, PublicAddress,
    Region, WiringProbe, address,
};
use crate::health::component::Schedule;
use crate::health::verdict::Policy;
use crate::replace::plan::ReplacePolicy;

/// The shape of file that this release reads.
const SCHEMA: u32 = 1;

pub(super) const STATE_DIR: &str = "/var/lib/dr-agent";
const PUBLIC: &str = "/run/dr-agent-http/public.sock";
const CONTROL: &str = "/run/dr-agent/control.sock";
const PEER_PORT: u16 = 8484;
const NGINX_URL: &str = "http://127.0.0.1/health/nginx";
const NGINX_PID_FILE: &str = "/run/nginx.pid";
const APP_URL: &str = "http://127.0.0.1/";
const MYSQL_PORT: u16 = 3306;

/// Names that a custom probe must not take: they mean something else in logs, metrics and history.
const TAKEN: [&str; 8] = ["nginx", "app", "efs", "database", "host", "wiring", "instance", "region"];

/// Top-level keys that are read and checked, and that this release does nothing with.
pub(super) const NOT_ACTED_ON: [&str; 2] = ["authority", "repoint"];

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
const LIMIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
const HOLD: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// The agent may answer `starting` for at most this long: by then a health check would have taken it out.
const START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(15);
/// A grant must outlive the replacement that it is for: the look, the round and the call take half a minute at most.
const COOLDOWN: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(86_400);
const TIMES: RangeInclusive<u32> = 1..=100;

const fn schedule_of(interval: u64, timeout: u64, fast: Option<u64>, fall: u32, rise: u32) -> Schedule {
    Schedule {
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        fast_interval: match fast {
            Some(fast) => Some(Duration::from_millis(fast)),
            None => None,
        },
        fall,
        rise,
    }
}

const PAGE: Schedule = schedule_of(2_000, 1_000, Some(500), 2, 2);
// A hang falls at once, whatever `fall` says.
const EFS: Schedule = schedule_of(4_000, 3_000, None, 2, 3);
const DATABASE: Schedule = schedule_of(2_000, 1_500, Some(1_000), 3, 3);
const LOCAL: Schedule = schedule_of(10_000, 5_000, Some(2_000), 2, 2);
const WIRING: Schedule = schedule_of(30_000, 5_000, Some(5_000), 2, 1);

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
    let nginx = nginx(probe.section("nginx"));
    let app = app(probe.section("app"));
    let efs = efs(probe.section("efs"), own.efs.clone(), standby);
    let writer_expected = regions.len() < 2 || !standby;
    let known = (region.is_some(), own.database.as_deref());
    let database = database(probe.section("database"), &top, known, writer_expected);
    let host = host(probe.section("host"), &state_dir);
    let hosts = own.url.as_deref().and_then(|url| address::site(url).ok()).into_iter();
    let hosts = hosts.chain(app.as_ref().and_then(|app| app.host.clone()));
    let wiring = wiring(probe.section("wiring"), &nginx.url, hosts);
    let exec = exec(&mut probe);
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

    authority(top.section("authority"), &regions);
    let replace = replace(top.section("replace"), key_file.is_some());
    repoint(top.section("repoint"));
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
        metrics_allow,
        cloudwatch: cloudwatch_is_on.then(|| namespace.unwrap_or_else(|| "DrAgent".to_owned())),
        regions,
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
        if word(name, 32, "-").is_err() {
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

/// `interval`, `timeout`, `fast_interval`, `fall`, `rise`.
fn schedule(section: &mut Section<'_>, default: Schedule) -> Schedule {
    let interval = section.duration("interval", default.interval, INTERVAL);
    let timeout = section.duration("timeout", default.timeout, TIMEOUT);
    shorter(section, ("timeout", timeout), ("interval", interval));
    let fast_interval = section.optional_duration("fast_interval", INTERVAL);
    if fast_interval.is_some_and(|fast| fast > interval) {
        section.reject("fast_interval", format!("must not be longer than `{}`", section.name("interval")));
    }
    let fall = section.number("fall", default.fall, TIMES);
    let rise = section.number("rise", default.rise, TIMES);
    let fast_interval = fast_interval.or(default.fast_interval).map(|fast| fast.min(interval));
    Schedule { interval, timeout, fast_interval, fall, rise }
}

fn shorter(section: &Section<'_>, short: (&str, Duration), long: (&str, Duration)) {
    if short.1 < long.1 {
        return;
    }
    let show = super::raw::show_duration;
    if section.has(short.0) {
        let name = section.name(long.0);
        section.reject(short.0, format!("must be shorter than `{name}` ({}): lower it or raise that", show(long.1)));
    } else {
        let name = section.name(short.0);
        section.reject(
            long.0,
            format!("must be longer than `{name}` ({} by default): raise it or lower that", show(short.1)),
        );
    }
}

/// An `http://` URL, or the built-in one.
fn url(section: &mut Section<'_>, default: &str) -> HttpUrl {
    let given = section.read("url", HttpUrl::parse);
    // The built-in URLs parse: a test reads them all.
    given.or_else(|| HttpUrl::parse(default).ok()).unwrap_or_else(|| HttpUrl {
        text: String::new(),
        host: String::new(),
        port: 0,
        path: String::new(),
    })
}

fn nginx(mut section: Section<'_>) -> NginxProbe {
    let schedule = schedule(&mut section, PAGE);
    let url = url(&mut section, NGINX_URL);
    if url.address().is_none() {
        section.reject("url", "must have a numeric address: `http://127.0.0.1/health/nginx`, with nginx's own port");
    }
    let pid_file = section.read("pid_file", address::absolute).unwrap_or_else(|| NGINX_PID_FILE.into());
    section.end();
    NginxProbe { schedule, url, pid_file }
}

fn app(mut section: Section<'_>) -> Option<AppProbe> {
    if !section.is_there() {
        return None;
    }
    let schedule = schedule(&mut section, PAGE);
    let url = url(&mut section, APP_URL);
    if url.path.starts_with("/health/") {
        section.reject("url", "must not ask the agent's own `/health/` paths: name a page of the site");
    }
    let host = section.read("host", address::host_name);
    let status = section.read("status", statuses).unwrap_or_else(|| vec![(200, 399)]);
    let body = section.string("body").map(str::to_owned);
    if body.as_deref() == Some("") {
        section.reject("body", "must not be empty: remove it to accept any page");
    }
    let latency_limit = section.optional_duration("latency_limit", LIMIT);
    section.end();
    Some(AppProbe { schedule, url, host, status, body, latency_limit })
}

/// `200-399` or `200, 301-302`.
fn statuses(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (low.trim().parse::<u16>().ok()?, high.trim().parse::<u16>().ok()?);
        ((100..=599).contains(&low) && (low..=599).contains(&high)).then_some((low, high))
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    ranges.ok_or_else(|| "must be status codes and ranges: \"200-399\" or \"200, 301-302\"".to_owned())
}

fn efs(mut section: Section<'_>, file_system: Option<String>, read_only: bool) -> Option<EfsProbe> {
    if !section.is_there() {
        return None;
    }
    let schedule = schedule(&mut section, EFS);
    if !section.has("path") {
        section.reject("path", "say where the file system is mounted: path = \"/mnt/efs\"");
    }
    let path = section.read("path", address::absolute).unwrap_or_default();
    if path == Path::new("/") {
        section.reject("path", "must be the mount point of the shared file system, not the root");
    }
    let types = section.strings("types").map(|types| types.into_iter().map(str::to_owned).collect());
    let types: Vec<_> = types.unwrap_or_else(|| vec!["nfs4".to_owned(), "nfs".to_owned()]);
    if types.is_empty() {
        section.reject("types", "must name at least one file system type");
    }
    let latency_limit = section.duration("latency_limit", Duration::from_secs(1), LIMIT);
    section.end();
    Some(EfsProbe { schedule, path, file_system, types, read_only, latency_limit })
}

/// `known`: whether the region is known, and its endpoint.
fn database<'a>(
    mut section: Section<'a>,
    top: &Section<'a>,
    known: (bool, Option<&str>),
    writer_expected: bool,
) -> Option<DatabaseProbe> {
    if !section.is_there() {
        return None;
    }
    let schedule = schedule(&mut section, DATABASE);
    let fresh_interval = section.duration("fresh_interval", Duration::from_secs(10), INTERVAL);
    let fresh_timeout = section.duration("fresh_timeout", Duration::from_secs(5), TIMEOUT);
    shorter(&section, ("fresh_timeout", fresh_timeout), ("fresh_interval", fresh_interval));
    let user = section.string("user").map(str::to_owned);
    if user.as_deref().is_none_or(str::is_empty) {
        section.reject("user", "name the agent's database account: user = \"dr_agent\"");
    }
    let password_file = section.read("password_file", address::absolute);
    let tls_ca = section.read("tls_ca", address::absolute);
    let latency_limit = section.duration("latency_limit", Duration::from_millis(500), LIMIT);
    let lag_limit = section.duration("lag_limit", Duration::from_secs(60), LIMIT);
    section.end();
    let endpoint = match known {
        (_, Some(endpoint)) => address::host_and_port(endpoint).ok(),
        (true, None) => {
            top.reject("region", "with [probe.database] the region's table needs `database = \"HOST:3306\"`");
            None
        }
        (false, None) if top.has("region") => None,
        (false, None) => {
            top.reject("region", "[probe.database] needs a table [region.NAME] with `database = \"HOST:3306\"`");
            None
        }
    };
    // Without a region there is no endpoint to ask, and so no component.
    let (host, port) = endpoint?;
    Some(DatabaseProbe {
        schedule,
        fresh_interval,
        fresh_timeout,
        host,
        port: port.unwrap_or(MYSQL_PORT),
        user: user.unwrap_or_default(),
        password_file,
        tls_ca,
        latency_limit,
        lag_limit,
        writer_expected,
    })
}

fn host(mut section: Section<'_>, state_dir: &Path) -> HostProbe {
    let schedule = schedule(&mut section, LOCAL);
    let mut paths = vec![PathBuf::from("/"), state_dir.to_owned()];
    if let Some(given) = section.strings("paths") {
        let read = |text| address::absolute(text).map_err(|why| section.reject("paths", why)).ok();
        paths = given.into_iter().filter_map(read).collect();
        if paths.is_empty() {
            section.reject("paths", "must name at least one local directory");
        }
    }
    // Each once: it is a label in the metrics.
    let mut seen = BTreeSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    let low_percent = section.percent("low", 10.0);
    let full_percent = section.percent("full", 1.0);
    if full_percent > low_percent {
        let key = if section.has("full") { "full" } else { "low" };
        section.reject(key, format!("`full` ({full_percent}%) must not be above `low` ({low_percent}%)"));
    }
    let pressure_percent = section.percent("pressure", 20.0);
    section.end();
    HostProbe { schedule, paths, low_percent, full_percent, pressure_percent }
}

fn wiring(mut section: Section<'_>, nginx: &HttpUrl, also: impl Iterator<Item = String>) -> WiringProbe {
    let schedule = schedule(&mut section, WIRING);
    section.end();
    let address = nginx.address().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], nginx.port)));
    let mut hosts = vec![address.ip().to_string()];
    for host in also {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    WiringProbe { schedule, address, hosts }
}

/// Programs on a dead disk hold a thread each: so many leave half of [`crate::app::BLOCKING_THREADS`] to the others.
const EXEC_LIMIT: usize = 12;

fn exec(probe: &mut Section<'_>) -> BTreeMap<String, ExecProbe> {
    let mut probes = BTreeMap::new();
    for (name, mut section) in probe.named_sections("exec") {
        if TAKEN.contains(&name) || word(name, 32, "_-").is_err() {
            let rule = "must be 1 to 32 letters, digits, `_`, `-`, and not the name of a built-in component";
            probe.reject("exec", format!("the name `{name}` {rule}"));
        }
        let schedule = schedule(&mut section, LOCAL);
        let command: Vec<String> =
            section.strings("command").unwrap_or_default().into_iter().map(str::to_owned).collect();
        match command.first() {
            Some(program) if Path::new(program).is_absolute() => {}
            _ => section
                .reject("command", "must begin with the absolute path of a program: [\"/usr/libexec/x\", \"--flag\"]"),
        }
        section.end();
        probes.insert(name.to_owned(), ExecProbe { schedule, command });
    }
    if probes.len() > EXEC_LIMIT {
        let fix = "let one program look at several things";
        probe.reject("exec", format!("{} programs, and {EXEC_LIMIT} is the most: {fix}", probes.len()));
    }
    probes
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

fn authority(mut section: Section<'_>, regions: &BTreeMap<String, Region>) {
    if let Some(list) = section.strings("regions") {
        let tables: Vec<&str> = regions.keys().map(String::as_str).collect();
        let mut sorted = list.clone();
        sorted.sort_unstable();
        if list.len() != 2 {
            section.reject("regions", "must name exactly two regions");
        } else if sorted != tables {
            let tables = if tables.is_empty() { "none".to_owned() } else { tables.join(", ") };
            section.reject("regions", format!("must name the regions that have a [region.*] table: {tables}"));
        }
    } else if section.is_there() && !section.has("regions") {
        section.reject("regions", "name both regions; their order can never be changed afterwards");
    }
    section.duration("poll", Duration::from_secs(5), INTERVAL);
    section.duration("boot_wait", Duration::from_secs(10), HOLD);
    section.duration("takeover_wait", Duration::from_secs(15), HOLD);
    section.end();
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

fn repoint(mut section: Section<'_>) {
    let there = section.is_there();
    let apply = section.word("apply", &["reload", "restart", "none"]);
    let unit = section.string("unit");
    if there && apply != "none" && unit.is_none_or(|unit| !unit.ends_with(".service")) {
        section.reject("unit", format!("`apply = \"{apply}\"` needs the app's unit: unit = \"shop.service\""));
    }
    section.read("verify", |text| match text {
        "sql" | "tcp" => Ok(()),
        _ => {
            let url = HttpUrl::parse(text).map_err(|_| "must be `sql`, `tcp` or an `http://` URL on loopback")?;
            let loopback = url.address().is_some_and(|address| address.ip().to_canonical().is_loopback());
            if loopback { Ok(()) } else { Err("must be a URL on loopback: the app on this machine".to_owned()) }
        }
    });
    for mut output in section.listed_sections("output") {
        let format = output.word("format", &["env", "json", "proxy"]);
        if format != "proxy" && !output.has("path") {
            output.reject("path", format!("the `{format}` output needs the file to write"));
        }
        output.read("path", address::absolute);
        output.end();
    }
    section.end();
}
