//! What the laws compare with: worked out from the raw outcomes of a script, never from the core's own memory.

use std::time::Duration;

use dr_agent::clock::BootTime;
use dr_agent::health::cause::Status;
use dr_agent::observation::Component::{self, App, Database, Efs, Host, Nginx};

use super::bench::policy;
use super::script::{Act, Moment, SITE, is_failing, is_failure};

/// The moments of the last `span` before moment `index`, newest first, that one included.
pub fn back(moments: &[Moment], index: usize, span: Duration) -> impl Iterator<Item = &Moment> {
    let now = moments[index].now;
    moments[..=index].iter().rev().take_while(move |m| now.since(m.now) < span)
}

/// Since when at moment `index` a dependency has had failing votes and no healthy one.
pub fn failing_since(moments: &[Moment], index: usize, dependency: &Component) -> Option<BootTime> {
    let (mut own, mut since) = (None, None);
    for m in &moments[..=index] {
        if matches!(m.act, Some(Act::Restart)) {
            own = None;
        }
        if let Some((_, cause)) = m.seen.iter().find(|(c, _)| c == dependency) {
            own = is_failing(*cause);
        }
        if own == Some(false) || m.group.passing.contains(dependency) || !m.statuses.contains_key(dependency) {
            since = None;
        } else if own == Some(true) {
            since.get_or_insert(m.now);
        }
    }
    since
}

/// Whether its present target passed an attempt.
pub fn ever_passed(moments: &[Moment], index: usize, component: &Component) -> bool {
    for m in moments[..=index].iter().rev() {
        if m.seen.iter().any(|(c, cause)| c == component && cause.is_none()) {
            return true;
        }
        if matches!(m.act, Some(Act::Retarget(n)) if SITE[n] == *component) {
            return false;
        }
    }
    // Scripts begin on a healthy machine.
    true
}

/// How many of the newest attempts of this agent on this target neither failed nor (`failures`) passed.
pub fn row(moments: &[Moment], index: usize, component: &Component, failures: bool) -> u32 {
    let mut count = 0;
    for m in moments[..=index].iter().rev() {
        match m.seen.iter().find(|(c, _)| c == component).and_then(|(_, cause)| is_failure(*cause)) {
            Some(failed) if failed == failures => count += 1,
            Some(_) => break,
            None => {}
        }
        let new = matches!(m.act, Some(Act::Retarget(n)) if SITE[n] == *component);
        if matches!(m.act, Some(Act::Restart)) || new {
            break;
        }
    }
    count
}

pub fn holds_of(dependency: &Component) -> Duration {
    if *dependency == Efs { policy().hold_efs } else { policy().hold_database }
}

/// At a moment at which the region closed: which hold had run. Panics when none had.
pub fn closing_hold(moments: &[Moment], index: usize) -> Component {
    let now = moments[index].now;
    for dependency in [Efs, Database] {
        let since = failing_since(moments, index, &dependency);
        if since.is_some_and(|since| now.since(since) >= holds_of(&dependency))
            && row(moments, index, &dependency, true) >= 2
            && ever_passed(moments, index, &dependency)
        {
            return dependency;
        }
    }
    let not_well = |m: &Moment, c: &Component| {
        m.statuses.get(c).is_some_and(|status| !matches!(status, Status::Healthy | Status::Degraded))
    };
    let nobody =
        back(moments, index, policy().hold_capacity).all(|m| !m.group.can_serve && SITE.iter().any(|c| not_well(m, c)));
    assert!(nobody, "no hold has run at {now:?}");
    SITE.into_iter()
        .find(|c| {
            moments[index].statuses.get(c) == Some(&Status::Unhealthy)
                && row(moments, index, c, true) >= 2
                && ever_passed(moments, index, c)
        })
        .expect("somebody who was healthy once fails now, and not for the first time")
}

pub fn closes(moments: &[Moment]) -> impl Iterator<Item = usize> {
    (1..moments.len()).filter(|&i| moments[i].region_closed && !moments[i - 1].region_closed)
}

pub fn opens(moments: &[Moment]) -> impl Iterator<Item = usize> {
    (1..moments.len()).filter(|&i| !moments[i].region_closed && moments[i - 1].region_closed)
}

/// A minute in which nothing spoke against the region, nothing was unknown of a dependency, and one agent watched.
pub fn assert_a_clear_minute(moments: &[Moment], index: usize) {
    // The first moment of the minute is the one in which it became clear.
    for m in back(moments, index, policy().reopen) {
        assert!(!matches!(m.act, Some(Act::Restart)), "an agent that was not there saw no minute");
        for dependency in [Efs, Database] {
            let Some(status) = m.statuses.get(&dependency) else { continue };
            assert!(
                m.group.passing.contains(&dependency)
                    || m.seen.iter().all(|(c, cause)| { *c != dependency || is_failing(*cause) == Some(false) }),
                "{dependency} failed or could not be asked at {:?}",
                m.now
            );
            assert!(
                *status != Status::Starting || m.group.passing.contains(&dependency),
                "{dependency} was never asked"
            );
        }
        for own in [Nginx, App, Host] {
            let unknown = matches!(m.statuses.get(&own), Some(Status::Unknown | Status::Starting));
            assert!(!unknown || m.group.can_serve || (own == App && m.gate_closed), "{own} at {:?}", m.now);
        }
    }
}
