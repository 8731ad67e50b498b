//! The instance metadata service, version 2.

use std::time::Duration;

use aws_config::imds::Client;
use aws_config::imds::client::error::ImdsError;
use tokio::time::timeout;

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

/// A client with its token and its connection.
#[derive(Debug)]
pub(super) struct Imds(Client);

impl Imds {
    pub(super) fn new() -> Self {
        Self(Client::builder().connect_timeout(LIMIT).read_timeout(LIMIT).max_attempts(1).build())
    }

    /// What is at `path`, below `meta-data`, within 1 s.
    pub(super) async fn get(&mut self, path: &str) -> Answer {
        timeout(LIMIT, self.ask(&format!("/latest/meta-data/{path}"))).await.unwrap_or(Answer::Silent)
    }

    async fn ask(&mut self, path: &str) -> Answer {
        let mut answer = self.0.get(path).await;
        if status(&answer) == Some(401) {
            // The token has ended before its time. The client would keep it, so it is another client's turn.
            *self = Self::new();
            answer = self.0.get(path).await;
        }
        match answer {
            Ok(text) => Answer::Is(text.as_ref().trim().to_owned()),
            Err(_) if status(&answer) == Some(404) => Answer::Absent,
            Err(_) => Answer::Silent,
        }
    }
}

fn status<T>(answer: &Result<T, ImdsError>) -> Option<u16> {
    match answer {
        Err(ImdsError::ErrorResponse(error)) => Some(error.response().status().as_u16()),
        _ => None,
    }
}
