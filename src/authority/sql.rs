//! The tables of authority in a real database: each operation of the protocol as one statement or one read, over
//! connections with deadlines. Nothing here decides.
//!
//! | operation | on which database | what makes it safe to repeat |
//! |---|---|---|
//! | [`Database::read`] | any | it only reads |
//! | [`Database::prove`] | the own one | it only reads, over three fresh connections |
//! | [`Database::claim`] | the own one, as proven | only where the highest epoch still is the parent; a region's own is left alone |
//! | [`Database::beat`] | the own one | once in 0.9 s, by whichever agent comes first |
//! | [`Database::supersede`] | the one that is fenced | a row that stands is left as it is |
//! | [`Database::enrol`] | the source of the replica | the same row again |
//! | [`Database::close`], [`Database::release`] | the own one | only where `until` still is what was read |
//!
//! No operation holds a transaction open: an instance that dies in the middle of one leaves no lock to wait for.

mod claim;
mod closing;
mod proof;
mod read;
mod record;
pub mod schema;

use std::time::Duration;

use jiff::Timestamp;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Params};
use tokio::time::{Instant, timeout};

use super::database::{Attempt, Unread};
use crate::clock::BootTime;
use crate::database::{self, Dialect, Endpoint, Link, Operation, Pace, TCP};
use crate::health::cause::Cause;
use crate::observation::{Finding, Stages};

pub use claim::{Claiming, regions_in, regions_word};
pub use closing::Close;
pub use proof::{Proof, Unproven};

/// What one read or one statement may take, a login included if one is needed.
const LIMIT: Duration = Duration::from_secs(2);

/// A login across two oceans takes longer than a read may; it goes on meanwhile. A connection is renewed after a minute,
/// so that a name that leads elsewhere now is followed.
const PACE: Pace = Pace { interval: Duration::from_secs(60), limit: Duration::from_secs(5) };

const DUPLICATE_KEY: u16 = 1062;

/// Characters of a `reason`, as its column has them.
const REASON: usize = 255;

/// Characters of a `server` or `by_whom`.
const NAME: usize = 190;

/// One database, as the tasks of authority use it: one operation at a time.
#[derive(Debug)]
pub struct Database {
    endpoint: Endpoint,
    link: Link,
}

/// What became of a write that only counts where nobody was faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    Done,
    /// What stands there is not what was read: read again.
    Changed,
}

/// Why something was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritten {
    /// No answer, or an error, in words. It may have been written all the same: read again.
    #[error("{0}")]
    Failed(String),
    #[error("a grant is missing: {0}")]
    NoRight(String),
    #[error("the server cannot be written: {0}")]
    ReadOnly(String),
    #[error("the tables do not exist: {0}; `dr-agent database grants` prints them")]
    NoTables(String),
    /// This is not the server that was proven writable.
    #[error("the endpoint leads to the server `{found}` now, and `{expected}` was proven")]
    AnotherServer { expected: String, found: String },
}

