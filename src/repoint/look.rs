//! May a region's database be the app's writer? The look before the leap, and what its answer means.

use std::future::Future;

use thiserror::Error;

use crate::authority::database::Read;
use crate::config::{DatabaseProbe, HostPort};

/// Sees whether a database can be written: that it is no replica, on three fresh connections.
pub trait Look: Clone + Send + Sync + 'static {
    /// What the last of them showed. `account`: whose login it is, at another server.
    ///
    /// # Errors
    /// In words, when it is not proven. Ends by itself.
    fn prove(&self, account: &DatabaseProbe, at: &HostPort) -> impl Future<Output = Result<Read, String>> + Send;
}

/// Why a database that can be written must not be the writer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Objection {
    #[error("its newest row names `{0}` the owner")]
    AnotherOwner(String),
    #[error("its newest row has epoch {found}, and {known} is known")]
    Older { found: u64, known: u64 },
    #[error("it has no row of authority, and epoch {0} is known")]
    NoRow(u64),
    #[error("the server `{0}` cannot be written")]
    NotWritable(String),
}

/// Whether what a database shows allows it to be the writer as that of `region`, when `known` is the highest epoch known
/// (0: none).
///
/// # Errors
/// What speaks against it.
pub fn judge(read: &Read, region: &str, known: u64) -> Result<(), Objection> {
    if !read.is_writable || read.channels != Some(0) {
        return Err(Objection::NotWritable(read.server.clone()));
    }
    match read.tables.as_ref().and_then(|tables| tables.newest.as_ref()) {
        None if known == 0 => Ok(()),
        None => Err(Objection::NoRow(known)),
        Some(row) if row.claim.region != region => Err(Objection::AnotherOwner(row.claim.region.clone())),
        Some(row) if row.claim.epoch < known => Err(Objection::Older { found: row.claim.epoch, known }),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::authority::Claim;
    use crate::authority::database::{Kind, Row, Tables};

    fn read(newest: Option<(u64, &str)>) -> Read {
        let row = |(epoch, region): (u64, &str)| Row {
            claim: Claim { epoch, region: region.to_owned() },
            parent: 0,
            server: "s".to_owned(),
            kind: Kind::Init,
            since: Timestamp::UNIX_EPOCH,
        };
        Read {
            server: "s".to_owned(),
            is_writable: true,
            channels: Some(0),
            lag_seconds: None,
            tables: Some(Tables { newest: newest.map(row), ..Tables::default() }),
        }
    }

    #[test]
    fn only_the_owner_of_the_newest_epoch_is_written_to() {
        assert_eq!(judge(&read(Some((4, "a"))), "a", 4), Ok(()));
        assert_eq!(judge(&read(Some((5, "a"))), "a", 4), Ok(()));
        assert_eq!(judge(&read(Some((4, "b"))), "a", 4), Err(Objection::AnotherOwner("b".to_owned())));
        assert_eq!(judge(&read(Some((3, "a"))), "a", 4), Err(Objection::Older { found: 3, known: 4 }));
        assert_eq!(judge(&read(None), "a", 4), Err(Objection::NoRow(4)));
        assert_eq!(judge(&Read { tables: None, ..read(None) }, "a", 4), Err(Objection::NoRow(4)));
        assert_eq!(judge(&read(None), "a", 0), Ok(()), "before the first row");
        for bad in [
            Read { is_writable: false, ..read(Some((4, "a"))) },
            Read { channels: Some(1), ..read(Some((4, "a"))) },
            Read { channels: None, ..read(Some((4, "a"))) },
        ] {
            assert!(matches!(judge(&bad, "a", 4), Err(Objection::NotWritable(_))));
        }
    }
}
