//! The `[probe.*]` tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{INTERVAL, LIMIT, word};
use crate::config::raw::{Section, show_duration};
use crate::config::{
    AppProbe, DatabaseProbe, EfsProbe, ExecProbe, HostProbe, HttpUrl, MYSQL_PORT, NginxProbe, WiringProbe, address,
};
use crate::health::component::Schedule;

const NGINX_URL: &str = "http://127.0.0.1/health/nginx";
const NGINX_PID_FILE: &str = "/run/nginx.pid";
const APP_URL: &str = "http://127.0.0.1/";

/// Names that a custom probe must not take: they mean something else in logs, metrics and history.
const TAKEN: [&str; 8] = ["nginx", "app", "efs", "database", "host", "wiring", "instance", "region"];

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
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
    if section.has(short.0) {
        let name = section.name(long.0);
        section.reject(
            short.0,
            format!("must be shorter than `{name}` ({}): lower it or raise that", show_duration(long.1)),
        );
    } else {
        let name = section.name(short.0);
        section.reject(
            long.0,
            format!("must be longer than `{name}` ({} by default): raise it or lower that", show_duration(short.1)),
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

pub(super) fn nginx(mut section: Section<'_>) -> NginxProbe {
    let schedule = schedule(&mut section, PAGE);
    let url = url(&mut section, NGINX_URL);
    if url.address().is_none() {
        section.reject("url", "must have a numeric address: `http://127.0.0.1/health/nginx`, with nginx's own port");
    }
    let pid_file = section.read("pid_file", address::absolute).unwrap_or_else(|| NGINX_PID_FILE.into());
    section.end();
    NginxProbe { schedule, url, pid_file }
}

pub(super) fn app(mut section: Section<'_>) -> Option<AppProbe> {
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

pub(super) fn efs(mut section: Section<'_>, file_system: Option<String>, read_only: bool) -> Option<EfsProbe> {
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
pub(super) fn database<'a>(
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

pub(super) fn host(mut section: Section<'_>, state_dir: &Path) -> HostProbe {
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

pub(super) fn wiring(mut section: Section<'_>, nginx: &HttpUrl, also: impl Iterator<Item = String>) -> WiringProbe {
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

pub(super) fn exec(probe: &mut Section<'_>) -> BTreeMap<String, ExecProbe> {
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
