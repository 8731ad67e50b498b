//! `dr-agent fence close` after the order: shows how far it is, says when to promote, warns before it ends.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::sleep;

use super::{Exit, authority, client, render};
use crate::authority::Claim;
use crate::authority::operator::Progress;
use crate::clock;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(2);

/// Before the end of a close that nobody used there is a warning.
const SOON_SECONDS: i64 = 300;

/// For so long the agent may be away, as for a restart.
const PATIENCE: u32 = 30;

/// What `dr-agent authority show` says of a close.
#[derive(Debug, Deserialize)]
struct Shown {
    region: String,
    known: Option<Claim>,
    close: Close,
}

#[derive(Debug, Deserialize)]
struct Close {
    progress: Progress,
    promote_now: bool,
}

/// What a look says, and whether it is the last.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Going(Vec<String>),
    /// Another region owns the data: it is done.
    Handed(Claim),
    Over,
}

/// Shows the close until the other region has claimed, or it is over.
///
/// # Errors
/// When the agent does not answer for long.
pub(super) async fn watch(socket: &Path) -> Result<Exit, client::Error> {
    let mut said = Vec::new();
    let mut misses = 0;
    loop {
        let shown = match authority::shown(socket).await {
            Ok(shown) => Some(serde_json::from_value::<Shown>(shown).map_err(client::Error::Unreadable)?),
            Err(error) if misses >= PATIENCE => return Err(error),
            Err(_) => None,
        };
        misses = if shown.is_some() { 0 } else { misses + 1 };
        match shown.map(|shown| look(&shown, clock::wall())) {
            Some(Look::Going(lines)) => {
                for line in lines.iter().filter(|line| !said.contains(*line)) {
                    render::note(line);
                }
                said = lines;
            }
            Some(Look::Handed(claim)) => {
                let Claim { epoch, region } = claim;
                render::note(format_args!("done: epoch {epoch} is {region}'s; this region stays closed"));
                return Ok(Exit::Ok);
            }
            Some(Look::Over) => {
                render::note("the close is over, and the other region has claimed nothing");
                return Ok(Exit::Degraded);
            }
            None => {}
        }
        sleep(EVERY).await;
    }
}

fn look(shown: &Shown, now: Timestamp) -> Look {
    if let Some(known) = shown.known.as_ref().filter(|known| known.region != shown.region) {
        return Look::Handed(known.clone());
    }
    let progress = &shown.close.progress;
    let Some(until) = progress.until else { return Look::Over };
    let mut lines = Vec::new();
    if !progress.open.is_empty() {
        lines.push(format!("still open: {}", progress.open.join(", ")));
    }
    if !progress.silent.is_empty() {
        lines.push(format!(
            "does not answer, so that nobody knows whether it is closed: {}",
            progress.silent.join(", ")
        ));
    }
    match progress.other_stopped {
        Some(true) => {}
        Some(false) => lines.push(
            "the other region's apps still write here, or have sessions left: `dr-agent explain repoint` there counts them"
                .to_owned(),
        ),
        None => {
            lines.push("the other region does not answer: whether its apps still write here is not known".to_owned());
        }
    }
    if progress.sessions > 0 {
        lines.push("there are still sessions of the app with the database: its pools must be restarted".to_owned());
    }
    if progress.quiet.is_some() && !progress.has_all {
        lines.push(match progress.lag_seconds {
            Some(0) => "nobody writes any more; what was written last has not reached the other region's replica yet"
                .to_owned(),
            Some(seconds) => format!("the other region's replica is {seconds} s behind"),
            None => "the other region's replica does not say how far it is".to_owned(),
        });
    }
    if shown.close.promote_now {
        lines.push("promote the other region's database now".to_owned());
    }
    if until.as_second() - now.as_second() <= SOON_SECONDS {
        lines.push(
            "it ends within 5 minutes; then this region opens again, if the other database is a replica still"
                .to_owned(),
        );
    }
    Look::Going(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn shown(progress: &Value, promote_now: bool, epoch: u64, owner: &str) -> Shown {
        serde_json::from_value(serde_json::json!({
            "region": "p", "known": {"epoch": epoch, "region": owner}, "added": 1,
            "close": {"progress": progress, "promote_now": promote_now},
        }))
        .unwrap()
    }

    #[test]
    fn it_says_what_is_missing_when_to_promote_and_when_it_ends() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let until = at(10_000).to_string();
        let progress = serde_json::json!({
            "open": ["i-a", "i-b"], "silent": ["i-c"], "other_stopped": null, "sessions": 2, "quiet": null,
            "has_all": false, "lag_seconds": 3, "until": until,
        });
        let Look::Going(lines) = look(&shown(&progress, false, 2, "p"), at(9_000)) else { panic!("going on") };
        assert_eq!((lines.len(), lines[0].as_str()), (4, "still open: i-a, i-b"));
        let done = serde_json::json!({
            "open": [], "silent": [], "other_stopped": true, "sessions": 0, "quiet": until, "has_all": true,
            "lag_seconds": 0, "until": until,
        });
        let Look::Going(lines) = look(&shown(&done, true, 2, "p"), at(9_700)) else { panic!("going on") };
        assert!(lines[0].starts_with("promote") && lines[1].starts_with("it ends within"), "{lines:?}");
        assert!(matches!(look(&shown(&done, true, 3, "h"), at(9_700)), Look::Handed(claim) if claim.epoch == 3));
        let over = serde_json::json!({
            "open": ["i-a"], "silent": [], "other_stopped": true, "sessions": 0, "quiet": null, "has_all": false,
            "lag_seconds": 0, "until": null,
        });
        assert_eq!(look(&shown(&over, false, 2, "p"), at(10_001)), Look::Over);
    }
}
