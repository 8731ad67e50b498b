//! Reading a database: its role, then all the tables of authority in one statement, so that they are of one moment.

use jiff::Timestamp;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

use super::{kept, regions_in};
use crate::authority::Claim;
use crate::authority::database::{self as shown, Beat, Closing, Enrolled, Kind, Read, Superseded, Tables};
use crate::database::{Dialect, Operation, text};
use crate::health::cause::Cause;
use crate::observation::Finding;

/// Every part has the same columns, and what it does not have is NULL. Of each table the newest hundred rows: one comes
/// with a promotion. Times are microseconds since 1970, whatever the time zone; what the server's own clock decides, it
/// says itself.
const TABLES: &str = "\
(SELECT 'newest' AS part, region, server AS name, kind, reason, epoch, parent,
        CAST(UNIX_TIMESTAMP(since) * 1000000 AS SIGNED) AS moment, NULL AS fact
   FROM dr_agent.authority ORDER BY epoch DESC LIMIT 1)
UNION ALL
(SELECT 'first', region, server, kind, reason, epoch, parent, CAST(UNIX_TIMESTAMP(since) * 1000000 AS SIGNED), NULL
   FROM dr_agent.authority WHERE parent = 0)
UNION ALL
(SELECT 'superseded', region, by_region, NULL, NULL, epoch, by_epoch,
        CAST(UNIX_TIMESTAMP(since) * 1000000 AS SIGNED), NULL
   FROM dr_agent.superseded ORDER BY by_epoch DESC LIMIT 100)
UNION ALL
(SELECT 'roll', region, server, NULL, NULL, NULL, NULL, NULL, NULL
   FROM dr_agent.roll ORDER BY since DESC LIMIT 100)
UNION ALL
(SELECT 'closing', region, by_whom, kind, reason, NULL, NULL,
        CAST(UNIX_TIMESTAMP(until) * 1000000 AS SIGNED), until > UTC_TIMESTAMP(6)
   FROM dr_agent.closing LIMIT 100)
UNION ALL
(SELECT 'heartbeat', region, NULL, NULL, NULL, NULL, NULL,
        CAST(UNIX_TIMESTAMP(at) * 1000000 AS SIGNED), TIMESTAMPDIFF(MICROSECOND, at, UTC_TIMESTAMP(6))
   FROM dr_agent.heartbeat LIMIT 100)";

/// `until` of a row that was released.
pub(super) const RELEASED: Timestamp = Timestamp::constant(946_684_800, 0);

/// Everything that one database shows of authority.
pub(super) struct Reading;

impl Operation for Reading {
    const IS_READ: bool = true;
    type Answer = Result<Read, Finding>;

    async fn run(&self, conn: &mut Conn, dialect: &Dialect) -> Result<Self::Answer, Error> {
        let facts = dialect.facts(conn).await?;
        let rows = match kept(conn.query::<Row, _>(TABLES).await)? {
            Ok(rows) => Some(rows),
            Err(finding) if finding.cause == Cause::DatabaseNoSchema => None,
            Err(finding) => return Ok(Err(finding)),
        };
        let tables = match rows.map(|rows| tables(&rows)) {
            None => None,
            Some(Some(tables)) => Some(tables),
            Some(None) => {
                let detail = "the tables of schema dr_agent hold what this release does not understand";
                return Ok(Err(Finding::new(Cause::DatabaseError, detail)));
            }
        };
        Ok(Ok(Read {
            is_writable: !facts.read_only && facts.super_read_only != Some(true),
            channels: facts.replica.as_ref().map(|channels| u32::try_from(channels.len()).unwrap_or(u32::MAX)),
            lag_seconds: facts.lag_seconds(),
            server: facts.server,
            tables,
        }))
    }
}

/// `None` when a row is not as this release writes it.
fn tables(rows: &[Row]) -> Option<Tables> {
    let mut tables = Tables::default();
    for row in rows {
        let row = Columns(row);
        match row.text("part")?.as_str() {
            "newest" => tables.newest = Some(row.authority()?),
            "first" => tables.regions = regions_in(&row.text("reason")?),
            "superseded" => tables.superseded.push(Superseded {
                region: row.text("region")?,
                epoch: row.number("epoch")?,
                by: Claim { epoch: row.number("parent")?, region: row.text("name")? },
                since: row.moment()?,
            }),
            "roll" => tables.roll.push(Enrolled { server: row.text("name")?, region: row.text("region")? }),
            "closing" => tables.closing.push(Closing {
                region: row.text("region")?,
                is_drill: row.text("kind")? == "drill",
                until: row.moment()?,
                is_in_force: row.text("fact")? == "1",
                is_released: row.moment()? == RELEASED,
                reason: row.text("reason")?,
                by_whom: row.text("name")?,
            }),
            "heartbeat" => tables.heartbeat.push(Beat {
                region: row.text("region")?,
                at: row.moment()?,
                // Negative when it was written by a clock that is ahead.
                age_ms: row.text("fact")?.parse::<i64>().ok()?.max(0).unsigned_abs() / 1000,
            }),
            _ => {}
        }
    }
    Some(tables)
}

struct Columns<'a>(&'a Row);

impl Columns<'_> {
    fn text(&self, name: &str) -> Option<String> {
        text(self.0, &[name])
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    fn moment(&self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.text("moment")?.parse().ok()?).ok()
    }

    fn authority(&self) -> Option<shown::Row> {
        Some(shown::Row {
            claim: Claim { epoch: self.number("epoch")?, region: self.text("region")? },
            parent: self.number("parent")?,
            server: self.text("name")?,
            kind: match self.text("kind")?.as_str() {
                "init" => Kind::Init,
                "promotion" => Kind::Promotion,
                "claim" => Kind::Claim,
                _ => return None,
            },
            since: self.moment()?,
        })
    }
}
