//! Logs and events.

pub mod event;
