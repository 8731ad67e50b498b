//! Two regions of real agents on real replication: who owns the data, who may write, who is let in; through promotions,
//! the loss of a region, its return, and operators.

mod bench;
mod doubt;
mod operator;
mod promotion;
mod reboot;
mod returning;

use crate::support::regions::{HOME, PEER, Site};
use crate::support::shop::{Session, Users};

const UNINITIALISED: &str = "UNINITIALISED writer=home page=200 region=200 promoted=503";
const OWNER_AT_HOME: &str = "OWNER writer=home page=200 region=200 promoted=200";
pub const OWNER_AT_PEER: &str = "OWNER writer=peer page=200 region=200 promoted=200";
pub const STANDBY_AT_HOME: &str = "STANDBY writer=peer page=200 region=200 promoted=503";
const STANDBY_AT_PEER: &str = "STANDBY writer=home page=200 region=200 promoted=503";

/// What a superseded home shows while it reaches the peer, and where it never did.
pub const FENCED: &str = "SUPERSEDED writer=peer page=503 region=503 promoted=503";
const FENCED_ALONE: &str = "SUPERSEDED writer=none page=503 region=503 promoted=503";
const FENCED_AT_PEER: &str = "SUPERSEDED writer=home page=503 region=503 promoted=503";
