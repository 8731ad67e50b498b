//! The ledger for people.

use jiff::Timestamp;

use super::{BEATS, Failover, Most, Stop};
use crate::authority::lag::{Measure, seconds};

impl Failover {
    /// In one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let (from, to) = (&self.from, &self.to);
        if self.is_promotion() {
            format!("{} took over from {}: epoch {} after {}", to.region, from.region, to.epoch, from.epoch)
        } else {
            format!("{} was superseded by {}: epoch {} after {}", from.region, to.region, to.epoch, from.epoch)
        }
    }

    /// What may be lost, in one sentence.
    #[must_use]
    pub fn loss(&self) -> String {
        let from = &self.from.region;
        let lacks = |ms| format!("the new owner's database lacks what {from} wrote in its last {:.1} s", seconds(ms));
        let stopped = self.lag.as_ref().map(|lag| {
            let by = match lag.by {
                Measure::Heartbeat => "by the newest heartbeat that had arrived",
                Measure::Replica => "by the replica's own word",
            };
            format!("{:.1} s if it had stopped when the replica was seen last, {by}", lag.seconds())
        });
        let unknown = "how much was lost is not known until both databases can be read";
        let text = match (&self.most, self.lost_ms, stopped) {
            (Some(Most { by: Stop::Silent, .. }) | None, Some(lost), _) => format!(
                "{} at most: {:.1} s lie between its heartbeats in both databases, and it may have written on for {:.0} s",
                lacks(lost.saturating_add(BEATS)),
                seconds(lost),
                seconds(BEATS)
            ),
            (Some(Most { ms, by }), _, stopped) => {
                let by = match by {
                    Stop::Closed => "until it was closed",
                    Stop::Silent => "if it wrote nothing after it fell silent",
                    Stop::Unseen => "if it has written nothing since: it was not seen to stop",
                };
                let stopped = stopped.map(|words| format!("; {words}")).unwrap_or_default();
                format!("{} at most, {by}{stopped}", lacks(self.rpo_ms().unwrap_or(*ms)))
            }
            (None, None, Some(stopped)) => format!("{unknown}: {stopped}"),
            (None, None, None) => unknown.to_owned(),
        };
        let after = self.wrote_after_ms.map(|ms| match ms {
            0 => "; nothing was written here after the promotion".to_owned(),
            ms => format!("; this region may have taken writes for {:.1} s after the promotion", seconds(ms)),
        });
        text + &after.unwrap_or_default()
    }

    /// Each step that was seen, with its name, in the order of time.
    #[must_use]
    pub fn steps(&self) -> Vec<(&'static str, Timestamp)> {
        let seen = &self.seen;
        let is_promotion = self.is_promotion();
        let all = [
            ("the database here was no replica any more", seen.replica_gone),
            ("it was proven writable on three connections", seen.proven),
            (if is_promotion { "the epoch was claimed" } else { "the higher epoch was known here" }, seen.known),
            ("nothing of the old owner was waited for any more", seen.took_over),
            ("users got the fence page", seen.closed),
            ("the app's outputs did not name this region any more", seen.stopped),
            ("the app's outputs named the new owner", seen.repointed),
            ("the app was seen to reach it", seen.verified),
            ("users were served", seen.opened),
        ];
        let mut steps: Vec<_> = all.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
        steps.sort_by_key(|(_, at)| *at);
        steps
    }
}
