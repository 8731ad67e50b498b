//! `dr-agent history`.

use std::fmt::Write;
use std::path::Path;

use hyper::Method;
use jiff::tz::TimeZone;
use serde::de::DeserializeOwned;

use super::client::{self, Error};
use super::render::{self, BOLD, DIM, wrap};
use super::{Exit, Format, HistoryArgs, time};
use crate::authority::ledger::Failover;
use crate::replace::records::{Record, Told};
use crate::snapshot::HistoryEntry;

/// Columns before the detail.
const INDENT: usize = 28;

pub(super) fn run(socket: &Path, args: &HistoryArgs) -> Exit {
    let format = args.format;
    if args.group {
        let empty = "no instance of this group is known to have been replaced within 30 days";
        return list(socket, "/records", format, empty, records);
    }
    if args.failovers {
        return list(socket, "/failovers", format, "this agent has seen no change of the owner of the data", ledger);
    }
    let bounds = [("since", args.since), ("until", args.until)];
    let query: Vec<_> = bounds.iter().filter_map(|(name, at)| at.map(|at| format!("{name}={at}"))).collect();
    let path = if query.is_empty() { "/history".to_owned() } else { format!("/history?{}", query.join("&")) };
    list(socket, &path, format, "nothing changed in that time", text)
}

/// Shows a list that the agent keeps, or `empty`.
fn list<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    format: Format,
    empty: &str,
    text: impl FnOnce(&[T], &TimeZone) -> String,
) -> Exit {
    let answer = client::block_on(client::ask(socket, Method::GET, path, Vec::new()));
    let listed = answer.and_then(|body| {
        let listed = serde_json::from_slice::<Vec<T>>(&body).map_err(Error::Unreadable)?;
        Ok((body, listed))
    });
    match listed {
        Ok((body, _)) if format == Format::Json => {
            render::data(&String::from_utf8_lossy(&body));
            Exit::Ok
        }
        Ok((_, listed)) => {
            if listed.is_empty() {
                render::note(empty);
            }
            render::data(&text(&listed, &TimeZone::system()));
            Exit::Ok
        }
        Err(error) => error.show(),
    }
}

/// Oldest first: what changed and what may be lost, then each step with the seconds since the first.
fn ledger(told: &[Failover], zone: &TimeZone) -> String {
    let mut out = String::new();
    if !told.is_empty() {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "{BOLD}failovers{BOLD:#}");
    }
    for failover in told {
        let _ = writeln!(out, "{}", failover.headline());
        let _ = writeln!(out, "  {}", wrap(&failover.loss(), 2));
        let steps = failover.steps();
        let first = steps.first().map(|(_, at)| *at);
        for (name, at) in &steps {
            let after = first.map_or(0.0, |first| at.duration_since(first).as_secs_f64());
            let _ = writeln!(out, "  {}  {DIM}+{after:.1} s{DIM:#}  {name}", time::show(*at, zone));
        }
        if !failover.is_over() {
            let _ = writeln!(out, "  it is not over");
        }
    }
    out
}

