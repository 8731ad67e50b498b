//! A report as the page that a person reads at 3 a.m.: what is wrong first, then what to do, then who acts on it.

mod authority;
mod aws;
mod items;

use std::fmt::Write;
use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::render::{BOLD, DIM, HINT, status_style, status_word, wrap};
use super::time::{between, show, show_span};
use crate::authority::why::Reason;
use crate::certificates::Certificate;
use crate::group::vote::Vote;
use crate::health::cause::Status;
use crate::health::verdict::InstanceState;
use crate::report::aws::{Aws, Level};
use crate::report::members::Group;
use crate::report::{Component, Gate, Held, Kind, Region, Report};

pub(super) use items::{items, items_json};

/// Columns before what is said of a component.
const INDENT: usize = 12;

/// Columns before what is said of a verdict.
const VERDICT_INDENT: usize = 30;

/// For programs.
pub(super) fn json(report: &Report) -> String {
    // A report holds nothing that JSON cannot.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}

/// For people, with times in `zone`.
pub(super) fn report(report: &Report, zone: &TimeZone) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = write_report(&mut page, report, zone);
    page
}

fn write_report(page: &mut String, report: &Report, zone: &TimeZone) -> std::fmt::Result {
    headline(page, report, zone)?;
    authority::notice(page, report, zone)?;
    problems(page, report)?;
    items::bootstrap(page, report, zone)?;
    latches(page, report, zone)?;
    lifecycle(page, report)?;
    title(page, "Components")?;
    for component in &report.components {
        write_component(page, component, report)?;
    }
    certificates(page, report, zone)?;
    group(page, report.group.as_ref().or(report.live.as_ref().and_then(|live| live.group.as_ref())))?;
    aws::write(page, report)?;
    authority::write(page, report, zone)?;
    verdicts(page, report)?;
    if report.kind == Kind::Check {
        prospects(page, report)?;
    }
    Ok(())
}

fn certificates(page: &mut String, report: &Report, zone: &TimeZone) -> std::fmt::Result {
    if report.certificates.is_empty() {
        return Ok(());
    }
    title(page, "Certificates")?;
    for certificate in &report.certificates {
        let Certificate { region, host, expires, problem } = certificate;
        let ends = match (expires, certificate.days_left(report.at)) {
            (Some(end), Some(days @ 0..)) => format!("{days} days left, until {}", show(*end, zone)),
            (Some(end), _) => format!("over since {}", show(*end, zone)),
            (None, _) => "not seen from here".to_owned(),
        };
        let problem = problem.as_deref().map(|problem| format!("; {problem}")).unwrap_or_default();
        let finding = if certificate.is_finding(report.at) { status_style(Status::Degraded) } else { Style::new() };
        writeln!(page, "  {finding}{region}  {host}{finding:#}: {}", wrap(&format!("{ends}{problem}"), 4))?;
        if certificate.is_finding(report.at) {
            hint(
                page,
                4,
                "users' browsers refuse it, now or soon, and Route 53 does not look: renew it, in ACM for a load balancer",
            )?;
        }
    }
    Ok(())
}

fn group(page: &mut String, group: Option<&Group>) -> std::fmt::Result {
    let Some(Group { name, asked_age_ms, members }) = group else { return Ok(()) };
    title(page, "Group")?;
    let others = match members.len() {
        0 => "this instance is the only member".to_owned(),
        count => {
            let age = Duration::from_millis(*asked_age_ms).as_secs_f64();
            let heard = members.iter().filter(|member| member.silence.is_none()).count();
            format!("{heard} of {count} others answered, {age:.1} s ago")
        }
    };
    writeln!(page, "  {name}: {others}")?;
    for member in members {
        let zone = if member.in_my_zone { "my zone" } else { "other zone" };
        let votes = |vote| member.votes.iter().filter(move |(_, of)| **of == vote).map(|(name, _)| name.as_str());
        let listed = [Vote::Failing, Vote::Healthy].into_iter().filter_map(|vote| {
            let names = votes(vote).collect::<Vec<_>>();
            (!names.is_empty()).then(|| format!("{} {}", names.join(" "), vote.name()))
        });
        let said = match (&member.silence, &member.state) {
            (Some(silence), _) => silence.clone(),
            (None, state) => {
                let state = state.as_deref().unwrap_or("unknown");
                [state.to_owned()].into_iter().chain(listed).collect::<Vec<_>>().join("; ")
            }
        };
        writeln!(page, "  {}  {zone:<10}  {}", member.instance, wrap(&said, 35))?;
    }
    if !members.is_empty() && members.iter().all(|member| member.silence.is_some()) {
        hint(page, 2, "no member answered: allow TCP 8484 (`listen.peer`) from this security group to itself")?;
    }
    Ok(())
}

