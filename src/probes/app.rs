//! The app probe.
