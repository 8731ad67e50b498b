//! ACT: each output has a receiver of snapshots and nothing else.

pub mod cloudwatch;
pub mod http;
pub mod markers;
pub mod metrics;
pub mod persist;
