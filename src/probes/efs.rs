//! The efs probe.
