//! Which latch an order asks for, and why it may not be set. Pure: time is an argument.

use std::time::Duration;

use hyper::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer};

use super::Refusal;
use crate::clock::BootTime;
use crate::latches::{Drill, Kind, Latch};
use crate::snapshot::Snapshot;

/// A drain ends by itself, so that a forgotten one does not outlive its reason.
const DRAIN: Duration = Duration::from_secs(60 * 60);

/// A drill is watched by whoever began it.
const DRILL: Duration = Duration::from_secs(10 * 60);

/// The longest drain or drill.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The body of `PUT /latch/KIND`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    reason: String,
    #[serde(default, deserialize_with = "span")]
    seconds: Span,
    #[serde(default)]
    force: bool,
    /// Of a drill: what is to fail.
    #[serde(default)]
    component: Option<String>,
    /// Of a drill: as if it failed everywhere.
    #[serde(default)]
    shared: bool,
}

/// How long a latch is to last.
#[derive(Debug, Clone, Copy, Default)]
enum Span {
    /// Nothing was said.
    #[default]
    Usual,
    UntilReboot,
    Seconds(u64),
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
    Option::deserialize(deserializer).map(|seconds| seconds.map_or(Span::UntilReboot, Span::Seconds))
}

/// What is known when the order comes.
#[derive(Debug)]
pub(super) struct Seen {
    /// Other instances that answer healthy, as far as their last words go.
    pub others: usize,
    /// What can fail here.
    components: Vec<String>,
    /// Why the other region would not take the traffic well; `None` if it would.
    other_region: Option<String>,
}

impl Seen {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let said = snapshot.authority.as_deref();
        Self {
            others: snapshot.group.serving.len(),
            components: snapshot.components.iter().map(|(state, _)| state.component.name().to_owned()).collect(),
            other_region: said.map_or(Some("there is no other region".to_owned()), |said| {
                said.other_ready.err().map(|refused| refused.sentence().to_owned())
            }),
        }
    }
}

/// The latch that an order asks for, if it may be set; the time is given on both clocks.
pub(super) fn plan(
    kind: Kind,
    order: &Order,
    seen: &Seen,
    boot: &str,
    (now, at): (BootTime, Timestamp),
) -> Result<Latch, Refusal> {
    let refuse = |error: &str, hint| Err(Refusal::new(StatusCode::CONFLICT, error, hint));
    let reason = order.reason.trim();
    if reason.is_empty() {
        return refuse("a reason is needed", "say why, for whoever finds it: `--reason TEXT`");
    }
    // It is shown on terminals, in logs and in files of lines.
    if reason.contains(char::is_control) {
        return refuse("the reason has a control character in it", "write it on one line, without tabs or escapes");
    }
    let span = match (order.seconds, kind) {
        (Span::Seconds(seconds), _) => Some(Duration::from_secs(seconds)),
        (Span::Usual, Kind::Drain) => Some(DRAIN),
        (Span::Usual | Span::UntilReboot, Kind::Drill) => Some(DRILL),
        (Span::Usual, Kind::Hold) | (Span::UntilReboot, _) => None,
    };
    if span == Some(Duration::ZERO) {
        return refuse("it would end at once", "say how long: `--for 1h`");
    }
    if kind != Kind::Hold && span.is_some_and(|span| span > LONGEST) {
        return refuse("it lasts at most 24 h", "ask for less, or take the instance out of its group");
    }
    if kind == Kind::Drain && seen.others == 0 && !order.force {
        return refuse(
            "no other instance is known to be healthy: the load balancer would send all requests here none the less",
            "`--force` drains it anyway",
        );
    }
    let end = |span: Duration| at.checked_add(SignedDuration::try_from(span)?);
    let Ok(until) = span.map(end).transpose() else {
        return refuse("that is longer than time", "leave the end open, or name one that will come");
    };
    Ok(Latch {
        kind,
        reason: reason.to_owned(),
        by: String::new(),
        at,
        until,
        until_boot: span.map(|span| now + span),
        boot: boot.to_owned(),
        drill: if kind == Kind::Drill { Some(drill(order, seen)?) } else { None },
    })
}

