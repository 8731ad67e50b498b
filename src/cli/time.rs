//! Times as people write and read them.

use std::time::Duration;

use jiff::civil::{DateTime, Time};
use jiff::fmt::friendly::SpanParser;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, ZonedDateTime};

use crate::clock;

/// The longest time a latch may be asked for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long a latch is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    For(Duration),
    /// Until the machine reboots.
    Boot,
}

/// `1h`, `30m`, `boot`.
pub(super) fn span(text: &str) -> Result<Span, String> {
    if text == "boot" {
        return Ok(Span::Boot);
    }
    length(text).map(Span::For).map_err(|wrong| format!("{wrong}, or `boot`"))
}

/// `1h`, `30m`: of what must end by itself.
pub(super) fn length(text: &str) -> Result<Duration, String> {
    let span = SpanParser::new().parse_unsigned_duration(text).map_err(|_| "write it as `30m` or `1h`".to_owned())?;
    if span > LONGEST {
        Err("at most 24h".to_owned())
    } else if span < Duration::from_secs(1) {
        Err("at least 1s".to_owned())
    } else {
        Ok(span)
    }
}

/// `12s`.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    SpanParser::new().parse_unsigned_duration(text).map_err(|_| "write it as `12s`".to_owned())
}

/// A moment: `03:00` (the last one), `2026-11-23 03:00`, both local; RFC 3339; `-2h`.
pub(super) fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, &clock::wall().to_zoned_datetime(TimeZone::system()))
}

fn parse_at(text: &str, now: &ZonedDateTime) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Some(ago) = text.strip_prefix('-') {
        let ago = SpanParser::new().parse_unsigned_duration(ago).map_err(|_| wrong())?;
        return now.timestamp().checked_sub(ago).map_err(|_| "is too long ago".to_owned());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(at) = text.parse::<DateTime>() {
        return local(at, now);
    }
    let time = text.parse::<Time>().map_err(|_| wrong())?;
    let today = now.datetime().date().to_datetime(time);
    let last = if today > now.datetime() { today.checked_sub(1.day()).map_err(|_| wrong())? } else { today };
    local(last, now)
}

fn local(at: DateTime, now: &ZonedDateTime) -> Result<Timestamp, String> {
    at.to_zoned_datetime(now.time_zone().clone()).map(|at| at.timestamp()).map_err(|_| wrong())
}

fn wrong() -> String {
    "write it as `03:00`, `2026-11-23 03:00`, `2026-11-23T03:00:00Z` or `-2h`".to_owned()
}

/// The time in a zone, with its offset.
pub(super) fn show(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// A span in its one or two largest units.
pub(super) fn show_span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The time between two moments, zero if the wall clock was set back between them.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let zone = TimeZone::fixed(jiff::tz::Offset::from_seconds(5 * 3600 + 1800).unwrap());
        let now: Timestamp = "2026-11-24T21:40:00Z".parse().unwrap();
        let now = now.to_zoned_datetime(zone.clone());
        let read = |text| parse_at(text, &now).map(|at| show(at, &zone));
        assert_eq!(read("03:00").unwrap(), "2026-11-25 03:00:00 +05:30");
        // Not yet today: yesterday's.
        assert_eq!(read("04:00").unwrap(), "2026-11-24 04:00:00 +05:30");
        assert_eq!(read("2026-11-01 12:30").unwrap(), "2026-11-01 12:30:00 +05:30");
        assert_eq!(read("-2h").unwrap(), "2026-11-25 01:10:00 +05:30");
        assert_eq!(read("2026-11-24T21:00:00Z").unwrap(), "2026-11-25 02:30:00 +05:30");
        for bad in ["yesterday", "-2", "25:00", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_latch_ends_within_a_day_or_with_the_boot() {
        assert_eq!(span("30m"), Ok(Span::For(Duration::from_secs(1800))));
        assert_eq!(span("boot"), Ok(Span::Boot));
        assert!(length("boot").is_err(), "what must end by itself has a time");
        for bad in ["25h", "5", "0s", "always", "-1h"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
