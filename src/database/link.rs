//! The connections to one server: a warm one that is asked, and a login every so often.
//!
//! Every login is made by one task beside whoever asks, at most one at a time, with its own deadline from the moment its
//! files are read: a cold login may take longer than an attempt, and none is given up halfway because an attempt ends. A
//! login that succeeds replaces the warm connection, so what is asked is always the server to which the endpoint's name
//! points now, and a failover does not leave anybody with the old server.
//!
//! What a refused login costs is limited: after one that failed in TLS or by the account, the next follows 5 s later,
//! then 10, 20, 40, 60, and until then what it found is repeated. The same holds from the 11th login in a row that
//! connected and was never greeted: each is a broken handshake to a server that thaws, and 100 block the host. The
//! password is read for each login.

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::login::{self, Search, Session, login};
use super::{Endpoint, Operation};
use crate::health::cause::Cause;
use crate::observation::{Finding, Stages};

/// The first stage of a login, in which only this machine is asked.
pub(crate) const FILES: &str = "files";
const BACK_OFF_FIRST: Duration = Duration::from_secs(5);
const BACK_OFF_LIMIT: Duration = Duration::from_secs(60);
/// So many logins in a row may connect and be given up ungreeted before they are spaced out: at 5 s each a freeze of 50
/// s ends as fast as it can be seen, and one of an hour leaves fewer than 80 broken handshakes.
const UNGREETED_LIMIT: u32 = 10;

/// How often a login is made while all is well, and what one may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) interval: Duration,
    pub(crate) limit: Duration,
}

/// The connections to one server.
pub(crate) struct Link {
    endpoint: Endpoint,
    pace: Pace,
    warm: Option<Session>,
    login: Option<Login>,
    /// The resolver's thread, when a login gave up waiting for it.
    search: Option<Search>,
    /// When the next login is due while all is well.
    next_login: Instant,
    /// The newest login, or what was asked right after it, failed so.
    refused: Option<Refused>,
}

/// A login that failed, and when the next may follow.
struct Refused {
    finding: Finding,
    /// Logins in a row that connected and were given up ungreeted.
    ungreeted: u32,
    back_off: Duration,
    next: Instant,
}

/// A login under way.
struct Login {
    task: JoinSet<Ended>,
    /// The stages it enters, and when.
    steps: mpsc::UnboundedReceiver<Step>,
    /// The newest of them that was received.
    current: Option<Step>,
}