fn title(page: &mut String, text: &str) -> std::fmt::Result {
    writeln!(page, "\n{BOLD}{text}{BOLD:#}")
}

fn headline(page: &mut String, report: &Report, zone: &TimeZone) -> std::fmt::Result {
    let overall = report.overall();
    let style = status_style(overall);
    let word = status_word(overall);
    let what = wrap(&summary(report), word.chars().count() + 2);
    writeln!(page, "{style}{word}{style:#}  {BOLD}{what}{BOLD:#}\n")?;

    let agent = &report.agent;
    let mut who = vec![agent.deployment.as_str()];
    who.push(agent.instance.as_deref().unwrap_or("instance unknown"));
    who.push(agent.region.as_deref().unwrap_or("region unknown"));
    let how = match report.kind {
        Kind::Check => {
            let user = agent.probed_as.as_deref().map(|user| format!(" as {user}")).unwrap_or_default();
            format!("looked once{user}")
        }
        Kind::Live => {
            let age = Duration::from_millis(agent.age_ms.unwrap_or_default()).as_secs_f64();
            let generation = agent.generation.unwrap_or_default();
            format!("agent {}, generation {generation}, {age:.1} s old", agent.version)
        }
    };
    writeln!(page, "{DIM}{}{DIM:#}", who.join(", "))?;
    writeln!(page, "{DIM}{how}, {}{DIM:#}", show(report.at, zone))
}

/// What matters most, in one sentence.
pub(super) fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    if report.is_stale() {
        parts.push("the agent is stuck: it has not renewed its word".to_owned());
    }
    if report.gate == Gate::Closed {
        parts.push("the gate is closed: users get the fence page".to_owned());
    }
    parts.extend(authority::summary(report));
    match report.verdicts.instance.state {
        InstanceState::Draining => parts.push("this instance is draining".to_owned()),
        InstanceState::Starting => parts.push("the agent has just started".to_owned()),
        InstanceState::Serving | InstanceState::Closed => {}
    }
    if !report.verdicts.region.state.is_ok() {
        let drill = Reason::Drill.to_string();
        let is_drill = report.whose().is_some_and(|authority| authority.why.contains(&drill));
        let by = if is_drill { ", by a drill" } else { "" };
        parts.push(format!("the region is {}{by}", report.verdicts.region.state.name()));
    }
    for status in [Status::Unhealthy, Status::Unknown, Status::Degraded] {
        // What another fault may explain comes after it.
        for explained in [false, true] {
            let found = report.components.iter().filter(|component| component.status == status);
            let found = found.filter(|component| is_explained(component) == explained);
            parts.extend(found.map(|component| component.words.clone().unwrap_or_else(|| component.name.clone())));
        }
    }
    let aws = report.aws.as_ref();
    let findings = aws.into_iter().flat_map(|aws| &aws.findings);
    parts.extend(findings.filter(|finding| finding.level == Level::Unhealthy).map(|finding| finding.what.clone()));
    if aws.and_then(Aws::level) == Some(Level::Degraded) {
        parts.push("the AWS side is not as it should be".to_owned());
    }
    parts.extend(items::summary(report));
    if !report.agent.config_problems.is_empty() {
        parts.push("the configuration is not as it should be".to_owned());
    }
    if parts.is_empty() { "everything that is watched works".to_owned() } else { parts.join("; ") }
}

/// Whether a failure may be the consequence of another one. A dependency's fault is a consequence of nothing here: its
/// domain is undetermined until the members' votes settle it.
pub(super) fn is_explained(component: &Component) -> bool {
    component.domain.as_deref() == Some("undetermined") && !matches!(component.name.as_str(), "efs" | "database")
}

fn problems(page: &mut String, report: &Report) -> std::fmt::Result {
    if report.agent.config_problems.is_empty() {
        return Ok(());
    }
    title(page, "Configuration")?;
    for problem in &report.agent.config_problems {
        writeln!(page, "  {}", wrap(problem, 4))?;
    }
    hint(page, 2, "correct the file, see `dr-agent config check`, then `systemctl reload dr-agent`")
}

