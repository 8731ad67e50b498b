//! What was done or looked at, one by one; and the newest bootstrap on the page of a report.

use std::fmt::{Result, Write};

use jiff::tz::TimeZone;
use serde_json::json;

use super::{hint, title};
use crate::bootstrap::Record;
use crate::cli::render::{status_style, status_word, wrap};
use crate::cli::time::show;
use crate::health::cause::Status;
use crate::report::items::{Item, overall};
use crate::report::{Report, SCHEMA};

/// All of them, for people.
pub(in crate::cli) fn items(items: &[Item]) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = items.iter().try_for_each(|item| write(&mut page, item, name_width(items)));
    page
}

/// All of them, for programs.
pub(in crate::cli) fn items_json(items: &[Item]) -> String {
    let all = json!({ "schema": SCHEMA, "kind": "offline", "status": overall(items), "items": items });
    format!("{all:#}\n")
}

fn name_width(items: &[Item]) -> usize {
    items.iter().map(|item| item.name.len()).max().unwrap_or_default()
}

fn write(page: &mut String, item: &Item, width: usize) -> Result {
    let style = status_style(item.status);
    let word = status_word(item.status);
    let before = width + 15;
    writeln!(page, "  {:<width$}  {style}{word:<9}{style:#}  {}", item.name, wrap(&item.words, before))?;
    match &item.hint {
        Some(text) => hint(page, before, text),
        None => Ok(()),
    }
}

/// What the newest bootstrap of this boot left undone.
pub(super) fn bootstrap(page: &mut String, report: &Report, zone: &TimeZone) -> Result {
    let Some(record) = &report.bootstrap else { return Ok(()) };
    if record.status(report.at) == Status::Healthy {
        return Ok(());
    }
    title(page, "Bootstrap")?;
    let began = show(record.began, zone);
    if record.is_overdue(report.at) {
        writeln!(page, "  {}", wrap(&format!("began at {began} and was ended before it was done"), 2))?;
        hint(page, 2, "`journalctl -b -u dr-agent-bootstrap` says by whom; `systemctl restart dr-agent-bootstrap`")?;
    } else if record.ended.is_none() {
        writeln!(page, "  is at work since {began}")?;
    }
    let mut found = record.items.iter().filter(|item| item.status != Status::Healthy);
    found.try_for_each(|item| write(page, item, name_width(&record.items)))
}

/// The same in a few words.
pub(super) fn summary(report: &Report) -> Option<String> {
    let record: &Record = report.bootstrap.as_ref()?;
    let names = |status| {
        let found = record.items.iter().filter(move |item| item.status == status);
        found.map(|item| item.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    match record.status(report.at) {
        Status::Healthy | Status::Starting => None,
        _ if record.is_overdue(report.at) => Some("the bootstrap of this boot was ended before it was done".to_owned()),
        Status::Degraded => {
            Some(format!("the bootstrap of this boot left something to do: {}", names(Status::Degraded)))
        }
        _ => Some(format!("the bootstrap of this boot failed: {}", names(Status::Unhealthy))),
    }
}
