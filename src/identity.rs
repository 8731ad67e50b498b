//! Who this instance is.
