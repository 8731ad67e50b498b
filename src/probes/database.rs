//! The region's own database endpoint: a warm connection that every attempt asks, and a login every `fresh_interval`.
//!
//! The connections are kept by a [`Link`]. While there is no warm connection, or the newest login failed, an attempt waits
//! for a login and enters its stages as its own; so each failure that is reported is a new one. If the attempt's deadline
//! comes first, that is one failure, and the login goes on.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use mysql_async::{Conn, Error};
use tokio::time::Instant;

use crate::config::DatabaseProbe;
use crate::database::{self, Dialect, Endpoint, FILES, Link, Operation, Pace};
use crate::health::cause::Cause;
use crate::observation::{DatabaseFacts, Facts, Finding, Outcome, Stages};
use crate::probes::Probe;

/// One login at one of `addresses`, under the name and by the account of `config`, and what is found there. The caller
/// sets a deadline.
///
/// # Errors
/// When nothing is.
pub(crate) async fn look(config: &DatabaseProbe, addresses: &[SocketAddr]) -> Result<DatabaseFacts, Finding> {
    database::ask_at(&Endpoint::from(config), addresses, &ReadFacts).await
}

/// The probe of component `database`.
pub struct Database {
    config: DatabaseProbe,
    link: Link,
    learned: Option<DatabaseFacts>,
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
        let pace = Pace { interval: config.fresh_interval, limit: config.fresh_timeout };
        Self { config: config.clone(), link: Link::new(Endpoint::from(config), pace), learned: None }
    }

    /// The facts, and how long the server took to tell them.
    async fn observe(&mut self, stages: &mut Stages) -> Result<(DatabaseFacts, Duration), Finding> {
        let news = self.link.turn(stages).await;
        let facts = if self.link.is_warm() { Some(self.ask(stages).await?) } else { None };
        news?;
        match facts {
            Some(facts) if !self.link.is_refused() => Ok(facts),
            _ => {
                self.link.log_in(stages).await?;
                self.ask(stages).await
            }
        }
    }

    async fn ask(&mut self, stages: &mut Stages) -> Result<(DatabaseFacts, Duration), Finding> {
        let began = Instant::now();
        let facts = self.link.ask(&ReadFacts, stages).await?;
        self.learned = Some(facts.clone());
        Ok((facts, began.elapsed()))
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

/// The role facts.
struct ReadFacts;

impl Operation for ReadFacts {
    const IS_READ: bool = true;
    type Answer = DatabaseFacts;

    async fn run(&self, conn: &mut Conn, dialect: &Dialect) -> Result<DatabaseFacts, Error> {
        dialect.facts(conn).await
    }
}
