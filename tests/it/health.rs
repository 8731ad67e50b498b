//! The decision core: rules, laws, and the incidents that made them. No I/O and no waiting: time is an argument.

mod answers;
mod bench;
mod component;
mod edges;
mod incidents;
mod instance;
mod laws;
mod oracle;
mod owner;
mod region;
mod script;
