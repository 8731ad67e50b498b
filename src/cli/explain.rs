//! `dr-agent explain`: the question, what each component says to it, and when the answer changes.

use std::fmt::Write;
use std::path::Path;

use super::render::{self, BOLD, status_style, status_word, wrap};
use super::{Exit, Verdict, client, page};
use crate::authority::State;
use crate::authority::why::Reason;
use crate::group::ask::Silence;
use crate::group::vote::Vote;
use crate::health::cause::{OnInstance, OnRegion, OnReplacement, Row, TABLE};
use crate::health::verdict::RegionState;
use crate::report::{Component, Report};

/// Columns before what a component says.
const INDENT: usize = 12;

pub(super) fn run(socket: &Path, verdict: Option<Verdict>) -> Exit {
    match client::block_on(client::report(socket)) {
        Ok(report) => {
            render::data(&text(&report, verdict));
            report.overall().into()
        }
        Err(error) => error.show(),
    }
}

pub(super) fn text(report: &Report, verdict: Option<Verdict>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = match verdict {
        Some(Verdict::Instance) => instance(&mut out, report),
        Some(Verdict::Region) => region(&mut out, report),
        Some(Verdict::Replace) => replace(&mut out, report),
        Some(Verdict::Repoint) => repoint(&mut out, report),
        None => instance(&mut out, report)
            .and_then(|()| out.write_char('\n'))
            .and_then(|()| region(&mut out, report))
            .and_then(|()| out.write_char('\n'))
            .and_then(|()| replace(&mut out, report))
            .and_then(|()| out.write_char('\n'))
            .and_then(|()| repoint(&mut out, report)),
    };
    out
}

fn instance(out: &mut String, report: &Report) -> std::fmt::Result {
    let verdict = &report.verdicts.instance;
    let since = page::span_since(verdict.since, report);
    writeln!(out, "{BOLD}Can this instance serve?{BOLD:#}  {} {}, for {since}", verdict.code, verdict.state.name())?;
    say(out, "The load balancer asks `/health/instance` through nginx.", 2)?;
    say(out, &format!("Now: {}.", report.acts.instance), 2)?;
    writeln!(out)?;
    for component in &report.components {
        let closes = verdict.reasons.iter().any(|reason| reason.component == component.name);
        let effect = match row(component).map(|row| row.instance) {
            _ if closes => "closes the instance",
            None | Some(OnInstance::Keeps) => "keeps the instance open",
            Some(OnInstance::Closes) => "closes the instance once it is settled",
            Some(OnInstance::ClosesIfPeerPasses) if passes_elsewhere(report, component) => {
                "503 once it is settled: another member passes, as its vote says"
            }
            Some(OnInstance::ClosesIfPeerPasses) if is_deaf(report) => {
                "503 only while another member passes, and none can be asked: the key file here cannot be used"
            }
            Some(OnInstance::ClosesIfPeerPasses) => {
                "503 only while another member passes: none is known to, and taking this one out would help nobody"
            }
        };
        line(out, component, effect)?;
        if let Some(votes) = attribution(report, component) {
            say(out, &votes, INDENT + 11)?;
        }
    }
    for latch in &report.latches {
        say(out, &format!("{}: {} (by {}); `{}` ends it", latch.kind.name(), latch.reason, latch.by, latch.clear), 2)?;
    }
    if let Some(why) = report.lifecycle.drain() {
        say(out, &format!("drain: {why}; it ends when Auto Scaling has this instance in service"), 2)?;
    }
    let serve = if verdict.can_serve { "counts" } else { "does not count" };
    writeln!(out)?;
    say(out, &format!("It {serve} as one that can serve when the region is judged."), 2)?;
    say(out, "It opens when what closed it has passed `rise` times in a row. Unknown opens and closes nothing.", 2)
}

