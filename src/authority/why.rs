//! The names of reasons and alarms of a decision, and their sentences, the same wherever they are shown.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Claim;

/// One reason for a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No source knows of any epoch.
    NobodyEverClaimed,
    /// Not all sources were heard yet in this boot.
    StillBooting,
    /// This region's database was never read, and nothing is known of it.
    NothingKept,
    /// It cannot be read now: what it showed last counts.
    OwnUnread,
    /// Read-only with a replication channel.
    Replica,
    /// This epoch is higher than the one of this region's database.
    HigherEpoch(Claim),
    /// As the row says that stands in this region's database.
    SupersededRow(Claim),
    /// A higher epoch was learned; this region's database must be read again before it counts.
    NotReread(Claim),
    Contradicts(Contradiction),
    /// The highest epoch is this region's.
    OwnsHighest(Claim),
    /// The newest row names the other region, and this one's database is writable.
    PromotedUnclaimed(Claim),
    /// What taking over waits for.
    Awaits(Awaited),
    /// Taking over was done with before at this epoch, here or by this member.
    TookOverBefore(Option<String>),
    PlannedClose,
    /// The close is over, and what ends it is not proven yet.
    CloseEnding,
    Drill,
    OtherIsOwner,
    /// The other region's database shows no row that names it the owner of the highest epoch.
    OtherIsNotOwner,
    OtherIsClosing,
}

/// Signals that cannot be true together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contradiction {
    /// Writable with a replication channel.
    WritableReplica,
    /// Read-only, and no channel.
    ReadOnlyWithoutChannel,
    ChannelsUnread,
    /// One number, two claims.
    SameEpoch(Claim, Claim),
    /// A claim that the region it names cannot have written.
    ImpossibleClaim(Claim),
    /// `init` wrote the regions in this order, the configuration has another.
    OrderOfRegions(Vec<String>),
}

/// What taking over waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Awaited {
    /// Every source to be asked once more since it began.
    FreshReads,
    /// This member to stop writing to the other region's database.
    MemberStops(String),
    /// This member to end its boot.
    MemberBoots(String),
    /// This member was asked and said nothing that can be used.
    MemberAnswers(String),
    /// The other region to be closed, or silent, or `takeover_wait` to end.
    OtherCloses,
}

/// What somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alarm {
    /// A higher epoch exists elsewhere: this region is closed.
    Superseded(Claim),
    Contradicts(Contradiction),
    /// A promotion that the agents may not claim by themselves.
    Unclaimed(super::claim::Refusal),
    /// An answer that proves nothing speaks of a higher epoch. It closes nothing.
    UnprovenEpoch(u64),
    /// A planned close is over, and the other region's database shows no replication channel: promoted and not claimed,
    /// or no replica any more. `dr-agent fence release` opens.
    CloseWithoutReplica,
    /// The account may not read what it must.
    NoRight(String),
    /// A member still writes to the other region's database long after this region took over.
    MemberStillWrites(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyEverClaimed => f.write_str("nobody has written an epoch yet (`dr-agent authority init`)"),
            Self::StillBooting => f.write_str("not every source was heard in this boot"),
            Self::NothingKept => f.write_str("this region's database was never read here"),
            Self::OwnUnread => f.write_str("this region's database cannot be read: what it showed last counts"),
            Self::Replica => f.write_str("this region's database is a replica"),
            Self::HigherEpoch(claim) => write!(f, "epoch {claim} is higher than this region's database has"),
            Self::SupersededRow(by) => write!(f, "this region's database says that {by} superseded it"),
            Self::NotReread(claim) => write!(f, "epoch {claim} was learned: this region's database is read again"),
            Self::Contradicts(contradiction) => contradiction.fmt(f),
            Self::OwnsHighest(claim) => write!(f, "epoch {claim} is the highest known"),
            Self::PromotedUnclaimed(claim) => {
                write!(f, "this region's database is writable, and its newest row is {claim}: promoted, not claimed")
            }
            Self::Awaits(awaited) => awaited.fmt(f),
            Self::TookOverBefore(None) => f.write_str("it took over at this epoch before"),
            Self::TookOverBefore(Some(member)) => write!(f, "{member} took over at this epoch before"),
            Self::PlannedClose => f.write_str("a planned close is in force"),
            Self::CloseEnding => f.write_str("a planned close is over, what follows is not known yet"),
            Self::Drill => f.write_str("a drill closes the region"),
            Self::OtherIsOwner => f.write_str("the other region's database says that it is the owner"),
            Self::OtherIsNotOwner => f.write_str("the other region's database does not say that it is the owner"),
            Self::OtherIsClosing => f.write_str("a planned close is in force in the other region"),
        }
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WritableReplica => f.write_str("the database is writable and has a replication channel"),
            Self::ReadOnlyWithoutChannel => f.write_str("the database is read-only and has no replication channel"),
            Self::ChannelsUnread => f.write_str("the database does not say whether it has a replication channel"),
            Self::SameEpoch(one, two) => write!(f, "the databases have {one} and {two}: one number, two claims"),
            Self::ImpossibleClaim(claim) => write!(f, "{claim} is no number of that region"),
            Self::OrderOfRegions(order) => {
                write!(f, "`authority.regions` is not the order that init wrote: {}", order.join(", "))
            }
        }
    }
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FreshReads => f.write_str("waits until every source was asked again"),
            Self::MemberStops(member) => write!(f, "waits until {member} stops writing to the other region"),
            Self::MemberBoots(member) => write!(f, "waits until {member} has decided"),
            Self::MemberAnswers(member) => write!(f, "waits for {member}, which does not answer"),
            Self::OtherCloses => f.write_str("waits until the other region is closed or silent, or `takeover_wait`"),
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superseded(claim) => write!(f, "this region is closed: {claim} superseded it"),
            Self::Contradicts(contradiction) => contradiction.fmt(f),
            Self::Unclaimed(refusal) => write!(f, "the promotion is not claimed: {refusal}: {}", refusal.sentence()),
            Self::UnprovenEpoch(epoch) => write!(f, "an answer without proof speaks of epoch {epoch}"),
            Self::CloseWithoutReplica => {
                f.write_str("the planned close is over and the other region's database is no replica: claim or release")
            }
            Self::NoRight(right) => write!(f, "the database account lacks a right: {right}"),
            Self::MemberStillWrites(member) => write!(f, "{member} still writes to the other region's database"),
        }
    }
}
