//! `dr-agent check`: every probe once through the agent's own code, judged by the agent's own rules, nothing changed.

pub(super) mod aws;
mod offline;

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use jiff::tz::TimeZone;
use rustix::process::geteuid;
use tokio::runtime;
use tokio::time::timeout;

use super::client::{self, Error};
use super::{CheckArgs, Exit, Format, page, region, render};
use crate::authority;
use crate::bootstrap::Record;
use crate::certificates;
use crate::clock::{self, BootTime, Stamp};
use crate::config::Config;
use crate::config::load::{self, Loaded};
use crate::health::cause::{Cause, Status, TABLE};
use crate::health::component::{ComponentState, Schedule};
use crate::health::verdict::{self, Doors, Group, Inputs};
use crate::identity;
use crate::identity::lifecycle::Lifecycle;
use crate::latches::{self, Kind, Latches};
use crate::observation::{Component, Facts, Finding, Observation, Outcome};
use crate::outputs::markers::{self, Markers};
use crate::probes::{Context, Spec, observe_all};
use crate::replace::outlook::Outlook;
use crate::report::authority::Authority;
use crate::report::aws::{INSTANCE, REGION};
use crate::report::{self, Missing, Report, Seen};
use crate::resume;
use crate::snapshot::About;
use crate::state::{self, LoadError, State};
use crate::telemetry::ErrorChain;

/// The agent's user: it probes with that user's rights.
const USER: &str = "dr-agent";

/// `check` ends within 15 s, whatever hangs; the rest is for starting and printing.
const LIMIT: Duration = Duration::from_millis(14_500);

/// All probes, which run side by side.
const PROBES_LIMIT: Duration = Duration::from_secs(11);

/// One attempt of a probe, whose own deadline may be longer.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(9_500);

pub(super) fn run(path: Option<PathBuf>, args: &CheckArgs) -> Exit {
    if args.offline {
        return offline::run(path.as_deref(), args.format);
    }
    let probed_as = match user() {
        Who::Root if args.as_me => "root (`--as-me`)".to_owned(),
        Who::Root => {
            let why = if let Some((uid, gid)) = agent_user() {
                render::note(format_args!("probing as user `{USER}`, as the agent does; `--as-me` probes as root"));
                let error = become_user(uid, gid);
                format!("cannot become user `{USER}`: {error}")
            } else {
                format!("there is no user `{USER}`")
            };
            render::note(format_args!("{why}; probing as root, who may do more than the agent"));
            format!("root ({why})")
        }
        Who::Other(name) => name,
    };
    // In a thread of its own: not even a system call that never returns can keep the answer.
    let (done, outcome) = mpsc::channel();
    let region = args.region.region.clone();
    let work = move || drop(done.send(look(path.as_deref(), region, probed_as)));
    // Without the thread its sender is gone and the wait ends at once.
    drop(thread::Builder::new().name("check".to_owned()).spawn(work));
    match outcome.recv_timeout(LIMIT) {
        Ok(Ok(report)) => {
            render::data(&match args.format {
                Format::Text => page::report(&report, &TimeZone::system()),
                Format::Json => page::json(&report),
            });
            report.overall().into()
        }
        Ok(Err(error)) => {
            render::error(&error);
            Exit::Unknown
        }
        Err(RecvTimeoutError::Disconnected) => {
            render::errors(&["the look at this machine failed".to_owned()]);
            Exit::Unknown
        }
        Err(RecvTimeoutError::Timeout) => {
            render::errors(&["the look at this machine did not end within 15 s".to_owned()]);
            render::hint("something local hangs: look for processes in state D with `ps -eo pid,stat,wchan:32,cmd`");
            Exit::Unknown
        }
    }
}

/// The variables by which a user has credentials that the agent does not have.
const OWN_CREDENTIALS: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

enum Who {
    Root,
    Other(String),
}

fn user() -> Who {
    let uid = geteuid();
    if uid.is_root() {
        return Who::Root;
    }
    let name = accounts().find(|account| account.1 == uid.as_raw()).map(|account| format!("user `{}`", account.0));
    Who::Other(name.unwrap_or_else(|| format!("uid {}", uid.as_raw())))
}

/// Name, uid and gid of the local accounts. The agent's is one: its numbers are fixed.
fn accounts() -> impl Iterator<Item = (String, u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((name, uid, gid))
    };
    text.lines().filter_map(parse).collect::<Vec<_>>().into_iter()
}

fn agent_user() -> Option<(u32, u32)> {
    accounts().find(|account| account.0 == USER).map(|account| (account.1, account.2))
}

