//! The `dr-agent` command.

use std::process::ExitCode;

use dr_agent::{cli, probes};

/// Gives memory back to the system after a flood of connections; glibc's allocator kept 11 MB of it for ever.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // The expendable child of the efs probe is this binary too. It must not pay for, or depend on, anything else.
    if args.next().is_some_and(|first| first == probes::efs::CHILD_COMMAND) {
        return probes::efs::child::run(args);
    }
    cli::main()
}
