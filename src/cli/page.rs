//! A report as the page that a person reads at 3 a.m.: what is wrong first, then what to do, then who acts on it.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::render::{BOLD, DIM, HINT, status_style, status_word, wrap};
use super::time::{between, show, show_span};
use crate::health::cause::Status;
use crate::health::verdict::InstanceState;
use crate::report::{Component, Gate, Kind, Region, Report};

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
    problems(page, report)?;
    latches(page, report, zone)?;
    title(page, "Components")?;
    for component in &report.components {
        write_component(page, component, report)?;
    }
    verdicts(page, report)?;
    if report.kind == Kind::Check {
        prospects(page, report)?;
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
    match report.verdicts.instance.state {
        InstanceState::Draining => parts.push("this instance is draining".to_owned()),
        InstanceState::Starting => parts.push("the agent has just started".to_owned()),
        InstanceState::Serving | InstanceState::Closed => {}
    }
    if !report.verdicts.region.state.is_ok() {
        parts.push(format!("the region is {}", report.verdicts.region.state.name()));
    }
    for status in [Status::Unhealthy, Status::Unknown, Status::Degraded] {
        // What another fault may explain comes after it.
        for explained in [false, true] {
            let found = report.components.iter().filter(|component| component.status == status);
            let found = found.filter(|component| is_explained(component) == explained);
            parts.extend(found.map(|component| component.words.clone().unwrap_or_else(|| component.name.clone())));
        }
    }
    if !report.agent.config_problems.is_empty() {
        parts.push("the configuration is not as it should be".to_owned());
    }
    if parts.is_empty() { "everything that is watched works".to_owned() } else { parts.join("; ") }
}