fn drill(order: &Order, seen: &Seen) -> Result<Drill, Refusal> {
    let refuse = |error: String, hint| Err(Refusal::new(StatusCode::CONFLICT, error, hint));
    let known = seen.components.join(", ");
    let Some(component) = order.component.as_ref().filter(|name| seen.components.contains(name)) else {
        return refuse(format!("no such component: there are {known}"), "name one with `--component`");
    };
    if order.shared
        && !order.force
        && let Some(why) = &seen.other_region
    {
        return refuse(format!("the other region is not ready: {why}"), "`--force` rehearses it all the same");
    }
    Ok(Drill { component: component.clone(), shared: order.shared })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-11-25T03:00:00Z";
    const NOW: BootTime = BootTime::from_boot(Duration::from_secs(1_000));

    fn planned(kind: Kind, body: &str, others: usize) -> Result<Latch, (u16, String)> {
        let order: Order = serde_json::from_str(body).unwrap();
        let components = vec!["nginx".to_owned(), "efs".to_owned()];
        let seen = Seen { others, components, other_region: Some("it is silent".to_owned()) };
        plan(kind, &order, &seen, "boot", (NOW, AT.parse().unwrap()))
            .map_err(|refusal| (refusal.status.as_u16(), refusal.error))
    }

    #[test]
    fn a_drain_ends_by_itself_and_takes_at_most_a_day() {
        let until = |body, kind| planned(kind, body, 1).unwrap().until.map(|until| until.to_string());
        assert_eq!(until(r#"{"reason":"x"}"#, Kind::Drain).as_deref(), Some("2026-11-25T04:00:00Z"));
        assert_eq!(until(r#"{"reason":"x","seconds":60}"#, Kind::Drain).as_deref(), Some("2026-11-25T03:01:00Z"));
        assert_eq!(until(r#"{"reason":"x","seconds":null}"#, Kind::Drain), None);
        assert_eq!(until(r#"{"reason":"x"}"#, Kind::Hold), None);
        let until_boot = |body| planned(Kind::Drain, body, 1).unwrap().until_boot;
        assert_eq!(until_boot(r#"{"reason":"x","seconds":60}"#), Some(NOW + Duration::from_secs(60)));
        assert_eq!(until_boot(r#"{"reason":"x","seconds":null}"#), None);
        assert_eq!(planned(Kind::Drain, r#"{"reason":"x","seconds":86401}"#, 1).unwrap_err().0, 409);
        assert!(planned(Kind::Drain, r#"{"reason":"x","seconds":86400}"#, 1).is_ok());
        assert!(planned(Kind::Hold, r#"{"reason":"x","seconds":86401}"#, 0).is_ok());
        let absurd = format!(r#"{{"reason":"x","seconds":{}}}"#, u64::MAX);
        assert_eq!(planned(Kind::Hold, &absurd, 0).unwrap_err().0, 409);
        assert_eq!(planned(Kind::Hold, r#"{"reason":" "}"#, 0).unwrap_err().0, 409);
        assert_eq!(planned(Kind::Hold, r#"{"reason":"x","seconds":0}"#, 0).unwrap_err().0, 409);
    }

    #[test]
    fn a_drill_always_ends_and_is_about_something_that_is_probed() {
        let drill = |rest: &str| planned(Kind::Drill, &format!(r#"{{"reason":"x",{rest}}}"#), 0);
        for (rest, end) in [
            (r#""component":"efs""#, "2026-11-25T03:10:00Z"),
            (r#""component":"efs","seconds":null"#, "2026-11-25T03:10:00Z"),
            (r#""component":"efs","seconds":60"#, "2026-11-25T03:01:00Z"),
        ] {
            let latch = drill(rest).unwrap();
            assert_eq!(latch.until.unwrap().to_string(), end);
            assert_eq!(latch.drill, Some(Drill { component: "efs".to_owned(), shared: false }));
        }
        assert_eq!(drill(r#""component":"efs","seconds":86401"#).unwrap_err().0, 409);
        for rest in [r#""component":"moon""#, r#""seconds":60"#] {
            assert_eq!(drill(rest).unwrap_err(), (409, "no such component: there are nginx, efs".to_owned()));
        }
        let refused = drill(r#""component":"efs","shared":true"#).unwrap_err();
        assert_eq!(refused, (409, "the other region is not ready: it is silent".to_owned()));
        assert!(drill(r#""component":"efs","shared":true,"force":true"#).unwrap().drill.unwrap().shared);
    }

    #[test]
    fn a_reason_is_one_line_of_text() {
        for reason in [r"x\ny", r"x\ty", r"\u001b[31mx", r"x\u0000", r"x\u007fy", r"x\u009by"] {
            let refused = planned(Kind::Hold, &format!(r#"{{"reason":"{reason}"}}"#), 0).unwrap_err();
            assert_eq!(refused, (409, "the reason has a control character in it".to_owned()), "{reason}");
        }
        let latch = planned(Kind::Hold, r#"{"reason":" Größe \"é\" \n"}"#, 0).unwrap();
        assert_eq!(latch.reason, r#"Größe "é""#, "what stands around it is cut off");
    }

    #[test]
    fn the_last_instance_is_drained_only_by_force() {
        assert_eq!(planned(Kind::Drain, r#"{"reason":"x"}"#, 0).unwrap_err().0, 409);
        assert!(planned(Kind::Drain, r#"{"reason":"x","force":true}"#, 0).is_ok());
        assert!(planned(Kind::Hold, r#"{"reason":"x"}"#, 0).is_ok());
    }
}
