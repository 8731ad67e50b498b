//! x
pub mod event;
pub fn init() {}