fn region(out: &mut String, report: &Report) -> std::fmt::Result {
    let verdict = &report.verdicts.region;
    let since = page::span_since(verdict.since, report);
    writeln!(out, "{BOLD}Can this region serve?{BOLD:#}  {} {}, for {since}", verdict.code, verdict.state.name())?;
    say(out, "Route 53 asks `/health/region` through the load balancer: any member's answer counts for all.", 2)?;
    say(out, &format!("Now: {}.", report.acts.region), 2)?;
    writeln!(out)?;
    for component in &report.components {
        let held = verdict.holds.iter().any(|hold| hold.on == component.name);
        let effect = match row(component).map(|row| row.region) {
            _ if held => "holds: see below",
            None | Some(OnRegion::Keeps) => "keeps the region open",
            Some(OnRegion::Capacity) => "counts only through the rule that somebody must be able to serve",
            Some(OnRegion::AfterHold) => "closes the region after its hold, if no member passes",
            Some(OnRegion::Holds) => "neither closes nor opens it: a running hold stands still",
        };
        line(out, component, effect)?;
    }
    let holds = page::holds(verdict);
    writeln!(out)?;
    if let Some(why) = told_to_close(report) {
        // It opens by another rule.
        say(out, &why, 2)?;
    } else {
        if holds.is_empty() {
            say(out, "No 503 condition holds.", 2)?;
        }
        for hold in &holds {
            say(out, hold, 2)?;
        }
        say(out, "It opens after `verdict.reopen` in which no 503 condition held and nothing was unknown.", 2)?;
    }
    if verdict.state == RegionState::Standby {
        say(
            out,
            "As the standby it never closes for a dependency: with both regions' records failing, Route 53 answers with the home region, dead or not.",
            2,
        )?;
    }
    Ok(())
}

/// Why the region is closed whatever its components are, if it is.
fn told_to_close(report: &Report) -> Option<String> {
    let verdict = &report.verdicts.region;
    let is_fenced = verdict.state == RegionState::Fenced;
    let Some(authority) = &report.authority else {
        return is_fenced.then(|| "Closed by the marker `fenced`, and by nothing that this agent knows.".to_owned());
    };
    let is_drill = authority.why.contains(&Reason::Drill.to_string());
    // Where it is settled who owns the data, what the components did may still keep the door shut.
    let settled = [State::Owner, State::Standby, State::Uninitialised].map(State::name);
    let is_unsettled = !settled.contains(&authority.state.as_str()) && verdict.holds.is_empty();
    let is_told = is_fenced || !verdict.state.is_ok() && (is_drill || is_unsettled);
    is_told.then(|| format!("Closed by who owns the data, {}: {}.", authority.state, authority.why.join("; ")))
}

fn replace(out: &mut String, report: &Report) -> std::fmt::Result {
    let replacement = &report.replacement;
    writeln!(out, "{BOLD}Is this instance to be replaced?{BOLD:#}  {}", replacement.plan)?;
    say(
        out,
        "The agent asks the group, and then Auto Scaling, when this instance alone has a fault that goes with it.",
        2,
    )?;
    say(out, &format!("Now: {}.", replacement.words), 2)?;
    writeln!(out)?;
    for component in &report.components {
        let effect = match row(component).map(|row| row.replacement) {
            None => "no reason",
            Some(OnReplacement::Never) => "no reason: a new instance would have it too",
            Some(OnReplacement::AfterLadder) => "a reason once restarting it did not help",
            Some(OnReplacement::LocalAfterLadder) => "a reason if it is this instance's own, once repairs did not help",
            Some(OnReplacement::LocalOnly) => "a reason if it is this instance's own",
            Some(OnReplacement::Yes) => "a reason",
        };
        line(out, component, effect)?;
    }
    writeln!(out)?;
    let mode = if replacement.enforce { "enforce: it acts" } else { "observe: it only counts" };
    say(out, &format!("`replace.mode` is {mode}."), 2)
}

