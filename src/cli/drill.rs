//! `dr-agent drill`.

use std::path::Path;

use super::latch::Order;
use super::{DrillArgs, Exit, authority, latch};
use crate::latches::{Drill, Kind};

pub(super) fn run(socket: &Path, args: DrillArgs) -> Exit {
    let DrillArgs { component, shared, reason: Some(reason), span, force, end: _ } = args else {
        return latch::clear(socket, Kind::Drill);
    };
    match component {
        Some(component) => {
            let (seconds, drill) = (Some(span.as_secs()), Some(Drill { component, shared }));
            latch::order(socket, Kind::Drill, &Order { reason: &reason, seconds, force, drill })
        }
        None => authority::drill(socket, reason, span, force),
    }
}
