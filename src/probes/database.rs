//! The region's own database endpoint: a warm connection that every attempt asks, and a login every `fresh_interval`.
//!
//! Every login is made by one task beside the attempts, at most one at a time, with its own deadline `fresh_timeout`
//! from the moment its files are read: a cold login may take longer than an attempt, and none is given up halfway
//! because an attempt ends. A login that succeeds replaces the warm connection, so the facts are always those of the
//! server to which the endpoint's name points now, and a failover does not leave the probe with the old server. While
//! there is no warm connection, or the newest login failed, an attempt waits for a login and enters its stages as its
//! own; so each failure that is reported is a new one. If the attempt's deadline comes first, that is one failure, and
//! the login goes on.
//!
//! What a refused login costs is limited: after one that failed in TLS or by the account, the next follows 5 s later,
//! then 10, 20, 40, 60, and until then the attempts repeat what it found. The same holds from the 11th login in a row
//! that connected and was never greeted: each is a broken handshake to a server that thaws, and 100 block the host. The
//! password is read for each login.

mod facts;
mod failure;
mod login;
mod relay;

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::config::DatabaseProbe;
use crate::health::cause::Cause;
use crate::observation::{DatabaseFacts, Facts, Finding, Outcome, Stages};
use crate::probes::Probe;
use login::{Search, Session, login};

/// The first stage of a login, in which only this machine is asked.
const FILES: &str = "files";
const BACK_OFF_FIRST: Duration = Duration::from_secs(5);
const BACK_OFF_LIMIT: Duration = Duration::from_secs(60);
/// So many logins in a row may connect and be given up ungreeted before they are spaced out: at 5 s each a freeze of 50
/// s ends as fast as it can be seen, and one of an hour leaves fewer than 80 broken handshakes.
const UNGREETED_LIMIT: u32 = 10;

/// The probe of component `database`.
pub struct Database {
    config: DatabaseProbe,
    warm: Option<Session>,
    login: Option<Login>,
    /// The resolver's thread, when a login gave up waiting for it.
    search: Option<Search>,
    /// When the next login is due while all is well.
    next_login: Instant,
    /// The newest login, or what was asked right after it, failed so.
    refused: Option<Refused>,
    learned: Option<DatabaseFacts>,
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

impl Probe for Database {
    async fn attempt(&mut self, stages: &mut Stages) -> Outcome {
        self.learned = None;
        match self.observe(stages).await.and_then(|(facts, took)| self.judge(&facts, took)) {
            Ok(()) => Outcome::Pass,
            Err(finding) => Outcome::Fail(finding),
        }
    }

    async fn overdue(&mut self, stages: &Stages) -> Finding {
        let DatabaseProbe { host, port, .. } = &self.config;
        let stage = stages.current().unwrap_or("start");
        if stage == FILES {
            let detail = "its password and certificates could not be read in time: does this machine's disk hang?";
            return Finding::new(Cause::CouldNotRun, detail);
        }
        let detail = format!("{host}:{port} does not answer: stopped in stage `{stage}`");
        Finding::new(Cause::DatabaseTimeout, detail)
    }

    fn facts(&self) -> Facts {
        self.learned.clone().map_or(Facts::None, Facts::Database)
    }
}

impl Database {
    #[must_use]
    pub fn new(config: &DatabaseProbe) -> Self {
        Self {
            config: config.clone(),
            warm: None,
            login: None,
            search: None,
            next_login: Instant::now(),
            refused: None,
            learned: None,
        }
    }

    /// The facts, and how long the server took to tell them.
    async fn observe(&mut self, stages: &mut Stages) -> Result<(DatabaseFacts, Duration), Finding> {
        let news = match self.login.as_mut().and_then(|login| login.ended(stages)) {
            Some(ended) => self.settle(ended).await,
            None => Ok(()),
        };
        self.start_if_due();
        let facts = if self.warm.is_some() { Some(self.ask(stages).await?) } else { None };
        news?;
        match facts {
            Some(facts) if self.refused.is_none() => Ok(facts),
            _ => {
                let ended = match (&mut self.login, &self.refused) {
                    (Some(login), _) => login.follow(stages).await,
                    (None, Some(refused)) => return Err(refused.again()),
                    (None, None) => return Err(Finding::new(Cause::CouldNotRun, "no login was started")),
                };
                self.settle(ended).await?;
                self.ask(stages).await
            }
        }
    }

    /// Asks the warm connection, and keeps it only if it answered: after an error, or when the attempt is dropped
    /// meanwhile, nobody knows what is still on its way.
    async fn ask(&mut self, stages: &mut Stages) -> Result<(DatabaseFacts, Duration), Finding> {
        let Some(mut session) = self.warm.take() else {
            return Err(Finding::new(Cause::CouldNotRun, "no connection to ask"));
        };
        stages.enter("query");
        let began = Instant::now();
        match session.ask().await {
            Ok(facts) => {
                stages.leave();
                self.warm = Some(session);
                self.learned = Some(facts.clone());
                Ok((facts, began.elapsed()))
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
            self.next_login = Instant::now() + self.config.fresh_interval;
            self.login = Some(Login::start(self.config.clone(), self.search.take()));
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

    /// What the facts mean that it took so long to tell, the worst first. A login is not judged by its time: the first
    /// of a machine is always slow, and each has its deadline.
    fn judge(&self, facts: &DatabaseFacts, took: Duration) -> Result<(), Finding> {
        let DatabaseProbe { writer_expected, lag_limit, latency_limit, .. } = self.config;
        if writer_expected && (facts.read_only || facts.super_read_only == Some(true)) {
            return Err(Finding::new(Cause::DatabaseReadOnly, format!("server {} is read-only", facts.server)));
        }
        for channel in facts.replica.iter().flatten() {
            let from = &channel.source;
            match channel.lag_seconds {
                Some(lag) if lag > lag_limit.as_secs() => {
                    return Err(Finding::new(
                        Cause::DatabaseLag,
                        format!("{lag} s behind {from}, limit {lag_limit:?}"),
                    ));
                }
                // Replication that does not run has no lag; it is behind, by more every second.
                None if !(channel.io_running && channel.sql_running) => {
                    let why = channel.error.as_deref().unwrap_or("no error is given");
                    return Err(Finding::new(
                        Cause::DatabaseLag,
                        format!("replication from {from} does not run: {why}"),
                    ));
                }
                _ => {}
            }
        }
        if took > latency_limit {
            return Err(Finding::new(
                Cause::DatabaseSlow,
                format!("the query took {took:.1?}, limit {latency_limit:?}"),
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("config", &self.config).finish_non_exhaustive()
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
    fn start(config: DatabaseProbe, mut search: Option<Search>) -> Self {
        let (sender, steps) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut stage = FILES;
            let mut enter = |name| {
                stage = name;
                // Nobody listens only when the probe is gone, and then this task is as well.
                let _ = sender.send((name, Instant::now()));
            };
            enter(FILES);
            let result = match login::files(&config).await {
                Err(finding) => Err(finding),
                Ok(files) => {
                    let login = login(&config, files, &mut search, &mut enter);
                    timeout(config.fresh_timeout, login).await.unwrap_or_else(|_| {
                        let DatabaseProbe { host, port, fresh_timeout, .. } = &config;
                        let what = format!("no login within {fresh_timeout:?}: stopped in stage `{stage}`");
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