/// Starts this program anew, in this process, with the rights of the agent's user: its group, no others. Returns only
/// when that fails.
fn become_user(uid: u32, gid: u32) -> io::Error {
    // The link, not the path: the agent's user need not be able to walk there.
    let mut command = Command::new("/proc/self/exe");
    // Root's AWS credentials are not the agent's.
    for name in OWN_CREDENTIALS {
        command.env_remove(name);
    }
    command.env("HOME", "/").arg0("dr-agent").args(std::env::args_os().skip(1)).uid(uid).gid(gid).exec()
}

fn look(path: Option<&Path>, given: Option<String>, probed_as: String) -> io::Result<Report> {
    crate::install_crypto_provider();
    let mut region = region(given);
    let mut loaded = load::at_start(path, region.as_deref());
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(client::report(&loaded.config.listen.control));
    let live = asked.as_ref().ok();

    let mut instance = identity::instance().or_else(|| live.and_then(|live| live.agent.instance.clone()));
    let mut heard = None;
    if region.is_none() && loaded.config.region.is_none() && !loaded.config.regions.is_empty() {
        region = live.and_then(|live| live.agent.region.clone());
        if region.is_none() {
            let found = heard.insert(runtime.block_on(aws::metadata())).identity.clone();
            instance = instance.or(found.instance);
            region = found.region.or_else(|| remembered_region(&loaded, instance.clone()));
        }
        loaded = load::at_start(path, region.as_deref());
    }
    let deployment = loaded.deployment();
    let Loaded { config, problems, .. } = loaded;
    let boot = clock::boot_id()?;
    let context = Context::for_check(&config, instance.as_deref(), boot.clone());
    let short = in_time(&config);
    let owner = state::Owner { deployment, instance, region: config.region.clone() };
    let saved = state::read(&config.state_dir, &owner);
    let remembered = saved.as_ref().ok().and_then(Option::as_ref).cloned().unwrap_or_default();
    let markers = markers::resume(&config.state_dir);
    let authority = async {
        // A running agent has seen more than one look shows.
        if live.is_some() {
            return None;
        }
        let stands =
            authority::run::Stands { boot: &boot, saved: &remembered, gate_closed: markers.fenced == Some(true) };
        let said = Box::pin(authority::run::once(&config, &stands)).await?;
        Some(Authority::of(&said, BootTime::now()))
    };
    let (observations, certificates, seen_of_aws, whose) = runtime.block_on(async {
        tokio::join!(
            timeout(PROBES_LIMIT, observe_all(&short, &context)),
            certificates::look(&config.regions),
            aws::look(heard, live, &config),
            authority,
        )
    });
    // A probe that left a blocking task behind must not keep the answer.
    runtime.shutdown_background();

    let about = About { owner, boot, config_problems: problems };
    let mut observations = observations.unwrap_or_default();
    let borrowed = asked.as_ref().is_ok_and(|live| borrow_efs(&mut observations, live));
    let mut report = judge(&about, &config, observations, &remembered, markers);
    report.agent.probed_as = Some(probed_as);
    report.authority = whose;
    report.bootstrap = Record::newest(&config.listen.control);
    report.certificates = certificates;
    let told = seen_of_aws.told(live, &config);
    for (what, known) in [(INSTANCE, &mut report.agent.instance), (REGION, &mut report.agent.region)] {
        *known = known.take().or_else(|| aws::value(&told.identity, what).map(str::to_owned));
    }
    report.aws = Some(told);
    if borrowed {
        for efs in report.components.iter_mut().filter(|component| component.name == Component::Efs.name()) {
            let whose = "seen by the running agent, whose child alone may touch the mount";
            efs.detail = Some(efs.detail.take().map_or(whose.to_owned(), |detail| format!("{detail} ({whose})")));
        }
    }
    // What nginx answers without an agent is no fault of the wiring.
    if matches!(asked, Err(Error::NotRunning(_))) {
        let fallback = |c: &&mut report::Component| c.cause.as_deref() == Some(Cause::WiringFallback.name());
        for wiring in report.components.iter_mut().filter(fallback) {
            wiring.hint = Some("the agent is not there to be reached: start it and look again".to_owned());
        }
    }
    add_selinux(&mut report, Path::new("/sys/fs/selinux/enforce"));
    match asked {
        Ok(live) => report.live = Some(Box::new(live)),
        Err(error) => {
            if matches!(error, Error::NotRunning(_)) {
                report.held = Some(markers.into());
            }
            report.missing.extend(saved.err().map(|error| without_state(&error)));
            report.missing.insert(0, without_agent(&error));
        }
    }
    Ok(report)
}

/// The region that the state of this instance names, where an agent that starts looks last.
fn remembered_region(loaded: &Loaded, instance: Option<String>) -> Option<String> {
    let owner = state::Owner { deployment: loaded.deployment(), instance, region: None };
    state::read(&loaded.config.state_dir, &owner).ok()??.owner.region
}

