//! `dr-agent explain repoint`, for people: what the app uses, what it is to use, by what that was seen, and why not. Pure.

use super::decision::Target;
use super::plan::{Phase, Purpose};
use super::run::Progress;
use crate::clock::BootTime;

/// One line each.
#[must_use]
pub fn lines(progress: &Progress, now: BootTime) -> Vec<String> {
    let plan = &progress.plan;
    let mut lines = Vec::new();
    let Some(current) = &plan.current else {
        lines.push("Nothing was decided yet: the app uses what its outputs said before.".to_owned());
        lines.extend(goal(progress, now));
        return lines;
    };
    let decision = &current.decision;
    let old = current.old.as_ref().map_or("not known".to_owned(), target);
    lines.push(format!(
        "Decision {}: from {old} to {}, at epoch {} in state {}.",
        decision.id,
        target(&decision.writer),
        decision.epoch,
        decision.state
    ));
    match &current.purpose {
        Purpose::Reach => {}
        Purpose::Close { why } => {
            lines.push(format!("It takes the writer away, because the one that is wanted fails: {why}."));
        }
        Purpose::Back { of, why } => lines.push(format!("It takes back decision {of}: {why}.")),
    }
    let present = plan.present.as_ref().map_or("not known".to_owned(), target);
    lines.push(format!("The outputs name now: {present}."));
    lines.push(match &current.phase {
        Phase::Written { since, .. } => format!("The root helper was asked {} s ago.", now.since(*since).as_secs()),
        Phase::Applied { failed: None, .. } => {
            "The outputs are written; whether the app reaches its writer is being seen.".to_owned()
        }
        Phase::Applied { failed: Some((_, why)), since } => {
            format!(
                "The outputs are written for {} s, and the app does not reach its writer: {why}.",
                now.since(*since).as_secs()
            )
        }
        Phase::Done { at, seen: Some(seen) } => format!("Verified {} s ago: {seen}.", now.since(*at).as_secs()),
        Phase::Done { at, seen: None } => {
            format!("Applied {} s ago; there is nothing to verify.", now.since(*at).as_secs())
        }
        Phase::Failed { error, .. } => format!("The root helper failed: {error}."),
    });
    lines.extend(goal(progress, now));
    match progress.old_writer_sessions {
        0 => {}
        count => lines.push(format!(
            "{count} connections of this instance still lead to a former writer, or may: its pools must be restarted."
        )),
    }
    lines
}

/// What is wanted and not reached, and why not.
fn goal(progress: &Progress, now: BootTime) -> Option<String> {
    let goal = progress.goal.as_ref().filter(|_| !progress.is_reached)?;
    let wanted = target(&goal.wanted.writer);
    let why = progress.plan.objection(goal).map(|why| format!("its database does not pass: {why}"));
    let later = progress.plan.not_before().map(|at| at.since(now).as_secs()).filter(|&wait| wait > 0);
    let later = later.map(|wait| format!("it is tried again in {wait} s"));
    let why: Vec<_> = why.into_iter().chain(later).collect();
    let why = if why.is_empty() { "it is under way".to_owned() } else { why.join("; ") };
    Some(format!("Wanted: {wanted}, and not reached: {why}."))
}

fn target(target: &Target) -> String {
    match target {
        Target::Unchanged => "what it was".to_owned(),
        Target::None => "no writer".to_owned(),
        Target::Region(name) => format!("the database of {name}"),
    }
}
