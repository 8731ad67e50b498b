//! The host probe.
