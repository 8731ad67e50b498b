//! What a replacement needs of AWS, and what may come of it.

use thiserror::Error;

use super::look::Look;

/// The calls. Each has a deadline of its own.
pub trait Api: Send + Sync + 'static {
    /// The group as Auto Scaling describes it now.
    fn look(&self, group: &str, instance: &str) -> impl Future<Output = Result<Look, Unavailable>> + Send;

    /// Marks the instance Unhealthy, with respect for the grace period. One request, never repeated.
    fn mark_unhealthy(&self, instance: &str) -> impl Future<Output = Marked> + Send;

    /// Writes a tag of the group that is not propagated to instances.
    fn write_tag(&self, group: &str, key: &str, value: &str) -> impl Future<Output = Result<(), Unavailable>> + Send;
}

/// Auto Scaling did not do what it was asked, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Nobody to call: every look fails, and nothing is ever marked.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Api for Nobody {
    async fn look(&self, _: &str, _: &str) -> Result<Look, Unavailable> {
        Err(Unavailable("this version does not ask Auto Scaling".to_owned()))
    }

    async fn mark_unhealthy(&self, _: &str) -> Marked {
        Marked::Refused("this version marks no instance".to_owned())
    }

    async fn write_tag(&self, _: &str, _: &str, _: &str) -> Result<(), Unavailable> {
        Err(Unavailable("this version writes no tag".to_owned()))
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