fn repoint(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "{BOLD}Which database does the app use?{BOLD:#}")?;
    let Some(authority) = &report.authority else {
        return say(
            out,
            "Nobody decides: with one region, or without a database or [authority], nothing is repointed.",
            2,
        );
    };
    let known = authority
        .known
        .as_ref()
        .map_or_else(|| "no epoch is known".to_owned(), |known| format!("epoch {} is {}'s", known.epoch, known.region));
    say(out, &format!("This region, {}, is {}: {known}.", authority.region, authority.state), 2)?;
    for why in &authority.why {
        say(out, &format!("because {why}"), 4)?;
    }
    writeln!(out)?;
    for line in &authority.repoint {
        say(out, line, 2)?;
    }
    for problem in &authority.problems {
        say(out, &format!("In vain: {problem}"), 2)?;
    }
    writeln!(out)?;
    say(
        out,
        "A writer is given only when its database is no replica on three fresh connections and its newest row names its own region; it stays only if the app is seen to reach it.",
        2,
    )
}

fn line(out: &mut String, component: &Component, effect: &str) -> std::fmt::Result {
    let style = status_style(component.status);
    let word = status_word(component.status);
    let cause = component.cause.as_deref().map(|cause| format!("{cause}: ")).unwrap_or_default();
    let masked = if page::is_explained(component) { "; another fault may explain it" } else { "" };
    let what = wrap(&format!("{cause}{effect}{masked}"), INDENT + 11);
    writeln!(out, "  {:<8}  {style}{word:<9}{style:#}  {what}", component.name)
}

fn say(out: &mut String, text: &str, indent: usize) -> std::fmt::Result {
    writeln!(out, "{:indent$}{}", "", wrap(text, indent))
}

/// Whether another member votes healthy.
fn passes_elsewhere(report: &Report, component: &Component) -> bool {
    let members = report.group.iter().flat_map(|group| &group.members);
    members.into_iter().any(|member| member.votes.get(&component.name) == Some(&Vote::Healthy))
}

/// There are others, and none is asked for want of a key.
fn is_deaf(report: &Report) -> bool {
    let no_key = Silence::NoKey.name();
    let members = report.group.as_ref().map_or(&[][..], |group| &group.members);
    !members.is_empty() && members.iter().all(|member| member.silence.as_deref() == Some(no_key))
}

/// Whose fault it is and by which votes, where somebody was asked.
fn attribution(report: &Report, component: &Component) -> Option<String> {
    let domain = component.domain.as_deref()?;
    let members = &report.group.as_ref().filter(|group| !group.members.is_empty())?.members;
    let votes = |vote| members.iter().filter(|member| member.votes.get(&component.name) == Some(&vote)).count();
    let (healthy, failing) = (votes(Vote::Healthy), votes(Vote::Failing));
    let near =
        members.iter().any(|member| member.in_my_zone && member.votes.get(&component.name) == Some(&Vote::Healthy));
    let near = if near { ", one of them in my zone" } else { "" };
    let asked = members.len();
    Some(format!("domain {domain}: of {asked} asked {healthy} vote healthy{near}, {failing} failing"))
}