/// Whether a failure may be the consequence of another one.
pub(super) fn is_explained(component: &Component) -> bool {
    component.domain.as_deref() == Some("undetermined")
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
    if component.stages.is_empty() {
        writeln!(page)?;
    } else {
        writeln!(page, "  {DIM}{}{DIM:#}", wrap(&stages(component), before))?;
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

/// `connect 0.2, headers 0.9`; of a failed attempt the last one is where it failed.
fn stages(component: &Component) -> String {
    let mut list: Vec<_> = component.stages.iter().map(|stage| format!("{} {:.1}", stage.name, stage.ms)).collect();
    if let (Status::Unhealthy | Status::Unknown, Some(last)) = (component.status, list.last_mut()) {
        last.push_str(" <- here");
    }
    list.join(", ")
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
    Some(format!("the running agent says: {}{cause}, for {since}", theirs.status))
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
    writeln!(page, "  {:<10}{:<18}{}", "replaced", "no", wrap(&acts.replacement, VERDICT_INDENT))?;

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
mod tests {
    use super::*;
    use crate::report::sample;

    fn plain(report: &Report) -> String {
        anstream::adapter::strip_str(&super::report(report, &TimeZone::UTC)).to_string()
    }

    #[test]
    fn all_is_well() {
        let mut report = sample::well(Kind::Check, "ap-south-1");
        report.agent.probed_as = Some("user `dr-agent`".to_owned());
        insta::assert_snapshot!(plain(&report), @r"
        healthy  everything that is watched works

        shop-prod, i-0123456789abcdef0, ap-south-1
        looked once as user `dr-agent`, 2026-11-24 21:42:07 +00:00

        Components
          nginx     healthy          1.1 ms  connect 0.2, headers 0.9, body 0.0
          app       healthy          1.1 ms  connect 0.2, headers 0.9, body 0.0
          efs       healthy         10.9 ms  mountinfo 0.1, open 2.4, write 5.1, read 3.3
          database  healthy          0.8 ms  query 0.8
          host      healthy          0.0 ms
          wiring    healthy          0.0 ms
          queue     healthy          0.0 ms

        Verdicts as the agent would give them after this look, and who would act on them
          instance  200 serving       the load balancer sends it requests
          region    200 open          Route 53 keeps this region's record
          promoted  503 not-promoted  nobody: this version promotes and fences no region
          replaced  no                nobody: this version marks no instance for replacement

        What works now
          `/health/instance` for the load balancer: from nginx, app, efs, database, host
          `/health/region` for Route 53: from efs and database, and whether anybody can serve
        ");
    }

    #[test]
    fn the_page_of_three_in_the_morning() {
        let mut report = sample::trouble(Kind::Check);
        report.agent.probed_as = Some("user `dr-agent`".to_owned());
        report.live = Some(Box::new(sample::well(Kind::Live, "ap-south-1")));
        insta::assert_snapshot!(plain(&report), @r#"
        UNHEALTHY  this instance is draining; efs does not answer: file operations hang; app does not answer
                   in time; database is slow; the configuration is not as it should be

        shop-prod, i-0123456789abcdef0, ap-south-1
        looked once as user `dr-agent`, 2026-11-24 21:42:07 +00:00

        Configuration
          /etc/dr-agent/agent.toml:12: `probe.nginx.interval = 5`: a duration needs a unit: write "5s" or
            "5ms"
          hint: correct the file, see `dr-agent config check`, then `systemctl reload dr-agent`

        Latches
          drain     by alice at 2026-11-24 21:41:07 +00:00 until 2026-11-24 22:41:07 +00:00: deploy 42
                    hint: `dr-agent undrain` ends it; so does removing /var/lib/dr-agent/latches/drain.json

        Components
          nginx     healthy          1.1 ms  connect 0.2, headers 0.9, body 0.0
          app       UNHEALTHY     1000.0 ms  connect 0.2, headers 999.8 <- here
                    app does not answer in time
                    http://127.0.0.1/ (Host shop.example.com): no answer within 1 s
                    the running agent says: healthy, for 7 s
                    hint: see the app's log and nginx's upstream timings
          efs       UNHEALTHY     2999.1 ms  mountinfo 0.1, open 2999.0 <- here
                    efs does not answer: file operations hang
                    /mnt/efs: child 4242 has been in `open` for 21 s and cannot be killed
                    the running agent says: healthy, for 7 s
                    hint: if other instances are well, remount it here (`umount -l`, then mount); if not,
                          look at the file system and its mount targets
          database  degraded       730.0 ms  query 730.0
                    database is slow
                    shop.abc123.ap-south-1.rds.amazonaws.com:3306: 730 ms, the limit is 500 ms
                    the running agent says: healthy, for 8 s
                    hint: see the stage that takes long, and the server's load
          host      healthy          0.0 ms
          wiring    healthy          0.0 ms
          queue     healthy          0.0 ms

        Verdicts as the agent would give them after this look, and who would act on them
          instance  503 draining      the load balancer stops sending it requests, unless no instance
                                      passes: then it sends to all
          region    200 open          Route 53 keeps this region's record
                                      efs fails and no member passes, for 21 s: closes in 39 s if that stays
          promoted  503 not-promoted  nobody: this version promotes and fences no region
          replaced  no                nobody: this version marks no instance for replacement
          the running agent answers instance 200 serving: it remembers more than this one look, see
          `dr-agent explain`

        What works now
          `/health/instance` for the load balancer: from nginx, app, efs, database, host
          `/health/region` for Route 53: from efs and database, and whether anybody can serve
        "#);
    }

    #[test]
    fn a_newcomer_without_a_file() {
        insta::assert_snapshot!(plain(&sample::newcomer()), @r"
        healthy  everything that is watched works

        default, i-0123456789abcdef0, region unknown
        looked once, 2026-11-24 21:42:07 +00:00

        Components
          nginx     healthy          1.1 ms  connect 0.2, headers 0.9, body 0.0
          host      healthy          0.0 ms

        Verdicts as the agent would give them after this look, and who would act on them
          instance  200 serving       the load balancer sends it requests
          region    200 open          Route 53 if it checks this path; with one region there is nowhere to
                                      fail over to
          promoted  503 not-promoted  nobody: this version promotes and fences no region
          replaced  no                nobody: this version marks no instance for replacement

        What works now
          `/health/instance` for the load balancer: from nginx, host
          `/health/region` for Route 53: from whether anybody can serve, nothing else

        What is missing, and what that costs
          no configuration file is in force: built-in defaults apply: only nginx and the host are watched,
            and nobody looks whether nginx hands the health paths to the agent
            hint: edit /etc/dr-agent/agent.toml, then `dr-agent config check`
          no [probe.app]: a site that fails behind a well nginx looks healthy
            hint: add the table, with the site's `host`
          no [probe.efs]: a shared mount that hangs or is not there is not seen
            hint: add the table, with the mount's `path`, if there is one
          no [probe.database]: a database that fails is not seen
            hint: add the table, with `user` and `password_file`, and the endpoint in [region.NAME]
          with one region, or without a database, promotion and fencing are off: `/health/promoted`
            answers 503, and nothing takes over from another region
            hint: nothing to do if that is meant
        ");
    }

    #[test]
    fn the_running_agent_in_trouble() {
        insta::assert_snapshot!(plain(&sample::trouble(Kind::Live)), @r#"
        UNHEALTHY  this instance is draining; efs does not answer: file operations hang; app does not answer
                   in time; database is slow; the configuration is not as it should be

        shop-prod, i-0123456789abcdef0, ap-south-1
        agent 0.0.0, generation 4711, 0.3 s old, 2026-11-24 21:42:07 +00:00

        Configuration
          /etc/dr-agent/agent.toml:12: `probe.nginx.interval = 5`: a duration needs a unit: write "5s" or
            "5ms"
          hint: correct the file, see `dr-agent config check`, then `systemctl reload dr-agent`

        Latches
          drain     by alice at 2026-11-24 21:41:07 +00:00 until 2026-11-24 22:41:07 +00:00: deploy 42
                    hint: `dr-agent undrain` ends it; so does removing /var/lib/dr-agent/latches/drain.json

        Components
          nginx     healthy    for 31 s            1.1 ms  connect 0.2, headers 0.9, body 0.0
          app       UNHEALTHY  for 15 s         1000.0 ms  connect 0.2, headers 999.8 <- here
                    app does not answer in time
                    http://127.0.0.1/ (Host shop.example.com): no answer within 1 s
                    hint: see the app's log and nginx's upstream timings
          efs       UNHEALTHY  for 21 s         2999.1 ms  mountinfo 0.1, open 2999.0 <- here
                    efs does not answer: file operations hang
                    /mnt/efs: child 4242 has been in `open` for 21 s and cannot be killed
                    hint: if other instances are well, remount it here (`umount -l`, then mount); if not,
                          look at the file system and its mount targets
          database  degraded   for 11 s          730.0 ms  query 730.0
                    database is slow
                    shop.abc123.ap-south-1.rds.amazonaws.com:3306: 730 ms, the limit is 500 ms
                    hint: see the stage that takes long, and the server's load
          host      healthy    for 32 s            0.0 ms
          wiring    healthy    for 32 s            0.0 ms
          queue     healthy    for 32 s            0.0 ms

        Verdicts, and who acts on them
          instance  503 draining      the load balancer stops sending it requests, unless no instance
                                      passes: then it sends to all
          region    200 open          Route 53 keeps this region's record
                                      efs fails and no member passes, for 21 s: closes in 39 s if that stays
          promoted  503 not-promoted  nobody: this version promotes and fences no region
          replaced  no                nobody: this version marks no instance for replacement
        "#);
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        for report in
            [sample::trouble(Kind::Live), sample::trouble(Kind::Check), sample::well(Kind::Check, "us-east-1")]
        {
            for line in plain(&report).lines() {
                assert!(line.chars().count() <= super::super::render::WIDTH, "{line}");
            }
        }
    }

    #[test]
    fn a_hold_says_when_it_closes_and_a_closed_region_when_it_opens() {
        let mut region = sample::well(Kind::Live, "ap-south-1").verdicts.region;
        region.holds.push(crate::report::Hold { on: "efs".to_owned(), since_seconds: 18, due_in_seconds: 42 });
        assert_eq!(holds(&region), ["efs fails and no member passes, for 18 s: closes in 42 s if that stays"]);
        region.holds.clear();
        region.code = 503;
        region.reopens_in_seconds = Some(30);
        assert_eq!(holds(&region), ["opens in 30 s if nothing closes it again"]);
    }
}
