//! A planned close or a drill: a row in the owner's database, which every agent of both regions obeys until its `until` by
//! the clock of the server it stands in.

use std::time::Duration;

use jiff::Timestamp;
use mysql_async::params;

use super::{Database, NAME, REASON, Statement, Swap, Unwritten, at, fit};

const INSERT: &str = "\
INSERT INTO dr_agent.closing (region, kind, until, reason, by_whom)
VALUES (:region, :kind, UTC_TIMESTAMP(6) + INTERVAL :seconds SECOND, :reason, :by_whom)";

const UPDATE: &str = "\
UPDATE dr_agent.closing
   SET kind = :kind, until = UTC_TIMESTAMP(6) + INTERVAL :seconds SECOND, reason = :reason, by_whom = :by_whom
 WHERE region = :region AND until = :before";

/// A released row stays, so that everybody sees that it was ([`super::read::RELEASED`]).
pub(super) const RELEASE: &str =
    "UPDATE dr_agent.closing SET until = '2000-01-01' WHERE region = :region AND until = :until";

/// A close to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    pub region: String,
    pub is_drill: bool,
    /// How long, by the server's own clock.
    pub span: Duration,
    /// Why, for people. Cut to 255 characters.
    pub reason: String,
    /// Who. Cut to 190 characters.
    pub by_whom: String,
    /// `until` of the row that stands there, as it was read; `None` where there is none.
    pub before: Option<Timestamp>,
}

impl Database {
    /// Writes the row, if what stands there still is what was read.
    ///
    /// # Errors
    /// When it could not be written, or nobody can tell whether it was.
    pub async fn close(&mut self, close: &Close) -> Result<Swap, Unwritten> {
        let row = params! {
            "region" => &close.region,
            "kind" => if close.is_drill { "drill" } else { "close" },
            "seconds" => close.span.as_secs(),
            "reason" => fit(&close.reason, REASON),
            "by_whom" => fit(&close.by_whom, NAME),
            "before" => close.before.map(at),
        };
        let sql = if close.before.is_some() { UPDATE } else { INSERT };
        self.swap(Statement { sql, parameters: row }).await
    }

    /// Marks the row released, if its `until` still is what was read.
    ///
    /// # Errors
    /// When it could not be written, or nobody can tell whether it was.
    pub async fn release(&mut self, region: &str, until: Timestamp) -> Result<Swap, Unwritten> {
        let row = params! { "region" => region, "until" => at(until) };
        self.swap(Statement { sql: RELEASE, parameters: row }).await
    }
}
