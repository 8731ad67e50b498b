//! Where Auto Scaling and EC2 are taking this instance, and whether that takes it out of service. Pure.

use serde::{Deserialize, Serialize};

use super::imds::Answer;

/// What was heard last. Silence and words that nobody here understands change none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// The state that Auto Scaling takes this instance to; `None` until it has one.
    #[serde(default)]
    pub target: Option<Target>,
    /// EC2 takes the machine back.
    #[serde(default)]
    pub spot: Option<Spot>,
    /// EC2 says that it may have to take the machine back. It changes no verdict.
    #[serde(default)]
    pub rebalance: bool,
}

/// A target lifecycle state, as far as it makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    InService,
    EnteringStandby,
    Standby,
    Detached,
    Terminated,
    /// Any state of the warm pool.
    Warmed,
}

/// A notice that EC2 takes a spot instance back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    /// `terminate`, `stop` or `hibernate`.
    pub action: String,
    /// When, as EC2 says it.
    #[serde(default)]
    pub time: String,
}

/// The answers of one look at the metadata service.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) target: Answer,
    pub(super) spot: Answer,
    pub(super) rebalance: Answer,
}

impl Target {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "InService" => Self::InService,
            "EnteringStandby" => Self::EnteringStandby,
            "Standby" => Self::Standby,
            "Detached" => Self::Detached,
            "Terminated" => Self::Terminated,
            _ if name.starts_with("Warmed:") => Self::Warmed,
            _ => return None,
        })
    }

    /// The words after "Auto Scaling"; `None` for the state in which the verdict counts.
    const fn words(self) -> Option<&'static str> {
        match self {
            Self::InService => None,
            Self::EnteringStandby | Self::Standby => Some("takes this instance to standby"),
            Self::Detached => Some("takes this instance out of its group"),
            Self::Terminated => Some("terminates this instance"),
            Self::Warmed => Some("keeps this instance in its warm pool"),
        }
    }
}

impl Lifecycle {
    /// Why the instance answers `draining`, in a sentence; `None` while its verdict counts.
    #[must_use]
    pub fn drain(&self) -> Option<String> {
        if let Some(Spot { action, time }) = &self.spot {
            return Some(format!("EC2 will {action} this spot instance at {time}"));
        }
        Some(format!("Auto Scaling {}", self.target?.words()?))
    }

    /// What is known after these answers.
    pub(super) fn after(&self, heard: Heard) -> Self {
        Self {
            // It does not go away: without one nothing is said. Only another one ends a drain.
            target: match heard.target {
                Answer::Is(name) => Target::named(&name).or(self.target),
                Answer::Absent | Answer::Silent => self.target,
            },
            // A machine that was hibernated finds its notice gone.
            spot: match heard.spot {
                Answer::Is(text) => spot(&text).or_else(|| self.spot.clone()),
                Answer::Absent => None,
                Answer::Silent => self.spot.clone(),
            },
            rebalance: match heard.rebalance {
                Answer::Is(text) => is_object(&text) || self.rebalance,
                Answer::Absent => false,
                Answer::Silent => self.rebalance,
            },
        }
    }
}

fn spot(text: &str) -> Option<Spot> {
    let spot: Spot = serde_json::from_str(text).ok()?;
    (["terminate", "stop", "hibernate"].contains(&spot.action.as_str()) && spot.time.len() <= 40).then_some(spot)
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(answer: Answer) -> Heard {
        Heard { target: answer, spot: Answer::Absent, rebalance: Answer::Absent }
    }

    fn is(text: &str) -> Answer {
        Answer::Is(text.to_owned())
    }

    #[test]
    fn each_state_does_what_its_row_says() {
        let rows = [
            ("InService", false),
            ("Standby", true),
            ("EnteringStandby", true),
            ("Detached", true),
            ("Terminated", true),
            ("Warmed:Running", true),
            ("Warmed:Pending:Wait", true),
            ("Retained", false),
            ("ReplacingRootVolume", false),
            ("<html>", false),
            ("", false),
        ];
        for (name, drains) in rows {
            assert_eq!(Lifecycle::default().after(target(is(name))).drain().is_some(), drains, "{name}");
        }
        assert_eq!(Lifecycle::default().after(target(Answer::Absent)), Lifecycle::default());
    }

    #[test]
    fn only_in_service_ends_what_a_state_began() {
        let standby = Lifecycle::default().after(target(is("Standby")));
        for nothing in [is("Retained"), is("<html>"), is(""), Answer::Absent, Answer::Silent] {
            assert_eq!(standby.after(target(nothing)), standby);
        }
        assert_eq!(standby.after(target(is("InService"))).drain(), None);
        assert_eq!(standby.after(target(is("Terminated"))).drain().unwrap(), "Auto Scaling terminates this instance");
    }

    #[test]
    fn a_spot_notice_drains_until_it_is_gone_and_a_recommendation_never_does() {
        let spot = |answer| Heard { target: is("InService"), spot: answer, rebalance: Answer::Absent };
        let notice = r#"{"action": "terminate", "time": "2026-11-25T08:22:00Z"}"#;
        let going = Lifecycle::default().after(spot(is(notice)));
        assert_eq!(going.drain().unwrap(), "EC2 will terminate this spot instance at 2026-11-25T08:22:00Z");
        for nothing in [is("<html>"), is("{}"), is(r#"{"action":"dance","time":"x"}"#), Answer::Silent] {
            assert_eq!(going.after(spot(nothing.clone())), going);
            assert_eq!(Lifecycle::default().after(spot(nothing)).drain(), None);
        }
        assert_eq!(going.after(spot(Answer::Absent)).drain(), None);
        let heard = |rebalance| Heard { target: Answer::Absent, spot: Answer::Absent, rebalance };
        let told = Lifecycle::default().after(heard(is(r#"{"noticeTime": "2026-11-25T08:22:00Z"}"#)));
        assert!(told.rebalance && told.drain().is_none());
        assert!(!Lifecycle::default().after(heard(is("<html>"))).rebalance);
        assert!(told.after(heard(Answer::Silent)).rebalance && !told.after(heard(Answer::Absent)).rebalance);
    }
}
