//! `dr-agent drain`, `undrain`, `hold`.

use std::path::Path;

use hyper::Method;
use serde::{Deserialize, Serialize};

use super::time::{Span, show_span};
use super::{Exit, client, render};
use crate::latches::Kind;

/// The body of `PUT /latch/KIND`.
#[derive(Debug, Serialize)]
struct Order<'a> {
    reason: &'a str,
    /// `None`: until the machine reboots.
    seconds: Option<u64>,
    force: bool,
}

/// What the agent says beside having done it.
#[derive(Debug, Default, Deserialize)]
struct Done {
    /// Other instances that answer healthy, as far as is known.
    #[serde(default)]
    others: Option<usize>,
}

pub(super) fn set(socket: &Path, kind: Kind, reason: &str, span: Span, force: bool) -> Exit {
    let (seconds, ends) = match span {
        Span::For(span) => (Some(span.as_secs()), format!("in {}", show_span(span))),
        Span::Boot => (None, "with the next reboot".to_owned()),
    };
    let order = Order { reason, seconds, force };
    // A structure of two texts and numbers always becomes JSON.
    let body = serde_json::to_vec(&order).unwrap_or_default();
    let path = format!("/latch/{}", kind.name());
    match client::block_on(client::ask(socket, Method::PUT, &path, body)) {
        Ok(answer) => {
            let done = serde_json::from_slice::<Done>(&answer).unwrap_or_default();
            if let (Kind::Drain, Some(others)) = (kind, done.others) {
                render::note(match others {
                    0 => {
                        "no other instance is known to be healthy: the load balancer may send requests here none the less"
                    }
                    _ => "another instance is known to be healthy",
                });
            }
            render::note(format_args!("{} is set and ends {ends}; `{}` ends it now", kind.name(), kind.clearing()));
            Exit::Ok
        }
        Err(error) => error.show(),
    }
}

pub(super) fn clear(socket: &Path, kind: Kind) -> Exit {
    let path = format!("/latch/{}", kind.name());
    match client::block_on(client::ask(socket, Method::DELETE, &path, Vec::new())) {
        Ok(_) => {
            render::note(format_args!("{} is not set", kind.name()));
            Exit::Ok
        }
        Err(error) => error.show(),
    }
}