/// The row of the component's cause; none for a cause that only a newer agent knows.
fn row(component: &Component) -> Option<&'static Row> {
    let cause = component.cause.as_deref()?;
    TABLE.iter().find(|row| row.name == cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Kind, sample};

    #[test]
    fn both_verdicts_in_trouble() {
        let text = text(&sample::trouble(Kind::Live), None);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r"
        Can this instance serve?  503 draining, for 29 s
          The load balancer asks `/health/instance` through nginx.
          Now: the load balancer stops sending it requests, unless no instance passes: then it sends to all.

          nginx     healthy    keeps the instance open
          app       UNHEALTHY  app-timeout: 503 only while another member passes: none is known to, and
                               taking this one out would help nobody; another fault may explain it
          efs       UNHEALTHY  efs-hung: 503 only while another member passes: none is known to, and taking
                               this one out would help nobody
          database  degraded   database-slow: keeps the instance open
          host      healthy    keeps the instance open
          wiring    healthy    keeps the instance open
          queue     healthy    keeps the instance open
          drain: deploy 42 (by alice); `dr-agent undrain` ends it

          It counts as one that can serve when the region is judged.
          It opens when what closed it has passed `rise` times in a row. Unknown opens and closes nothing.

        Can this region serve?  200 open, for 29 s
          Route 53 asks `/health/region` through the load balancer: any member's answer counts for all.
          Now: Route 53 keeps this region's record.

          nginx     healthy    keeps the region open
          app       UNHEALTHY  app-timeout: counts only through the rule that somebody must be able to
                               serve; another fault may explain it
          efs       UNHEALTHY  efs-hung: holds: see below
          database  degraded   database-slow: keeps the region open
          host      healthy    keeps the region open
          wiring    healthy    keeps the region open
          queue     healthy    keeps the region open

          efs fails and no member passes, for 21 s: closes in 39 s if that stays
          It opens after `verdict.reopen` in which no 503 condition held and nothing was unknown.

        Is this instance to be replaced?  refused
          The agent asks the group, and then Auto Scaling, when this instance alone has a fault that goes
          with it.
          Now: efs-hung: not replaced: NotEnforcing: `replace.mode` is `observe`, or there is no usable
          `key_file`: it is only counted; Draining: the instance drains: whoever drains it looks after it;
          PeersShareIt: no other member is known to be free of the same fault; counted so far as one that
          would have been replaced: 1.

          nginx     healthy    no reason
          app       UNHEALTHY  app-timeout: no reason: a new instance would have it too; another fault may
                               explain it
          efs       UNHEALTHY  efs-hung: a reason if it is this instance's own
          database  degraded   database-slow: no reason: a new instance would have it too
          host      healthy    no reason
          wiring    healthy    no reason
          queue     healthy    no reason

          `replace.mode` is observe: it only counts.

        Which database does the app use?
          Nobody decides: with one region, or without a database or [authority], nothing is repointed.
        ");
    }

    #[test]
    fn the_apps_database_is_explained() {
        let mut report = sample::well(Kind::Live, "us-east-1");
        assert!(text(&report, Some(Verdict::Repoint)).contains("Nobody decides"));
        report.authority = Some(sample::standby());
        insta::assert_snapshot!(anstream::adapter::strip_str(&text(&report, Some(Verdict::Repoint))).to_string(), @r"
        Which database does the app use?
          This region, us-east-1, is STANDBY: epoch 1 is ap-south-1's.
            because this region's database is a replica
            because the other region's database says that it is the owner

          Nothing was decided yet: the app uses what its outputs said before.

          A writer is given only when its database is no replica on three fresh connections and its newest
          row names its own region; it stays only if the app is seen to reach it.
        ");
    }

    #[test]
    fn a_closed_region_says_whose_doing_it_is() {
        let told = |state: RegionState, of: State, why: Reason| {
            let mut report = sample::trouble(Kind::Live);
            report.verdicts.region.state = state;
            report.authority = Some(sample::standby_with(&|said| {
                said.decision.state = of;
                said.decision.why = vec![why.clone()];
            }));
            let text = anstream::adapter::strip_str(&text(&report, Some(Verdict::Region))).to_string();
            (text.contains("Closed by who owns the data"), text.contains("It opens after `verdict.reopen`"))
        };
        // A hold runs all the while, for the mount.
        assert_eq!(told(RegionState::Fenced, State::Superseded, Reason::Replica), (true, false));
        assert_eq!(told(RegionState::Closed, State::Owner, Reason::Drill), (true, false));
        assert_eq!(told(RegionState::Closed, State::Owner, Reason::StillBooting), (false, true));
        assert_eq!(told(RegionState::Open, State::Owner, Reason::Drill), (false, true));
        // No hold: the first looks after a restart of a region that was closed, and one that waits for who owns the data.
        let mut report = sample::well(Kind::Live, "us-east-1");
        report.verdicts.region.state = RegionState::Closed;
        assert!(text(&report, Some(Verdict::Region)).contains("No 503 condition holds"));
        report.authority = Some(sample::standby_with(&|said| said.decision.state = State::Boot));
        assert!(text(&report, Some(Verdict::Region)).contains("Closed by who owns the data, BOOT"));
    }

    #[test]
    fn the_standby_says_why_it_stays_open() {
        let text = text(&sample::well(Kind::Live, "us-east-1"), Some(Verdict::Region));
        assert!(text.contains("As the standby it never closes for a dependency"), "{text}");
    }
}
