//! `dr-agent status`.

use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::signal;
use tokio::time::{MissedTickBehavior, interval};

use super::client::{self, Error};
use super::{Exit, Format, StatusArgs, page, render};
use crate::bootstrap::Record;
use crate::report::Report;

/// How often `--watch` draws.
const REDRAW: Duration = Duration::from_secs(1);

pub(super) fn run(socket: &Path, args: &StatusArgs) -> Exit {
    if args.watch {
        return client::block_on(watch(socket, args.format)).unwrap_or_else(|error| error.show());
    }
    match client::block_on(client::report(socket)) {
        Ok(mut report) => {
            report.bootstrap = Record::newest(socket);
            render::data(&text(&report, args.format));
            report.overall().into()
        }
        Err(error) => error.show(),
    }
}

fn text(report: &Report, format: Format) -> String {
    match format {
        Format::Text => page::report(report, &TimeZone::system()),
        Format::Json => page::json(report),
    }
}

/// Draws until Ctrl-C, also while the agent is away.
async fn watch(socket: &Path, format: Format) -> Result<Exit, Error> {
    let mut tick = interval(REDRAW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = Exit::Ok;
    loop {
        tokio::select! {
            _ = signal::ctrl_c() => return Ok(last),
            _ = tick.tick() => {}
        }
        last = match client::report(socket).await {
            Ok(mut report) => {
                report.bootstrap = Record::newest(socket);
                render::redraw(&text(&report, format));
                report.overall().into()
            }
            Err(error) => {
                render::redraw("");
                error.show()
            }
        };
    }
}