fn latches(page: &mut String, report: &Report, zone: &TimeZone) -> std::fmt::Result {
    if report.latches.is_empty() {
        return Ok(());
    }
    title(page, "Latches")?;
    for latch in &report.latches {
        let until = latch.until.map_or_else(|| "the next reboot".to_owned(), |until| show(until, zone));
        let what = format!("by {} at {} until {until}: {}", latch.by, show(latch.at, zone), latch.reason);
        writeln!(page, "  {:<8}  {}", latch.kind.name(), wrap(&what, INDENT))?;
        hint(page, INDENT, &format!("`{}` ends it; so does removing {}", latch.clear, latch.file))?;
    }
    Ok(())
}

fn lifecycle(page: &mut String, report: &Report) -> std::fmt::Result {
    let drain = report.lifecycle.drain();
    if drain.is_none() && !report.lifecycle.rebalance {
        return Ok(());
    }
    title(page, "Lifecycle")?;
    if let Some(why) = drain {
        writeln!(page, "  {:<8}  {}", "drain", wrap(&why, INDENT))?;
        hint(page, INDENT, "it ends when Auto Scaling has this instance in service")?;
    }
    if report.lifecycle.rebalance {
        let what = "EC2 recommends to replace this spot instance; no verdict changes for it";
        writeln!(page, "  {:<8}  {}", "notice", wrap(what, INDENT))?;
    }
    Ok(())
}

fn hint(page: &mut String, indent: usize, text: &str) -> std::fmt::Result {
    writeln!(page, "{:indent$}{HINT}hint:{HINT:#} {}", "", wrap(text, indent + 6))
}

fn write_component(page: &mut String, component: &Component, report: &Report) -> std::fmt::Result {
    let style = status_style(component.status);
    let word = status_word(component.status);
    let since = match report.kind {
        Kind::Live => format!("{:<14}", format!("for {}", show_span(between(component.since, report.at)))),
        Kind::Check => String::new(),
    };
    let before = INDENT + 9 + 2 + since.len() + 14;
    let (name, took) = (&component.name, component.took_ms);
    write!(page, "  {name:<8}  {style}{word:<9}{style:#}  {since}{took:>9.1} ms")?;
    match stages(component) {
        stages if stages.is_empty() => writeln!(page)?,
        stages => writeln!(page, "  {DIM}{}{DIM:#}", wrap(&stages, before))?,
    }
    let mut say = |text: &str| writeln!(page, "{:INDENT$}{}", "", wrap(text, INDENT));
    if let Some(words) = &component.words {
        say(words)?;
    }
    if let Some(detail) = &component.detail {
        say(detail)?;
    }
    if let Some(live) = report.live.as_deref().and_then(|live| difference(component, live)) {
        say(&live)?;
    }
    match &component.hint {
        Some(text) => hint(page, INDENT, text),
        None => Ok(()),
    }
}

/// `connect 0.2, headers 0.9`; of a failed attempt the last one is where it failed. What took no time is left out.
fn stages(component: &Component) -> String {
    let failed = matches!(component.status, Status::Unhealthy | Status::Unknown);
    let last = component.stages.len().saturating_sub(1);
    let list = component.stages.iter().enumerate().filter_map(|(index, stage)| {
        let here = failed && index == last;
        let shown = format!("{} {:.1}", stage.name, stage.ms);
        (here || stage.ms >= 0.05).then(|| if here { shown + " <- here" } else { shown })
    });
    list.collect::<Vec<_>>().join(", ")
}

/// What the running agent says of a component, if it is something else.
fn difference(component: &Component, live: &Report) -> Option<String> {
    let Some(theirs) = live.components.iter().find(|theirs| theirs.name == component.name) else {
        return Some("the running agent does not watch it: it has another configuration".to_owned());
    };
    if theirs.target != component.target {
        return Some(format!("the running agent asks another target: {}", theirs.target));
    }
    if theirs.status == component.status && theirs.cause == component.cause {
        return None;
    }
    let cause = theirs.cause.as_deref().map(|cause| format!(" ({cause})")).unwrap_or_default();
    let since = show_span(between(theirs.since, live.at));
    let detail = theirs.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
    Some(format!("the running agent says: {}{cause}, for {since}{detail}", theirs.status))
}

