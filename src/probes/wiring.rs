//! The wiring probe.
