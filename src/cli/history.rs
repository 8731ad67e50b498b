//! `dr-agent history`.

use std::fmt::Write;
use std::path::Path;

use hyper::Method;
use jiff::tz::TimeZone;

use super::client::{self, Error};
use super::render::{self, DIM, wrap};
use super::{Exit, Format, HistoryArgs, time};
use crate::snapshot::HistoryEntry;

/// Columns before the detail.
const INDENT: usize = 28;

pub(super) fn run(socket: &Path, args: &HistoryArgs) -> Exit {
    let bounds = [("since", args.since), ("until", args.until)];
    let query: Vec<_> = bounds.iter().filter_map(|(name, at)| at.map(|at| format!("{name}={at}"))).collect();
    let path = if query.is_empty() { "/history".to_owned() } else { format!("/history?{}", query.join("&")) };
    let answer = client::block_on(client::ask(socket, Method::GET, &path, Vec::new()));
    let entries = answer.and_then(|body| {
        let entries = serde_json::from_slice::<Vec<HistoryEntry>>(&body).map_err(Error::Unreadable)?;
        Ok((body, entries))
    });
    match entries {
        Ok((body, _)) if args.format == Format::Json => {
            render::data(&String::from_utf8_lossy(&body));
            Exit::Ok
        }
        Ok((_, entries)) => {
            if entries.is_empty() {
                render::note("nothing changed in that time");
            }
            render::data(&text(&entries, &TimeZone::system()));
            Exit::Ok
        }
        Err(error) => error.show(),
    }
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
