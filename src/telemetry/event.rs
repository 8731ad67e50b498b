//! Every state change that is logged: one function each.

use crate::health::component::Transition;
use crate::health::verdict::{InstanceVerdict, RegionVerdict};

pub fn component_changed(_transition: &Transition) {}
pub fn instance_changed(_from: &str, _verdict: &InstanceVerdict) {}
pub fn region_changed(_from: &str, _verdict: &RegionVerdict) {}
