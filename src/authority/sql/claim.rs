//! The birth of an epoch: one row, inserted only where the highest epoch still is the one it was claimed on.

use jiff::Timestamp;
use mysql_async::{Conn, Error, params};

use super::closing::RELEASE;
use super::{Database, Lost, NAME, REASON, Swap, Unwritten, at, fit, kept, run};
use crate::authority::Claim;
use crate::authority::database::Kind;
use crate::database::{Dialect, Operation};
use crate::observation::Finding;

/// Before the claim: whoever owns the epoch can beat at once, and a row without a claim says nothing.
const HEARTBEAT: &str = "\
INSERT INTO dr_agent.heartbeat (region, at) VALUES (:region, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE region = :region";

/// The aggregate gives one row, also for an empty table, and none once the highest epoch is another. Who comes second in
/// the same instant finds `parent` taken.
const CLAIM: &str = "\
INSERT INTO dr_agent.authority (epoch, parent, region, server, kind, reason, since)
SELECT :epoch, :parent, :region, :server, :kind, :reason, UTC_TIMESTAMP(6)
  FROM dr_agent.authority HAVING COALESCE(MAX(epoch), 0) = :parent";

/// The loser of a deadlock; a lock that somebody holds. Each means that another claim is under way.
const BEATEN: [u16; 2] = [1213, 1205];

/// An epoch to be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claiming {
    /// The new epoch, above `parent`, and this region.
    pub claim: Claim,
    /// The highest epoch of the read that was decided on; 0 for none.
    pub parent: u64,
    /// The server that was proven writable.
    pub server: String,
    pub kind: Kind,
    /// Why, for people. Cut to 255 characters; the first row's begins with [`regions_word`].
    pub reason: String,
    /// `until` of this region's own `closing` row, which the claim releases, as it was read.
    pub closing: Option<Timestamp>,
}

impl Claiming {
    /// The first row ever: it also says the order of the regions, for ever.
    #[must_use]
    pub fn first(claim: Claim, server: String, regions: &[String], reason: &str) -> Self {
        let reason = format!("{} {reason}", regions_word(regions));
        Self { claim, parent: 0, server, kind: Kind::Init, reason, closing: None }
    }
}

impl Database {
    /// Inserts the row if the highest epoch still is its parent, with the region's heartbeat, and marks the region's own
    /// close released. To be called with what [`Database::prove`] just proved.
    ///
    /// # Errors
    /// When it could not be written, or nobody can tell whether it was: read again then.
    pub async fn claim(&mut self, claiming: &Claiming) -> Result<Swap, Unwritten> {
        match self.ask(claiming).await {
            Ok(Ok(Ok(swap))) => Ok(swap),
            Ok(Ok(Err(found))) => Err(Unwritten::AnotherServer { expected: claiming.server.clone(), found }),
            Ok(Err(finding)) | Err(Lost { finding, .. }) => Err(self.unwritten(finding)),
        }
    }
}

impl Operation for Claiming {
    const IS_READ: bool = false;
    /// The inner error is the identity of a server that is not the proven one.
    type Answer = Result<Result<Swap, String>, Finding>;

    async fn run(&self, conn: &mut Conn, dialect: &Dialect) -> Result<Self::Answer, Error> {
        let found = dialect.facts(conn).await?.server;
        if found != self.server {
            return Ok(Ok(Err(found)));
        }
        kept(self.insert(conn).await.map(Ok))
    }
}

impl Claiming {
    async fn insert(&self, conn: &mut Conn) -> Result<Swap, Error> {
        let Claim { epoch, region } = &self.claim;
        run(conn, HEARTBEAT, params! { "region" => region }).await?;
        // Before the claim too: nothing counts a close of a region that does not own the data, and one that outlived its
        // claim would close the new owner.
        if let Some(until) = self.closing {
            // Nothing changed: somebody wrote another one since, and the next read shows it.
            run(conn, RELEASE, params! { "region" => region, "until" => at(until) }).await?;
        }
        let kind = match self.kind {
            Kind::Init => "init",
            Kind::Promotion => "promotion",
            Kind::Claim => "claim",
        };
        let row = params! {
            "epoch" => epoch,
            "parent" => self.parent,
            "region" => region,
            "server" => fit(&self.server, NAME),
            kind,
            "reason" => fit(&self.reason, REASON),
        };
        match run(conn, CLAIM, row).await {
            Ok(0) => return Ok(Swap::Changed),
            Err(Error::Server(error)) if BEATEN.contains(&error.code) => return Ok(Swap::Changed),
            result => result?,
        };
        Ok(Swap::Done)
    }
}

/// The order of the regions as the first row's `reason` has it, in one word.
#[must_use]
pub fn regions_word(regions: &[String]) -> String {
    format!("regions={}", regions.join(","))
}

/// The regions in the first row's `reason`; empty when it does not say.
#[must_use]
pub fn regions_in(reason: &str) -> Vec<String> {
    let word = reason.split(' ').find_map(|word| word.strip_prefix("regions="));
    word.map(|list| list.split(',').map(str::to_owned).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_regions_is_read_back_from_the_first_rows_reason() {
        let regions = ["us-east-1".to_owned(), "ap-south-1".to_owned()];
        assert_eq!(regions_in(&format!("{} by ann, for a reason", regions_word(&regions))), regions);
        assert_eq!(regions_in(&regions_word(&regions)), regions);
        assert_eq!(regions_in("a reason"), [""; 0]);
    }
}
