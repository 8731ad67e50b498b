//! The instance metadata service, version 2.

use std::time::Duration;

use aws_config::imds::Client;
use aws_config::imds::client::error::ImdsError;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::telemetry::ErrorChain;

/// One question, with connecting and a token. It is answered in milliseconds on an instance; elsewhere nobody answers.
const LIMIT: Duration = Duration::from_secs(1);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Is(String),
    /// There is no such thing, which is normal for most.
    Absent,
    /// Nobody answered, or with an error.
    Silent,
}

/// Why nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Silence {
    /// 403: it is switched off for this instance.
    Disabled,
    /// Nothing came in time.
    Late,
    /// No connection.
    Unreachable,
    /// Something answered that is not what was asked for.
    Strange,
}

/// A client with its token and its connection.
#[derive(Debug)]
pub(super) struct Imds {
    client: Client,
    /// Of the newest answer that was [`Answer::Silent`].
    pub(super) silence: Option<Silence>,
}

impl Imds {
    pub(super) fn new() -> Self {
        let client = Client::builder().connect_timeout(LIMIT).read_timeout(LIMIT).max_attempts(1).build();
        Self { client, silence: None }
    }

    /// What is at `path`, below `meta-data`, within 1 s.
    pub(super) async fn get(&mut self, path: &str) -> Answer {
        let answer = timeout(LIMIT, self.ask(&format!("/latest/meta-data/{path}"))).await;
        answer.unwrap_or(Err(Silence::Late)).unwrap_or_else(|silence| {
            self.silence = Some(silence);
            Answer::Silent
        })
    }

    async fn ask(&mut self, path: &str) -> Result<Answer, Silence> {
        let mut answer = self.client.get(path).await;
        if status(&answer) == Some(401) {
            // The token has ended before its time. The client would keep it, so it is another client's turn.
            *self = Self::new();
            answer = self.client.get(path).await;
        }
        match answer {
            Ok(text) => Ok(Answer::Is(text.as_ref().trim().to_owned())),
            Err(_) if status(&answer) == Some(404) => Ok(Answer::Absent),
            Err(error) => Err(silence(&error)),
        }
    }
}

/// No type is left of most of it.
fn silence(error: &ImdsError) -> Silence {
    let words = ErrorChain(error).to_string();
    match error {
        ImdsError::ErrorResponse(error) if error.response().status().as_u16() == 403 => Silence::Disabled,
        ImdsError::FailedToLoadToken(_) if words.contains("request forbidden") => Silence::Disabled,
        ImdsError::FailedToLoadToken(error) if error.is_dispatch_failure() && !words.contains("timeout") => {
            Silence::Unreachable
        }
        ImdsError::FailedToLoadToken(_) if words.contains("timeout") => Silence::Late,
        _ => Silence::Strange,
    }
}

fn status<T>(answer: &Result<T, ImdsError>) -> Option<u16> {
    match answer {
        Err(ImdsError::ErrorResponse(error)) => Some(error.response().status().as_u16()),
        _ => None,
    }
}
