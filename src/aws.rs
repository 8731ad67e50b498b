//! What every call to AWS shares: clients that are made by the first call, deadlines, how failures are told apart, and
//! counts. No verdict waits for any of it.

mod failure;
mod group;
mod members;
mod metrics;
pub mod pace;
pub mod policy;
pub mod trial;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use tokio::time::timeout;

use failure::{Code, SdkError};
pub use failure::{Failure, Kind};
pub use group::{ACTIVITY, GROUPS, INSTANCES, MARK, REFRESHES, TAGS};
pub use members::DESCRIBE;
pub use metrics::PUT;

/// One request and its answer, credentials and connecting included.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);

/// A call with all its attempts, whatever hangs or trickles.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Requests of one call. The SDK waits about a second between them.
const ATTEMPTS: u32 = 3;

/// What failed calls are counted as, beside the names of [`Kind`].
const OK: &str = "ok";

/// Calls since the start of the process, by action and result. Bounded: both are words of this program.
static CALLS: Mutex<Counts> = Mutex::new(Counts::new());

/// How many calls there were, by IAM action and by `ok` or the name of the [`Kind`] of failure.
pub type Counts = BTreeMap<(&'static str, &'static str), u64>;

/// The calls so far.
#[must_use]
pub fn calls() -> Counts {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The clients of all services, shared by whoever has a clone. Costs nothing before the first call.
#[derive(Debug, Clone, Default)]
pub struct Aws {
    clients: Arc<tokio::sync::Mutex<Option<Clients>>>,
}

/// The clients of one region. They share credentials, connections and the roots of trust.
#[derive(Debug, Clone)]
struct Clients {
    region: String,
    auto_scaling: aws_sdk_autoscaling::Client,
    cloudwatch: aws_sdk_cloudwatch::Client,
    ec2: aws_sdk_ec2::Client,
}

impl Aws {
    /// The clients for `region`, for a call of `action`. This instance has one region, which may become known better once.
    async fn clients(&self, action: &'static str, region: &str) -> Result<Clients, Failure> {
        // Making them reads files, which may be on a disk that hangs.
        timeout(ATTEMPT_LIMIT, self.made(region)).await.map_err(|_| Failure::late(action))
    }

    async fn made(&self, region: &str) -> Clients {
        let mut clients = self.clients.lock().await;
        if let Some(made) = clients.as_ref().filter(|made| made.region == region) {
            return made.clone();
        }
        let limits = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_LIMIT).operation_timeout(CALL_LIMIT);
        let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(Region::new(region.to_owned()))
            .timeout_config(limits.build())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .load()
            .await;
        let made = Clients {
            region: region.to_owned(),
            auto_scaling: aws_sdk_autoscaling::Client::new(&config),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&config),
            ec2: aws_sdk_ec2::Client::new(&config),
        };
        clients.insert(made).clone()
    }
}

/// One call, within [`CALL_LIMIT`] also where the SDK does not keep its own, and counted. On the heap: the SDK's futures
/// are large, and tasks that call once in a while should not be.
fn call<T, E: Code>(
    action: &'static str,
    call: impl Future<Output = Result<T, SdkError<E>>> + Send,
) -> impl Future<Output = Result<T, Failure>> + Send {
    let call = Box::pin(call);
    async move {
        let result = match timeout(CALL_LIMIT, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure::of(action, error)),
            Err(_) => Err(Failure::late(action)),
        };
        let word = result.as_ref().map_or_else(|failure| failure.kind.name(), |_| OK);
        *CALLS.lock().unwrap_or_else(PoisonError::into_inner).entry((action, word)).or_default() += 1;
        result
    }
}
