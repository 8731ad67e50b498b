//! What the verdicts start from: the markers that stand and the state file. The same for an agent that starts and for
//! `check`, which says what one would answer. Pure: the caller reads the disk.

use crate::health::verdict::Memory;
use crate::outputs::markers::Markers;
use crate::state::State;

/// What an agent in `boot` remembers: `saved` is its own state, empty if there is none that it can use, and `saved_in`
/// the boot in which the state file was written, whoever's it is: to users a changed `deployment` is no new boot.
#[must_use]
pub fn memory(saved: &State, saved_in: Option<&str>, markers: Markers, boot: &str) -> Memory {
    // A disk too full for the state file takes a marker all the same. Markers do not outlive a boot (tmpfiles), so one
    // without a state file is this boot's.
    let marked = markers.held().iter().any(|(_, stands)| *stands);
    let same_boot = saved_in.map_or(marked, |saved_in| saved_in == boot);
    Memory {
        same_boot,
        instance_closed: markers.instance_closed,
        region_closed: markers.region_closed || (!same_boot && saved.region_closed),
        promoted: same_boot && markers.promoted,
        holds: saved.holds.clone(),
    }
}
