//! What a replacement needs of AWS, and what may come of it.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;

use super::look::Look;
use crate::aws::{Aws, Failure, Kind};
use crate::clock;
use crate::snapshot::Snapshot;
use crate::telemetry::ErrorChain;

/// The calls. Each has a deadline of its own.
pub trait Api: Clone + Send + Sync + 'static {
    /// The group as Auto Scaling describes it now.
    fn look(&self, group: &str) -> impl Future<Output = Result<Look, Unavailable>> + Send;

    /// Marks the instance Unhealthy, with respect for the grace period. One request, never repeated.
    fn mark_unhealthy(&self, instance: &str) -> impl Future<Output = Marked> + Send;

    /// Writes the group's note of its last replacements.
    fn note(&self, group: &str, note: &str) -> impl Future<Output = Result<(), Unavailable>> + Send;
}

/// Auto Scaling did not do what it was asked, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Auto Scaling in this instance's region.
#[derive(Debug, Clone)]
pub struct AutoScaling {
    pub aws: Aws,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl AutoScaling {
    fn region(&self) -> Result<String, Unavailable> {
        let region = self.snapshots.borrow().about.owner.region.clone();
        region.ok_or_else(|| Unavailable("the region is unknown".to_owned()))
    }
}

impl Api for AutoScaling {
    async fn look(&self, group: &str) -> Result<Look, Unavailable> {
        let look = self.aws.look(&self.region()?, group, clock::wall()).await?;
        look.ok_or_else(|| Unavailable(format!("Auto Scaling knows no group `{group}`")))
    }

    async fn mark_unhealthy(&self, instance: &str) -> Marked {
        let region = match self.region() {
            Ok(region) => region,
            Err(unknown) => return Marked::Refused(unknown.to_string()),
        };
        match self.aws.mark_unhealthy(&region, instance).await {
            Ok(()) => Marked::Accepted,
            Err(failure) => Marked::of(&failure),
        }
    }

    async fn note(&self, group: &str, note: &str) -> Result<(), Unavailable> {
        Ok(self.aws.note_replacement(&self.region()?, group, note).await?)
    }
}

impl From<Failure> for Unavailable {
    fn from(failure: Failure) -> Self {
        Self(ErrorChain(&failure).to_string())
    }
}

/// What came of marking an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    Accepted,
    /// Refused: the instance is within its group's health check grace period.
    InGracePeriod,
    /// Surely not done, for this reason.
    Refused(String),
    /// The answer was lost: it may have been done.
    Unknown(String),
}

impl Marked {
    fn of(failure: &Failure) -> Self {
        let why = ErrorChain(failure).to_string();
        match &failure.kind {
            // A string, and the only one that tells it from other refusals of the same code.
            Kind::Service { code, message, .. } if code == "ValidationError" && message.contains("grace period") => {
                Self::InGracePeriod
            }
            // A server that failed may have done it before.
            Kind::Timeout | Kind::Unreachable | Kind::Service { status: 500.., .. } => Self::Unknown(why),
            Kind::Service { .. } | Kind::Denied | Kind::NoCredentials | Kind::Throttled => Self::Refused(why),
        }
    }
}