impl Database {
    /// Connects to nothing yet. To be used within the runtime.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let link = Link::new(endpoint.clone(), PACE);
        Self { endpoint, link }
    }

    /// Reads what it shows of authority, within 2 s, over the connection that is there, or a new one.
    pub async fn read(&mut self) -> Attempt {
        let began = BootTime::now();
        let result = match self.ask(&read::Reading).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(finding)) => Err(self.unread(finding)),
            Err(Lost { finding, stage: Some(TCP) }) => Err(Unread::Unreached(finding.detail)),
            Err(lost) => Err(self.unread(lost.finding)),
        };
        Attempt { began, ended: BootTime::now(), result }
    }

    /// Does `operation` within [`LIMIT`], over the warm connection; over a new one if there is none, or it is dead. A login
    /// that took more than half of it is left to the next operation: this one would be dropped halfway, and the connection
    /// with it, over and over where the server is far away.
    async fn ask<O: Operation>(&mut self, operation: &O) -> Result<O::Answer, Lost> {
        let (began, mut stages) = (Instant::now(), Stages::default());
        let asked = timeout(LIMIT, async {
            // How a login ended is of interest only to who needs it.
            drop(self.link.turn(&mut stages).await);
            if self.link.is_warm() {
                match self.link.ask(operation, &mut stages).await {
                    Err(finding) if O::IS_READ && finding.cause == Cause::DatabaseLost => {
                        drop(self.link.turn(&mut stages).await);
                    }
                    answer => return answer,
                }
            }
            self.link.log_in(&mut stages).await?;
            if began.elapsed() > LIMIT / 2 {
                return Err(Finding::new(Cause::DatabaseSlow, "the login was slow, and there is no time left to ask"));
            }
            self.link.ask(operation, &mut stages).await
        });
        let answer = asked.await.unwrap_or_else(|_| Err(self.overdue(&stages)));
        answer.map_err(|finding| Lost { finding, stage: stages.finish().last().map(|stage| stage.name) })
    }

    fn overdue(&self, stages: &Stages) -> Finding {
        let Endpoint { host, port, .. } = &self.endpoint;
        let stage = stages.current().unwrap_or("start");
        Finding::new(
            Cause::DatabaseTimeout,
            format!("{host}:{port} does not answer within {LIMIT:?}: stopped in stage `{stage}`"),
        )
    }

    async fn write(&mut self, statement: Statement) -> Result<u64, Unwritten> {
        match self.ask(&statement).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(finding)) | Err(Lost { finding, .. }) => Err(self.unwritten(finding)),
        }
    }

    /// Writes where nobody was faster.
    async fn swap(&mut self, statement: Statement) -> Result<Swap, Unwritten> {
        match self.ask(&statement).await {
            Ok(Ok(0)) => Ok(Swap::Changed),
            Ok(Ok(_)) => Ok(Swap::Done),
            Ok(Err(finding)) | Err(Lost { finding, .. }) => Err(self.unwritten(finding)),
        }
    }

    fn unread(&self, finding: Finding) -> Unread {
        match finding.cause {
            Cause::DatabaseNoRight => Unread::NoRight(self.missing_grant(&finding)),
            _ => Unread::Failed(finding.detail),
        }
    }

    fn unwritten(&self, finding: Finding) -> Unwritten {
        match finding.cause {
            Cause::DatabaseNoRight => Unwritten::NoRight(self.missing_grant(&finding)),
            Cause::DatabaseReadOnly => Unwritten::ReadOnly(finding.detail),
            Cause::DatabaseNoSchema => Unwritten::NoTables(finding.detail),
            _ => Unwritten::Failed(finding.detail),
        }
    }

    fn missing_grant(&self, finding: &Finding) -> String {
        format!("{} ({})", schema::grant(&self.endpoint.user), finding.detail)
    }
}

/// How far an operation came that has no answer.
struct Lost {
    finding: Finding,
    stage: Option<&'static str>,
}

/// One statement that writes, and its parameters; the answer is how many rows it changed.
struct Statement {
    sql: &'static str,
    parameters: Params,
}

impl Operation for Statement {
    const IS_READ: bool = false;
    type Answer = Result<u64, Finding>;

    async fn run(&self, conn: &mut Conn, _: &Dialect) -> Result<Self::Answer, Error> {
        kept(run(conn, self.sql, self.parameters.clone()).await)
    }
}

/// Runs a statement that writes, and counts the rows it changed: none where a key is taken.
async fn run(conn: &mut Conn, sql: &str, parameters: Params) -> Result<u64, Error> {
    match conn.exec_drop(sql, parameters).await {
        Err(Error::Server(error)) if error.code == DUPLICATE_KEY => Ok(0),
        result => result.map(|()| conn.affected_rows()),
    }
}

/// What the server refuses is an answer, and the connection is as good as before, unless the server ended it.
fn kept<T>(result: Result<T, Error>) -> Result<Result<T, Finding>, Error> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Server(error)) => match database::server(&error) {
            finding if finding.cause == Cause::DatabaseLost => Err(Error::Server(error)),
            finding => Ok(Err(finding)),
        },
        Err(error) => Err(error),
    }
}

/// Text as a column of so many characters takes it.
fn fit(text: &str, limit: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect()
}

/// A point in time as the tables have it, for a session in UTC: to the microsecond.
fn at(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_time_fit_their_columns() {
        assert_eq!(fit("ünter\nwegs", 7), "ünter w");
        assert_eq!(at("2026-11-25T15:38:01.1374029Z".parse().unwrap()), "2026-11-25 15:38:01.137402");
        assert_eq!(at(read::RELEASED), "2000-01-01 00:00:00.000000");
    }
}