/// SELinux refuses what its policy does not allow, and nginx, which it confines, only sees that the agent's socket or a
/// marker is not there.
const SELINUX: &str = "SELinux is enforcing here: `ausearch -m avc -c nginx` shows whether it keeps nginx from the agent's socket in /run/dr-agent-http or from the markers";

/// Adds the hint to what the wiring lacks, if `mode` says that SELinux is enforcing.
fn add_selinux(report: &mut Report, mode: &Path) {
    if !fs::read(mode).is_ok_and(|mode| mode.starts_with(b"1")) {
        return;
    }
    let at_fault = |c: &&mut report::Component| c.name == Component::Wiring.name() && c.cause.is_some();
    for wiring in report.components.iter_mut().filter(at_fault) {
        let hint = wiring.hint.take().map(|hint| format!("{hint}; ")).unwrap_or_default();
        wiring.hint = Some(format!("{hint}{SELINUX}"));
    }
}

/// What it costs that no agent answered.
fn without_agent(error: &Error) -> Missing {
    let (what, costs, fix) = if matches!(error, Error::Permission(_)) {
        (
            "the running agent could not be asked".to_owned(),
            "this is one look, without what it remembers",
            "run it as root or as a member of the group `dr-agent-admin`",
        )
    } else {
        (
            error.to_string(),
            "nginx answers the health paths with the last word from its marker files, and no change is noticed",
            "`systemctl enable --now dr-agent`; if it should be running: `journalctl -u dr-agent`",
        )
    };
    Missing { what, costs: costs.to_owned(), fix: fix.to_owned() }
}

/// What it costs that the state file could not be used.
fn without_state(error: &LoadError) -> Missing {
    let (costs, fix) = if matches!(error, LoadError::Read { .. }) {
        ("an agent that can read it may remember more than these verdicts", "run `dr-agent check` as root")
    } else {
        ("an agent that starts remembers no more than these verdicts do", "nothing to do: it begins a new one")
    };
    Missing { what: ErrorChain(error).to_string(), costs: costs.to_owned(), fix: fix.to_owned() }
}

/// There is at most one outstanding operation on the mount of an instance, so beside a running agent its word on the
/// mount is the one there is. Whether it was taken.
fn borrow_efs(observations: &mut [Observation], live: &Report) -> bool {
    let own = observations.iter_mut().find(|observation| {
        let could_not_run =
            matches!(&observation.outcome, Outcome::Fail(finding) if finding.cause == Cause::CouldNotRun);
        observation.component == Component::Efs && could_not_run
    });
    let theirs = live.components.iter().find(|component| component.name == Component::Efs.name());
    let (Some(own), Some(theirs)) = (own, theirs) else { return false };
    let cause = theirs.cause.as_deref().and_then(by_name);
    own.outcome = match (theirs.status, cause) {
        (Status::Healthy, _) => Outcome::Pass,
        (Status::Degraded | Status::Unhealthy, Some(cause)) => {
            Outcome::Fail(Finding::new(cause, theirs.detail.clone().unwrap_or_default()))
        }
        _ => return false,
    };
    own.stages.clear();
    own.took = Duration::try_from_secs_f64(theirs.took_ms / 1e3).unwrap_or_default();
    true
}

/// `None` for a cause that only a newer agent knows.
fn by_name(name: &str) -> Option<Cause> {
    TABLE.iter().find(|row| row.name == name).map(|row| row.cause)
}

/// The same probes, none of which may take longer than `check` has.
fn in_time(config: &Config) -> Config {
    let mut config = config.clone();
    let shorten = |limit: &mut Duration| *limit = (*limit).min(ATTEMPT_LIMIT);
    shorten(&mut config.nginx.schedule.timeout);
    shorten(&mut config.host.schedule.timeout);
    config.app.iter_mut().for_each(|probe| shorten(&mut probe.schedule.timeout));
    config.efs.iter_mut().for_each(|probe| shorten(&mut probe.schedule.timeout));
    shorten(&mut config.wiring.schedule.timeout);
    config.exec.values_mut().for_each(|probe| shorten(&mut probe.schedule.timeout));
    if let Some(probe) = &mut config.database {
        shorten(&mut probe.schedule.timeout);
        shorten(&mut probe.fresh_timeout);
    }
    config
}

