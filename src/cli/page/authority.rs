//! Who owns the data, on the page of a report.

use std::fmt::Write;

use jiff::tz::TimeZone;

use super::super::render::{status_style, wrap};
use super::super::time::show;
use super::{hint, title};
use crate::authority::Claim;
use crate::authority::why::Reason;
use crate::health::cause::Status;
use crate::report::Report;

/// Columns before what is said.
const INDENT: usize = 12;

/// What a person must know first, for the headline.
pub(super) fn summary(report: &Report) -> Option<String> {
    let authority = report.whose()?;
    match (&authority.notice, &authority.readiness) {
        (Some(notice), _) => Some(notice.happened.clone()),
        (None, Some(readiness)) if !readiness.ready => Some("this region could not take over now".to_owned()),
        // Where only nothing could be read, somebody may have.
        _ if authority.why.contains(&Reason::NobodyEverClaimed.to_string()) => {
            Some("no epoch is known yet: once both regions run, `dr-agent authority init` writes the first".to_owned())
        }
        _ => None,
    }
}

/// What happened, since when, what may be lost, and what to do.
pub(super) fn notice(page: &mut String, report: &Report, zone: &TimeZone) -> std::fmt::Result {
    let Some(notice) = report.whose().and_then(|authority| authority.notice.as_ref()) else { return Ok(()) };
    title(page, "What happened to this region")?;
    line(page, "what", &notice.happened)?;
    line(page, "since", &notice.since.map_or_else(|| "not known".to_owned(), |since| show(since, zone)))?;
    line(page, "lost", &notice.lost)?;
    for next in &notice.next {
        hint(page, 2, next)?;
    }
    Ok(())
}

pub(super) fn write(page: &mut String, report: &Report, zone: &TimeZone) -> std::fmt::Result {
    let Some(authority) = report.whose() else { return Ok(()) };
    title(page, "Who owns the data")?;
    let claim = |claim: &Option<Claim>| {
        claim.as_ref().map_or_else(|| "none".to_owned(), |claim| format!("epoch {} of {}", claim.epoch, claim.region))
    };
    let since = authority.since.map(|since| format!(", since {}", show(since, zone))).unwrap_or_default();
    line(page, "state", &format!("{}{since}: {}", authority.state, authority.why.join("; ")))?;
    let own = if authority.own == authority.known { "the same".to_owned() } else { claim(&authority.own) };
    line(
        page,
        "epoch",
        &format!("highest known: {}; in the database here ({}): {own}", claim(&authority.known), authority.role),
    )?;
    if let Some(lag) = &authority.lag {
        line(page, "lag", &format!("{:.1} s, by the {}", lag.seconds, lag.by))?;
    }
    for alarm in &authority.alarms {
        finding(page, "alarm", alarm)?;
    }
    for problem in &authority.problems {
        finding(page, "problem", problem)?;
    }
    if let Some(failover) = &authority.failover {
        line(page, "failover", &format!("{}; {}", failover.headline(), failover.loss()))?;
    }
    let Some(readiness) = &authority.readiness else { return Ok(()) };
    for item in &readiness.items {
        match item.ok {
            Some(true) => line(page, &item.name, &item.words)?,
            Some(false) => finding(page, &item.name, &item.words)?,
            None => line(page, &item.name, &format!("unknown: {}", item.words))?,
        }
    }
    line(page, "now", &readiness.sentence)
}

fn line(page: &mut String, name: &str, what: &str) -> std::fmt::Result {
    let indent = INDENT + 5;
    writeln!(page, "  {name:<13}  {}", wrap(what, indent))
}

fn finding(page: &mut String, name: &str, what: &str) -> std::fmt::Result {
    let style = status_style(Status::Degraded);
    writeln!(page, "  {style}{name:<13}{style:#}  {}", wrap(what, INDENT + 5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::State;
    use crate::report::sample;

    fn text(report: &Report) -> String {
        let mut page = String::new();
        notice(&mut page, report, &TimeZone::UTC).unwrap();
        write(&mut page, report, &TimeZone::UTC).unwrap();
        anstream::adapter::strip_str(&page).to_string()
    }

    #[test]
    fn a_standby_says_whether_it_is_ready() {
        let mut report = sample::well(crate::report::Kind::Live, "us-east-1");
        report.authority = Some(sample::standby());
        insta::assert_snapshot!(text(&report), @r"
        Who owns the data
          state          STANDBY, since 2026-11-23 21:42:07 +00:00: this region's database is a replica; the
                         other region's database says that it is the owner
          epoch          highest known: epoch 1 of ap-south-1; in the database here (replica): the same
          lag            1.2 s, by the heartbeat
          database       the database here is a replica and has the newest epoch
          lag            the replica is 1.2 s behind, by the heartbeat
          link           replication receives and applies
          efs            the mount is healthy
          serving        this instance works, and the region answers Route 53 200
          configuration  both regions have the same configuration
          capacity       unknown: the members of the group are not known
          other          the other region answers and reads its database; its database, seen from here, is
                         writable
          now            if ap-south-1 died now, Route 53 would send its users here, and once somebody
                         promoted the database it would be claimed as epoch 2 and written to, without the
                         last 1.2 s at most
        ");
        assert_eq!(summary(&report), None);
    }

    #[test]
    fn a_superseded_region_says_what_happened_first() {
        let mut report = sample::well(crate::report::Kind::Live, "us-east-1");
        report.authority = Some(sample::standby_with(&|said| said.decision.state = State::Superseded));
        let text = text(&report);
        assert!(text.starts_with("\nWhat happened to this region\n  what "), "{text}");
        assert!(text.contains("Failback"), "{text}");
        assert_eq!(report.overall(), Status::Unhealthy);
        assert!(summary(&report).unwrap().contains("superseded"));
    }

    #[test]
    fn without_authority_nothing_is_said() {
        assert_eq!(text(&sample::newcomer()), "");
    }
}
