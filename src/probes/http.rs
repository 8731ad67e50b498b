//! The http probe.