/// What an agent that starts now, from this state and these markers, would make of these observations if they were its
/// first ones.
fn judge(about: &About, config: &Config, observations: Vec<Observation>, saved: &State, markers: Markers) -> Report {
    let (now, at) = (BootTime::now(), clock::wall());
    let (latches, unusable) = latches::read(&config.state_dir, &about.boot, now, at, &Latches::default());
    let gate_closed = markers.fenced == Some(true);
    let lifecycle = if saved.boot == about.boot { saved.lifecycle.clone() } else { Lifecycle::default() };
    let saved_in = state::boot_of_file(&config.state_dir);
    let memory = resume::memory(saved, saved_in.as_deref(), markers, &about.boot);
    let mut observations: Vec<Option<Observation>> = observations.into_iter().map(Some).collect();
    let states: Vec<_> = Spec::all(config)
        .into_iter()
        .map(|spec| {
            let component = spec.component();
            let target = spec.target();
            let ever_healthy = saved.ever_healthy.get(component.name()) == Some(&target);
            // It looks once: what it finds has to do.
            let schedule = Schedule { fall: 1, ..spec.schedule() };
            let mut state = ComponentState::new(component.clone(), target, schedule, ever_healthy, now);
            let found = observations.iter_mut().find(|o| o.as_ref().is_some_and(|o| o.component == component));
            state.apply(found.and_then(Option::take).unwrap_or_else(|| Observation {
                component,
                began: now,
                took: PROBES_LIMIT,
                outcome: Outcome::Fail(Finding::new(Cause::CouldNotRun, "the probes did not end in time")),
                stages: Vec::new(),
                facts: Facts::None,
            }));
            state
        })
        .collect();
    let group = Group::default();
    let inputs = Inputs {
        components: &states,
        group: &group,
        policy: &config.policy,
        draining: latches.get(Kind::Drain).is_some() || lifecycle.drain().is_some(),
        undecided: false,
        gate_closed,
        now,
    };
    let (instance, region) = Doors::new(memory, now).judge(&inputs);
    let domains = states.iter().map(|state| verdict::domain(state, &inputs)).collect::<Vec<_>>();
    let components = states.into_iter().zip(domains).collect::<Vec<_>>();
    let stamp = Stamp { boot: about.boot.clone(), time: now, wall: at };
    let replacement = Outlook::at_first(about, config, &components, &latches, gate_closed, &stamp);
    let seen = Seen {
        about,
        config,
        components: &components,
        instance: &instance,
        region: &region,
        latches: &latches,
        lifecycle: &lifecycle,
        gate_closed,
        replacement: &replacement,
    };
    let mut report = Report::of(report::Kind::Check, &seen, now, at);
    report.missing.extend(unusable.iter().map(|error| Missing {
        what: error.to_string(),
        costs: "whether it is in force cannot be told".to_owned(),
        fix: "remove it as root, or correct who may read it".to_owned(),
    }));
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Kind as ReportKind, sample};

    fn efs(outcome: Outcome) -> Vec<Observation> {
        let (component, began, took) = (Component::Efs, BootTime::now(), Duration::ZERO);
        vec![Observation { component, began, took, outcome, stages: Vec::new(), facts: Facts::None }]
    }

    #[test]
    fn beside_an_agent_its_word_on_the_mount_is_taken() {
        let busy = || efs(Outcome::Fail(Finding::new(Cause::CouldNotRun, "the agent's child holds the lock")));
        let mut seen = busy();
        assert!(borrow_efs(&mut seen, &sample::well(ReportKind::Live, "ap-south-1")));
        assert_eq!(seen[0].outcome, Outcome::Pass);
        let mut seen = busy();
        assert!(borrow_efs(&mut seen, &sample::trouble(ReportKind::Live)));
        assert!(matches!(&seen[0].outcome, Outcome::Fail(finding) if finding.cause == Cause::EfsHung));
        // It knows nothing either, or does not watch it.
        assert!(!borrow_efs(&mut busy(), &sample::newcomer()));
        // What was seen here stands.
        let mut seen = efs(Outcome::Fail(Finding::new(Cause::EfsNotMounted, "")));
        assert!(!borrow_efs(&mut seen, &sample::well(ReportKind::Live, "ap-south-1")));
    }

    #[test]
    fn selinux_is_named_only_where_it_is_enforcing_and_the_wiring_is_at_fault() {
        let hint = |mode: &str, cause: Option<Cause>| {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), mode).unwrap();
            let mut report = sample::well(ReportKind::Check, "ap-south-1");
            report.components.truncate(1);
            report.components[0].name = Component::Wiring.name().to_owned();
            report.components[0].cause = cause.map(|cause| cause.name().to_owned());
            report.components[0].hint = cause.map(|_| "reload nginx".to_owned());
            add_selinux(&mut report, file.path());
            report.components[0].hint.clone()
        };
        let told = hint("1", Some(Cause::WiringFallback)).unwrap();
        assert!(told.starts_with("reload nginx; SELinux is enforcing here"), "{told}");
        assert_eq!(hint("0", Some(Cause::WiringFallback)).as_deref(), Some("reload nginx"));
        assert_eq!(hint("1", None), None);
    }
}