fn verdicts(page: &mut String, report: &Report) -> std::fmt::Result {
    let verdicts = &report.verdicts;
    let acts = &report.acts;
    title(
        page,
        match report.kind {
            Kind::Live => "Verdicts, and who acts on them",
            Kind::Check => "Verdicts as the agent would give them after this look, and who would act on them",
        },
    )?;
    let instance = &verdicts.instance;
    verdict(page, "instance", instance.code, instance.state.name(), &acts.instance)?;
    if !instance.reasons.is_empty() {
        let reasons = instance.reasons.iter().map(|reason| format!("{} ({})", reason.component, reason.cause));
        more(page, &format!("closed by {}", reasons.collect::<Vec<_>>().join(", ")))?;
    }
    let region = &verdicts.region;
    verdict(page, "region", region.code, region.state.name(), &acts.region)?;
    for line in holds(region) {
        more(page, &line)?;
    }
    verdict(page, "promoted", verdicts.promoted.code, &verdicts.promoted.state, &acts.promoted)?;
    // Whether it goes is a matter of what the running agent remembers.
    let planned = report.live.as_deref().unwrap_or(report);
    let word = match planned.replacement.plan.as_str() {
        "" | "nothing" | "refused" => "no",
        plan => plan,
    };
    writeln!(page, "  {:<10}{word:<18}{}", "replaced", wrap(&planned.acts.replacement, VERDICT_INDENT))?;

    if let Some(Held { instance, region, promoted, markers }) = &report.held {
        let markers = if markers.is_empty() { "none stands".to_owned() } else { markers.join(", ") };
        let what = format!(
            "no agent runs: until one does nginx answers instance {instance}, region {region}, promoted {promoted} (markers: {markers})"
        );
        writeln!(page, "  {}", wrap(&what, 2))?;
    }
    let Some(live) = &report.live else { return Ok(()) };
    let theirs = &live.verdicts;
    let mut differences = Vec::new();
    if theirs.instance.state != instance.state {
        differences.push(format!("instance {} {}", theirs.instance.code, theirs.instance.state.name()));
    }
    if theirs.region.state != region.state {
        differences.push(format!("region {} {}", theirs.region.code, theirs.region.state.name()));
    }
    if differences.is_empty() {
        return Ok(());
    }
    let what = format!(
        "the running agent answers {}: it remembers more than this one look, see `dr-agent explain`",
        differences.join(" and ")
    );
    writeln!(page, "  {}", wrap(&what, 2))
}

fn verdict(page: &mut String, name: &str, code: u16, state: &str, acts: &str) -> std::fmt::Result {
    let style = match (name, code) {
        (_, 200) => status_style(Status::Healthy),
        ("promoted", _) => DIM,
        _ => status_style(Status::Unhealthy),
    };
    writeln!(page, "  {name:<10}{style}{:<18}{style:#}{}", format!("{code} {state}"), wrap(acts, VERDICT_INDENT))
}

fn more(page: &mut String, text: &str) -> std::fmt::Result {
    writeln!(page, "{:VERDICT_INDENT$}{}", "", wrap(text, VERDICT_INDENT))
}

/// What closes the region or keeps it closed, and when.
pub(super) fn holds(region: &Region) -> Vec<String> {
    let mut lines = Vec::new();
    for hold in &region.holds {
        let what = match hold.on.as_str() {
            "capacity" => "nobody can serve".to_owned(),
            on => format!("{on} fails and no member passes"),
        };
        let since = show_span(Duration::from_secs(hold.since_seconds));
        let due = show_span(Duration::from_secs(hold.due_in_seconds));
        lines.push(match (region.code, hold.due_in_seconds) {
            (200, 0) => format!("{what}, for {since}: closes with the next proof"),
            (200, _) => format!("{what}, for {since}: closes in {due} if that stays"),
            _ => format!("{what}, for {since}: stays closed until that ends"),
        });
    }
    if let Some(seconds) = region.reopens_in_seconds {
        lines.push(format!("opens in {} if nothing closes it again", show_span(Duration::from_secs(seconds))));
    }
    lines
}

/// What works now, and what each missing piece costs.
fn prospects(page: &mut String, report: &Report) -> std::fmt::Result {
    title(page, "What works now")?;
    for line in &report.works {
        writeln!(page, "  {}", wrap(line, 2))?;
    }
    if report.missing.is_empty() {
        return Ok(());
    }
    title(page, "What is missing, and what that costs")?;
    for missing in &report.missing {
        writeln!(page, "  {}", wrap(&missing.what, 4))?;
        writeln!(page, "    {}", wrap(&format!("costs: {}", missing.costs), 6))?;
        hint(page, 4, &missing.fix)?;
    }
    Ok(())
}

/// For how long something has been so.
pub(super) fn span_since(since: Timestamp, report: &Report) -> String {
    show_span(between(since, report.at))
}

#[cfg(test)]
mod tests;
