//! Two regions of real agents on real replication: who owns the data, who may write, who is let in; through promotions,
//! the loss of a region, its return, and operators.

mod promotion;

use crate::support::regions::{HOME, PEER, Site};

/// What a superseded region shows while it reaches the other one.
const FENCED: &str = "SUPERSEDED writer=b-1 page=503 region=503 promoted=503";
const OWNER_AT_PEER: &str = "OWNER writer=b-1 page=200 region=200 promoted=200";