/// Oldest first: when, which and why; the votes, and what changed there before, below.
fn records(told: &[Told], zone: &TimeZone) -> String {
    let mut out = String::new();
    for Told { record, .. } in told {
        let Record { at, instance, group, cause, detail, votes, transitions, .. } = record;
        let when = time::show(*at, zone);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{when}  {instance} of {group} was to be replaced: {cause}");
        let votes = format!("{} of {} members asked were well", votes.healthy, votes.asked);
        let detail = if detail.is_empty() { votes } else { format!("{detail}; {votes}") };
        let _ = writeln!(out, "  {}", wrap(&detail, 2));
        for line in text(transitions, zone).lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
    out
}

/// Oldest first: local time with its offset, UTC, what changed; the detail below.
fn text(entries: &[HistoryEntry], zone: &TimeZone) -> String {
    let mut out = String::new();
    for entry in entries {
        let HistoryEntry { at, what, from, to, cause, detail } = entry;
        let utc = at.strftime("%H:%M:%SZ");
        let change = if from == to { to.clone() } else { format!("{from} -> {to}") };
        let cause = cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}  {DIM}{utc}{DIM:#}  {what:<9} {change}{cause}", time::show(*at, zone));
        if !detail.is_empty() {
            let _ = writeln!(out, "{:INDENT$}{}", "", wrap(detail, INDENT));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Claim;
    use crate::authority::lag::{Lag, Measure};
    use crate::authority::ledger::{Most, Stop, Times};
    use crate::health::verdict::Tally;

    #[test]
    fn the_groups_records_say_who_went_why_and_what_was_before() {
        let record = Record {
            id: "1".to_owned(),
            at: "2026-11-24T21:42:07Z".parse().unwrap(),
            group: "web".to_owned(),
            instance: "i-0a".to_owned(),
            cause: "efs-hung".to_owned(),
            detail: "/mnt/efs hangs".to_owned(),
            votes: Tally { asked: 3, healthy: 2, failing: 0, near: 1 },
            plan: String::new(),
            transitions: vec![HistoryEntry {
                at: "2026-11-24T21:36:01Z".parse().unwrap(),
                what: "efs".to_owned(),
                from: "healthy".to_owned(),
                to: "unhealthy".to_owned(),
                cause: Some("efs-hung".to_owned()),
                detail: String::new(),
            }],
        };
        let text = records(&[Told { age_seconds: 60, record }], &TimeZone::UTC);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r"
        2026-11-24 21:42:07 +00:00  i-0a of web was to be replaced: efs-hung
          /mnt/efs hangs; 2 of 3 members asked were well
            2026-11-24 21:36:01 +00:00  21:36:01Z  efs       healthy -> unhealthy: efs-hung
        ");
    }

    #[test]
    fn a_failover_is_told_step_by_step() {
        let claim = |epoch, region: &str| Claim { epoch, region: region.to_owned() };
        let at = |text: &str| Some(format!("2026-11-24T21:{text}Z").parse().unwrap());
        let seen = Times {
            replica_gone: at("41:50"),
            proven: at("41:50.4"),
            known: at("41:50.5"),
            took_over: at("41:52"),
            ..Times::default()
        };
        let mut failover = Failover {
            from: claim(1, "ap-south-1"),
            to: claim(2, "us-east-1"),
            region: "us-east-1".to_owned(),
            seen,
            lag: Some(Lag { ms: 2_300, by: Measure::Heartbeat, beat: None }),
            most: Some(Most { ms: 5_100, by: Stop::Closed }),
            was_closed: false,
            lost_ms: None,
            wrote_after_ms: None,
        };
        let open = failover.clone();
        failover.seen.verified = at("41:53.2");
        failover.seen.opened = at("41:53.25");
        let text = ledger(&[open, failover], &TimeZone::UTC);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r"
        failovers
        us-east-1 took over from ap-south-1: epoch 2 after 1
          the new owner's database lacks what ap-south-1 wrote in its last 5.1 s at most, until it was
          closed; 2.3 s if it had stopped when the replica was seen last, by the newest heartbeat that had
          arrived
          2026-11-24 21:41:50 +00:00  +0.0 s  the database here was no replica any more
          2026-11-24 21:41:50 +00:00  +0.4 s  it was proven writable on three connections
          2026-11-24 21:41:50 +00:00  +0.5 s  the epoch was claimed
          2026-11-24 21:41:52 +00:00  +2.0 s  nothing of the old owner was waited for any more
          it is not over
        us-east-1 took over from ap-south-1: epoch 2 after 1
          the new owner's database lacks what ap-south-1 wrote in its last 5.1 s at most, until it was
          closed; 2.3 s if it had stopped when the replica was seen last, by the newest heartbeat that had
          arrived
          2026-11-24 21:41:50 +00:00  +0.0 s  the database here was no replica any more
          2026-11-24 21:41:50 +00:00  +0.4 s  it was proven writable on three connections
          2026-11-24 21:41:50 +00:00  +0.5 s  the epoch was claimed
          2026-11-24 21:41:52 +00:00  +2.0 s  nothing of the old owner was waited for any more
          2026-11-24 21:41:53 +00:00  +3.2 s  the app was seen to reach it
          2026-11-24 21:41:53 +00:00  +3.2 s  users were served
        ");
        assert_eq!(ledger(&[], &TimeZone::UTC), "");
    }

    #[test]
    fn entries_have_local_time_and_utc() {
        let entry = |at: &str, what: &str, to: &str, cause: Option<&str>, detail: &str| HistoryEntry {
            at: at.parse().unwrap(),
            what: what.to_owned(),
            from: "healthy".to_owned(),
            to: to.to_owned(),
            cause: cause.map(str::to_owned),
            detail: detail.to_owned(),
        };
        let entries = [
            entry("2026-11-24T21:40:01.5Z", "nginx", "unhealthy", Some("nginx-refused"), "127.0.0.1:80: refused"),
            entry("2026-11-24T21:42:00Z", "instance", "closed", None, ""),
        ];
        let zone = TimeZone::fixed(jiff::tz::Offset::from_seconds(5 * 3600 + 1800).unwrap());
        let text = anstream::adapter::strip_str(&text(&entries, &zone)).to_string();
        insta::assert_snapshot!(text, @r"
        2026-11-25 03:10:01 +05:30  21:40:01Z  nginx     healthy -> unhealthy: nginx-refused
                                    127.0.0.1:80: refused
        2026-11-25 03:12:00 +05:30  21:42:00Z  instance  healthy -> closed
        ");
    }
}