type Step = (&'static str, Instant);

struct Ended {
    result: Result<Session, Finding>,
    /// Where it ended.
    stage: &'static str,
    at: Instant,
    search: Option<Search>,
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint, pace: Pace) -> Self {
        Self { endpoint, pace, warm: None, login: None, search: None, next_login: Instant::now(), refused: None }
    }

    pub(crate) fn is_warm(&self) -> bool {
        self.warm.is_some()
    }

    /// The newest login, or what was asked right after it, failed.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Takes in a login that ended meanwhile, and begins one if it is due.
    ///
    /// # Errors
    /// When that login failed.
    pub(crate) async fn turn(&mut self, stages: &mut Stages) -> Result<(), Finding> {
        let news = match self.login.as_mut().and_then(|login| login.ended(stages)) {
            Some(ended) => self.settle(ended).await,
            None => Ok(()),
        };
        self.start_if_due();
        news
    }

    /// Waits for the login that is under way, in its stages.
    ///
    /// # Errors
    /// When it failed, or the one before failed and the next is not due.
    pub(crate) async fn log_in(&mut self, stages: &mut Stages) -> Result<(), Finding> {
        let ended = match (&mut self.login, &self.refused) {
            (Some(login), _) => login.follow(stages).await,
            (None, Some(refused)) => return Err(refused.again()),
            (None, None) => return Err(Finding::new(Cause::CouldNotRun, "no login was started")),
        };
        self.settle(ended).await
    }

    /// Logs in anew, whatever is there: a login that is under way is waited for first, because it began before.
    ///
    /// # Errors
    /// When it failed, or the one before failed and the next is not due.
    pub(crate) async fn renew(&mut self, stages: &mut Stages) -> Result<(), Finding> {
        if self.login.is_some() {
            self.log_in(stages).await?;
        }
        if let Some(refused) = self.refused.as_ref().filter(|refused| Instant::now() < refused.next) {
            return Err(refused.again());
        }
        self.start();
        self.log_in(stages).await
    }

    /// Asks the warm connection, and keeps it only if it answered.
    ///
    /// # Errors
    /// When it broke, and [`Cause::CouldNotRun`] when there is none.
    pub(crate) async fn ask<O: Operation>(&mut self, operation: &O, stages: &mut Stages) -> Result<O::Answer, Finding> {
        let Some(mut session) = self.warm.take() else {
            return Err(Finding::new(Cause::CouldNotRun, "no connection to ask"));
        };
        stages.enter("query");
        match session.ask(operation).await {
            Ok(answer) => {
                stages.leave();
                self.warm = Some(session);
                Ok(answer)
            }
            Err(finding) => {
                self.refuse(&finding, "query");
                Err(finding)
            }
        }
    }

    /// Begins a login if one is due and none is under way.
    fn start_if_due(&mut self) {
        let due = match &self.refused {
            Some(refused) => refused.next,
            None if self.warm.is_some() => self.next_login,
            None => return self.start(),
        };
        if Instant::now() >= due {
            self.start();
        }
    }

    fn start(&mut self) {
        if self.login.is_none() {
            self.next_login = Instant::now() + self.pace.interval;
            self.login = Some(Login::start(self.endpoint.clone(), self.pace.limit, self.search.take()));
        }
    }

    /// Takes in how a login ended.
    async fn settle(&mut self, ended: Ended) -> Result<(), Finding> {
        self.login = None;
        self.search = ended.search;
        match ended.result {
            Ok(session) => {
                self.refused = None;
                if let Some(old) = self.warm.replace(session) {
                    old.close().await;
                }
                Ok(())
            }
            Err(finding) => {
                self.refuse(&finding, ended.stage);
                Err(finding)
            }
        }
    }

    fn refuse(&mut self, finding: &Finding, stage: &'static str) {
        let (last, ungreeted) = self.refused.as_ref().map_or((Duration::ZERO, 0), |r| (r.back_off, r.ungreeted));
        let ungreeted = if stage == "greeting" && finding.cause == Cause::DatabaseTimeout { ungreeted + 1 } else { 0 };
        let back_off = if costs(finding.cause, stage) || ungreeted > UNGREETED_LIMIT {
            (2 * last).clamp(BACK_OFF_FIRST, BACK_OFF_LIMIT)
        } else {
            Duration::ZERO
        };
        self.refused = Some(Refused { finding: finding.clone(), ungreeted, back_off, next: Instant::now() + back_off });
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Refused {
    fn again(&self) -> Finding {
        let Finding { cause, detail } = &self.finding;
        let wait = self.next.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
        Finding::new(*cause, format!("{detail}; next login in {wait} s"))
    }
}

/// Whether another login like this one has a price: a handshake that was broken off counts towards blocking this host
/// (`max_connect_errors`), and a wrong password towards locking the account.
fn costs(cause: Cause, stage: &str) -> bool {
    matches!(stage, "tls" | "auth")
        || !matches!(stage, FILES | "dns" | "tcp")
            && matches!(
                cause,
                Cause::DatabaseAccessDenied
                    | Cause::DatabaseNoRight
                    | Cause::DatabaseNoSchema
                    | Cause::DatabaseTls
                    | Cause::DatabaseHostBlocked
            )
}

impl Login {
    fn start(endpoint: Endpoint, limit: Duration, mut search: Option<Search>) -> Self {
        let (sender, steps) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut stage = FILES;
            let mut enter = |name| {
                stage = name;
                // Nobody listens only when the link is gone, and then this task is as well.
                let _ = sender.send((name, Instant::now()));
            };
            enter(FILES);
            let result = match login::files(&endpoint).await {
                Err(finding) => Err(finding),
                Ok(files) => {
                    let login = login(&endpoint, files, &mut search, &mut enter);
                    timeout(limit, login).await.unwrap_or_else(|_| {
                        let Endpoint { host, port, .. } = &endpoint;
                        let what = format!("no login within {limit:?}: stopped in stage `{stage}`");
                        Err(Finding::new(Cause::DatabaseTimeout, format!("{host}:{port}: {what}")))
                    })
                }
            };
            Ended { result, stage, at: Instant::now(), search }
        });
        Self { task, steps, current: None }
    }

    /// How it ended, if it has; its stages go to `stages`.
    fn ended(&mut self, stages: &mut Stages) -> Option<Ended> {
        let ended = outcome(self.task.try_join_next()?);
        self.catch_up(stages);
        if let Some((last, since)) = self.current {
            stages.record(last, ended.at - since);
        }
        Some(ended)
    }

    /// Waits for its end, in its stages.
    async fn follow(&mut self, stages: &mut Stages) -> Ended {
        self.catch_up(stages);
        if let Some((current, _)) = self.current {
            stages.enter(current);
        }
        loop {
            tokio::select! {
                biased;
                Some(step) = self.steps.recv() => {
                    stages.enter(step.0);
                    self.current = Some(step);
                }
                Some(ended) = self.task.join_next() => {
                    stages.leave();
                    return outcome(ended);
                }
            }
        }
    }

    /// Records the stages that it has gone through by itself, but not the one it is in.
    fn catch_up(&mut self, stages: &mut Stages) {
        while let Ok(step) = self.steps.try_recv() {
            if let Some((before, since)) = self.current.replace(step) {
                stages.record(before, step.1 - since);
            }
        }
    }
}

fn outcome(joined: Result<Ended, tokio::task::JoinError>) -> Ended {
    joined.unwrap_or_else(|error| Ended {
        result: Err(Finding::new(Cause::CouldNotRun, format!("the login panicked: {error}"))),
        stage: FILES,
        at: Instant::now(),
        search: None,
    })
}
