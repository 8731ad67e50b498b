//! `dr-agent drain`, `undrain`, `hold`.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use super::check::aws::{known, metadata, value};
use super::time::{Span, show_span};
use super::{Exit, client, render};
use crate::aws::{Aws, Failure};
use crate::latches::{Drill, Kind};
use crate::report::Report;
use crate::report::aws::{GROUP, INSTANCE, REGION, ends_what_fails};

/// Asking what Auto Scaling does to a drained instance.
const GROUP_LIMIT: Duration = Duration::from_secs(6);

/// The body of `PUT /latch/KIND`.
#[derive(Debug, Serialize)]
pub(super) struct Order<'a> {
    pub reason: &'a str,
    /// `None`: until the machine reboots.
    pub seconds: Option<u64>,
    pub force: bool,
    /// Of a drill. An agent that knows of none takes no order with it.
    #[serde(flatten)]
    pub drill: Option<Drill>,
}

/// What the agent says beside having done it.
#[derive(Debug, Default, Deserialize)]
struct Done {
    /// Other instances that answer healthy, as far as is known.
    #[serde(default)]
    others: Option<usize>,
    /// Of an order to end one: what was ended.
    #[serde(default)]
    latch: Option<Value>,
}

pub(super) fn set(socket: &Path, kind: Kind, reason: &str, span: Span, force: bool) -> Exit {
    if kind == Kind::Drain && !force && is_ended_by_drain(socket) {
        return Exit::Usage;
    }
    let seconds = match span {
        Span::For(span) => Some(span.as_secs()),
        Span::Boot => None,
    };
    order(socket, kind, &Order { reason, seconds, force, drill: None })
}

pub(super) fn order(socket: &Path, kind: Kind, order: &Order<'_>) -> Exit {
    let ends = match order.seconds {
        Some(seconds) => format!("in {}", show_span(Duration::from_secs(seconds))),
        None => "with the next reboot".to_owned(),
    };
    // A structure of two texts and numbers always becomes JSON.
    let body = serde_json::to_vec(order).unwrap_or_default();
    let path = format!("/latch/{}", kind.name());
    match client::block_on(client::ask(socket, Method::PUT, &path, body)) {
        Ok(answer) => {
            let done = serde_json::from_slice::<Done>(&answer).unwrap_or_default();
            if let (Kind::Drain, Some(others)) = (kind, done.others) {
                render::note(match others {
                    0 => {
                        "no other instance is known to be healthy: the load balancer may send requests here none the less".to_owned()
                    }
                    1 => "one other instance is known to be healthy".to_owned(),
                    others => format!("{others} other instances are known to be healthy"),
                });
            }
            render::note(format_args!("{} is set and ends {ends}; `{}` ends it now", kind.name(), kind.clearing()));
            Exit::Ok
        }
        Err(error) => error.show(),
    }
}

/// Whether a drain makes Auto Scaling end this instance; says so, or that it could not be told.
fn is_ended_by_drain(socket: &Path) -> bool {
    crate::install_crypto_provider();
    let asked = client::block_on(async {
        let live = client::report(socket).await?;
        Ok(timeout(GROUP_LIMIT, Box::pin(health_check_types(&live))).await)
    });
    let why = match asked {
        Ok(Ok(Ok(types))) => {
            let ending = ends_what_fails(&types);
            if ending.is_empty() {
                return false;
            }
            render::errors(&[format!(
                "the group's health check type is {}: Auto Scaling would end this instance for being drained",
                ending.join(" and ")
            )]);
            render::hint("make it EC2 (see `dr-agent check`), or let it end with `--force`");
            return true;
        }
        // It says so itself when it is given the order.
        Err(_) => return false,
        Ok(Ok(Err(failure))) => failure.words(),
        Ok(Err(_)) => "nobody answered in time".to_owned(),
    };
    render::note(format_args!(
        "what the group's health check does is not known ({why}): if its type is ELB, Auto Scaling ends this instance"
    ));
    false
}

/// Of this instance's group; none where it is in none, or is no instance.
async fn health_check_types(live: &Report) -> Result<Vec<String>, Failure> {
    let metadata = metadata().await;
    let known = known(&metadata, Some(live), None);
    let (Some(instance), Some(region)) = (value(&known, INSTANCE), value(&known, REGION)) else {
        return Ok(Vec::new());
    };
    let aws = Aws::default();
    let group = match value(&known, GROUP) {
        Some(group) => Some(group.to_owned()),
        None => aws.group_of(region, instance).await?,
    };
    let Some(group) = group else { return Ok(Vec::new()) };
    Ok(aws.health_check_types(region, &group).await?.unwrap_or_default())
}

pub(super) fn clear(socket: &Path, kind: Kind) -> Exit {
    let path = format!("/latch/{}", kind.name());
    match client::block_on(client::ask(socket, Method::DELETE, &path, Vec::new())) {
        Ok(answer) => {
            let done = serde_json::from_slice::<Done>(&answer).unwrap_or_default();
            let words = if done.latch.is_some() { "has ended" } else { "was not set" };
            render::note(format_args!("{} {words}", kind.name()));
            if done.latch.is_none() && kind == Kind::Drill {
                render::hint("`dr-agent fence release` ends a drill of the region");
            }
            Exit::Ok
        }
        Err(error) => error.show(),
    }
}
