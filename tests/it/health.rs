//! The decision core: rules, laws, and the incidents that made them. No I/O and no waiting: time is an argument.

mod bench;
mod component;
mod doors;
mod incidents;
mod laws;
mod owner;
mod script;
