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
use std::env;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_autoscaling::config::SharedCredentialsProvider;
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
    clients: Arc<Mutex<Option<Clients>>>,
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
    /// The clients for `region`, made by the first call. This instance has one region, which may become known better once.
    fn clients(&self, region: &str) -> Clients {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        match &*clients {
            Some(made) if made.region == region => made.clone(),
            _ => clients.insert(Clients::new(region)).clone(),
        }
    }
}

impl Clients {
    fn new(region: &str) -> Self {
        let limits = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_LIMIT).operation_timeout(CALL_LIMIT);
        let role = ImdsCredentialsProvider::builder().build();
        // What an instance has, and what a person who tries something sets. Files are not asked: one that was left in
        // some home would make the agent another one. The SDK's own chain is half a megabyte of ways that end here.
        let credentials =
            CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
                .or_else("instance role", role);
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region.to_owned()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .timeout_config(limits.build())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS));
        config.set_endpoint_url(env::var("AWS_ENDPOINT_URL").ok());
        let config = config.build();
        Self {
            region: region.to_owned(),
            auto_scaling: aws_sdk_autoscaling::Client::new(&config),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&config),
            ec2: aws_sdk_ec2::Client::new(&config),
        }
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
