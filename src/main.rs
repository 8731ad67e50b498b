//! The `dr-agent` command.

fn main() {}
