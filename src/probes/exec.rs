//! The exec probe.
