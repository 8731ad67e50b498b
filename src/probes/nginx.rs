//! The nginx probe.
