//! DECIDE: what the observations mean. Everything below is pure; the owner task in [`crate::owner`] holds the state.

pub mod cause;
pub mod component;
pub mod verdict;
