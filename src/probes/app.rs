//! app: the configured path of the site, through the same nginx that serves users.

use hyper::StatusCode;
use tokio::time::Instant;

use crate::config::AppProbe;
use crate::health::cause::Cause;
use crate::observation::{Finding, Outcome, Stages};
use crate::probes::Probe;
use crate::probes::http::{self, Answer, Fault, Request};
use crate::telemetry::ErrorChain;

/// The probe.
#[derive(Debug)]
pub struct App {
    probe: AppProbe,
    host: String,
}

impl App {
    #[must_use]
    pub fn new(probe: &AppProbe) -> Self {
        let host = probe.host.clone().unwrap_or_else(|| http::host_header(&probe.url));
        Self { probe: probe.clone(), host }
    }

    fn judge(&self, answer: &Answer) -> Option<Finding> {
        if !self.accepts(answer.status) {
            return Some(Finding::new(Cause::AppBadStatus, answer.status.to_string()));
        }
        let text = self.probe.body.as_deref()?;
        if contains(&answer.body, text.as_bytes()) {
            return None;
        }
        let detail = format!("{} without `{text}` in the first {} bytes", answer.status, answer.body.len());
        Some(Finding::new(Cause::AppBodyMismatch, detail))
    }

    fn accepts(&self, status: StatusCode) -> bool {
        self.probe.status.iter().any(|&(low, high)| (low..=high).contains(&status.as_u16()))
    }
}

impl Probe for App {
    async fn attempt(&mut self, stages: &mut Stages) -> Outcome {
        let began = Instant::now();
        let request = Request::get(&self.host, &self.probe.url.path);
        let answer = match http::exchange(&(&self.probe.url).into(), request, stages).await {
            Ok(answer) => answer,
            Err(error) => {
                let cause = match error.fault() {
                    Fault::Refused | Fault::Unreachable => Cause::AppUnreachable,
                    Fault::Broken | Fault::Endless => Cause::AppBadAnswer,
                    Fault::Asker => Cause::CouldNotRun,
                };
                return Outcome::Fail(Finding::new(cause, ErrorChain(&error).to_string()));
            }
        };
        let took = began.elapsed();
        if let Some(finding) = self.judge(&answer) {
            return Outcome::Fail(finding);
        }
        match self.probe.latency_limit {
            Some(limit) if took > limit => Outcome::Fail(Finding::new(
                Cause::AppSlow,
                format!("answered after {} ms, the limit is {} ms", took.as_millis(), limit.as_millis()),
            )),
            _ => Outcome::Pass,
        }
    }

    async fn overdue(&mut self, stages: &Stages) -> Finding {
        match stages.current() {
            Some("connect") => Finding::new(Cause::AppUnreachable, "no connection in time: is the accept queue full?"),
            Some("headers") => Finding::new(Cause::AppTimeout, "connected, but no answer came in time"),
            Some("body") => Finding::new(Cause::AppTimeout, "an answer began, but did not end in time"),
            _ => Finding::new(Cause::CouldNotRun, "the name in the URL was not resolved in time"),
        }
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}
