//! OBSERVE: what observers tell the owner, and what it tells a probe in return.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::authority::said::Said;
use crate::certificates::Certificate;
use crate::config::Config;
use crate::group::view::Round;
use crate::identity::lifecycle::Lifecycle;
use crate::latches::Latches;
use crate::observation::Observation;
use crate::replace;
use crate::snapshot::About;

/// What the owner takes in.
#[derive(Debug)]
pub enum Input {
    /// One attempt of one probe; the reply says how soon to try again.
    Observed(Observation, oneshot::Sender<Pace>),
    /// The latch files, read anew.
    Latches(Latches),
    /// Where Auto Scaling and EC2 take this instance.
    Lifecycle(Lifecycle),
    /// What the regions' names show.
    Certificates(Vec<Certificate>),
    /// What the other members of the group said.
    Round(Round),
    /// What is planned about this instance.
    Replacement(Arc<replace::outlook::Outlook>),
    /// Whether `public/fenced` exists.
    Gate { closed: bool },
    /// What was decided about who owns the data.
    Authority(Arc<Said>),
    /// A new configuration is in force, or the old one with new problems, or it is now known who this is.
    Reconfigured(Arc<Config>, About),
}

/// How soon a probe should try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Normal,
    /// The newest observation contradicts the status: settle it soon.
    Fast,
}
