//! Every state change that is logged: one function each.

use crate::health::component::Transition;
use crate::health::verdict::{InstanceVerdict, RegionVerdict};

pub fn component_changed(_transition: &Transition) {}
pub fn instance_changed(_from: &str, _verdict: &InstanceVerdict) {}
pub fn region_changed(_from: &str, _verdict: &RegionVerdict) {}

pub fn agent_started(_a: &crate::snapshot::About, _l: &[String]) {}
pub fn agent_stopping() {}
pub fn config_reloaded() {}
pub fn config_rejected(_p: &str) {}
pub fn state_set_aside(_e: &crate::state::LoadError) {}
pub fn state_not_saved(_e: &std::io::Error) {}
pub fn task_restarted(_n: &str, _p: bool) {}
pub fn latches_changed(_a: &crate::latches::Latches, _b: &crate::latches::Latches) {}
pub fn latch_unreadable(_e: &std::io::Error) {}
