//! Why a call failed, in the few kinds that make a difference to whoever called.

use std::error::Error;
use std::iter::successors;

use aws_sdk_autoscaling::config::http::HttpResponse;
use aws_sdk_autoscaling::error::ProvideErrorMetadata;
use thiserror::Error;

use crate::telemetry::ErrorChain;

pub(super) type SdkError<E> = aws_sdk_autoscaling::error::SdkError<E, HttpResponse>;

/// What every operation's error has: a code and a message, which are strings as often as types.
pub(super) trait Code: ProvideErrorMetadata + Error + Send + Sync + 'static {}

impl<E: ProvideErrorMetadata + Error + Send + Sync + 'static> Code for E {}

/// Codes of a role that lacks a permission.
const DENIED: [&str; 4] = ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"];

/// Codes of credentials that are none: expired, of somebody who is gone, or signed by a clock that is far off.
const BAD_CREDENTIALS: [&str; 9] = [
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Codes of being asked too often.
const THROTTLED: [&str; 5] =
    ["Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "TooManyRequestsException"];

/// A call that failed.
#[derive(Debug, Error)]
#[error("{action} {kind}")]
pub struct Failure {
    /// As IAM names it: `autoscaling:SetInstanceHealth`.
    pub action: &'static str,
    pub kind: Kind,
    /// AWS's own word for it, if it answered with one.
    pub code: Option<String>,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Kind {
    /// The role lacks the permission.
    #[error("is not allowed to this instance's role")]
    Denied,
    /// There are no credentials, or none that AWS accepts.
    #[error("has no valid credentials")]
    NoCredentials,
    #[error("is throttled")]
    Throttled,
    /// It may have been carried out all the same.
    #[error("was not answered in time")]
    Timeout,
    /// No connection, or one that broke: then it may have been carried out all the same.
    #[error("got no complete answer")]
    Unreachable,
    /// AWS answered and refused, or failed: then `status` is 500 or more, and it may have been carried out all the
    /// same. `code` is the HTTP status where the answer has none of AWS's codes.
    #[error("was refused: {code}: {message}")]
    Service { code: String, message: String, status: u16 },
}

impl Kind {
    /// A word for metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::NoCredentials => "no-credentials",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Service { .. } => "refused",
        }
    }
}

impl Failure {
    pub(super) fn of<E: Code>(action: &'static str, error: SdkError<E>) -> Self {
        let kind = match &error {
            SdkError::TimeoutError(_) => Kind::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Kind::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_io() => Kind::Unreachable,
            // No type is left of it.
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) if names_credentials(&error) => {
                Kind::NoCredentials
            }
            SdkError::ServiceError(answer) => {
                let metadata = answer.err().meta();
                of_answer(metadata.code(), metadata.message(), answer.raw().status().as_u16())
            }
            _ => Kind::Unreachable,
        };
        let code = match &error {
            SdkError::ServiceError(answer) => answer.err().meta().code().map(str::to_owned),
            _ => None,
        };
        Self { action, kind, code, source: Some(Box::new(error)) }
    }

    /// For a line in the log. What the SDK says of credentials is left out: it quotes answers of the metadata service.
    #[must_use]
    pub fn words(&self) -> String {
        if self.kind == Kind::Unreachable { ErrorChain(self).to_string() } else { self.to_string() }
    }

    /// No answer within the agent's own deadline.
    pub(super) const fn late(action: &'static str) -> Self {
        Self { action, kind: Kind::Timeout, code: None, source: None }
    }
}

fn names_credentials(error: &(dyn Error + 'static)) -> bool {
    successors(Some(error), |&error| error.source()).any(|error| error.to_string().contains("credential"))
}

fn of_answer(code: Option<&str>, message: Option<&str>, status: u16) -> Kind {
    match code {
        Some(code) if DENIED.contains(&code) => Kind::Denied,
        Some(code) if BAD_CREDENTIALS.contains(&code) => Kind::NoCredentials,
        Some(code) if THROTTLED.contains(&code) => Kind::Throttled,
        None if status == 429 => Kind::Throttled,
        code => Kind::Service {
            code: code.map_or_else(|| format!("HTTP {status}"), str::to_owned),
            message: message.unwrap_or("no message").to_owned(),
            status,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart_and_what_is_not_known_keeps_its_words() {
        assert_eq!(of_answer(Some("UnauthorizedOperation"), None, 403), Kind::Denied);
        assert_eq!(of_answer(Some("ExpiredToken"), Some("x"), 403), Kind::NoCredentials);
        assert_eq!(of_answer(Some("Throttling"), Some("Rate exceeded"), 400), Kind::Throttled);
        assert_eq!(of_answer(None, None, 429), Kind::Throttled);
        let grace = "The age of the instance (986 seconds) is less than the configured grace period of 1500 seconds";
        let refused = of_answer(Some("ValidationError"), Some(grace), 400);
        assert_eq!(
            refused,
            Kind::Service { code: "ValidationError".to_owned(), message: grace.to_owned(), status: 400 }
        );
        // A load balancer's HTML.
        assert_eq!(of_answer(None, None, 502).to_string(), "was refused: HTTP 502: no message");
    }

    #[test]
    fn a_failure_names_the_action_and_keeps_its_source_out_of_its_words() {
        let late = Failure::late("autoscaling:SetInstanceHealth");
        assert_eq!(late.to_string(), "autoscaling:SetInstanceHealth was not answered in time");
        let broken = SdkError::<aws_sdk_ec2::operation::describe_instances::DescribeInstancesError>::timeout_error("x");
        let failure = Failure::of("ec2:DescribeInstances", broken);
        assert_eq!(failure.kind, Kind::Timeout);
        assert_eq!(failure.to_string(), "ec2:DescribeInstances was not answered in time");
        assert!(failure.source().is_some());
    }
}
