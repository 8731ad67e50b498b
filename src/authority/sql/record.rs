//! What agents write down beside claims: the beat of an owner, the fence of a superseded region, the roll of replicas.

use mysql_async::params;

use super::{Database, NAME, Statement, Unwritten, fit};
use crate::authority::Claim;

/// However many agents do it every second, one row changes in 0.9 s.
const BEAT: &str = "\
UPDATE dr_agent.heartbeat SET at = UTC_TIMESTAMP(6)
 WHERE region = :region AND at < UTC_TIMESTAMP(6) - INTERVAL 900000 MICROSECOND";

const SUPERSEDE: &str = "\
INSERT INTO dr_agent.superseded (region, epoch, by_epoch, by_region, since)
VALUES (:region, :epoch, :by_epoch, :by_region, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE region = :region";

const ENROL: &str = "\
INSERT INTO dr_agent.roll (server, region, since)
VALUES (:server, :region, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE region = :region";

impl Database {
    /// Moves the region's heartbeat, if nobody did in the last 0.9 s. True when this call did.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn beat(&mut self, region: &str) -> Result<bool, Unwritten> {
        let rows = self.write(Statement { sql: BEAT, parameters: params! { "region" => region } }).await?;
        Ok(rows > 0)
    }

    /// Records in this database, which is that of `own`'s region, that `by` supersedes it.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn supersede(&mut self, own: &Claim, by: &Claim) -> Result<(), Unwritten> {
        let row = params! {
            "region" => &own.region,
            "epoch" => own.epoch,
            "by_epoch" => by.epoch,
            "by_region" => &by.region,
        };
        self.write(Statement { sql: SUPERSEDE, parameters: row }).await.map(drop)
    }

    /// Records in this database, which is the source of the replica `server` of `region`, that it was seen replicating.
    /// The row comes back to the replica as data.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn enrol(&mut self, server: &str, region: &str) -> Result<(), Unwritten> {
        let row = params! { "server" => fit(server, NAME), "region" => region };
        self.write(Statement { sql: ENROL, parameters: row }).await.map(drop)
    }
}
