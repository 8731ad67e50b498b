//! The two programs of the bench: `serve`, a bare hyper responder, and `load`, one driver for all targets, which speaks
//! TCP and unix sockets alike. `tests/bench/run` starts both and makes the table.

mod load;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: serve ADDRESS:PORT SOCKET BODY-FILE
       load TARGET PATH keep-alive CONNECTIONS SECONDS
       load TARGET PATH new CONNECTIONS SECONDS
       load TARGET PATH rate PER-SECOND SECONDS
       load TARGET PATH burst CONNECTIONS
       load TARGET PATH slow CONNECTIONS SECONDS
TARGET is ADDRESS:PORT or the path of a unix socket. `load` prints one line of JSON.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.to_string()),
    };
    let done = match words.as_slice() {
        ["serve", address, socket, body] => runtime.block_on(serve::run(address, &PathBuf::from(socket), body)),
        ["load", target, path, kind, number, rest @ ..] => match plan(kind, number, rest) {
            Some(plan) => runtime.block_on(load::run(target, path, plan)),
            None => return complain(USAGE),
        },
        _ => return complain(USAGE),
    };
    done.map_or_else(|error| complain(&error.to_string()), |()| ExitCode::SUCCESS)
}

fn plan(kind: &str, number: &str, rest: &[&str]) -> Option<load::Plan> {
    let number: usize = number.parse().ok()?;
    let seconds = || Some(Duration::from_secs_f64(rest.first()?.parse().ok()?));
    Some(match kind {
        "keep-alive" => load::Plan::KeepAlive { connections: number, during: seconds()? },
        "new" => load::Plan::New { connections: number, during: seconds()? },
        "rate" => load::Plan::Rate { per_second: number, during: seconds()? },
        "slow" => load::Plan::Slow { connections: number, during: seconds()? },
        "burst" => load::Plan::Burst { connections: number },
        _ => return None,
    })
}

fn complain(what: &str) -> ExitCode {
    eprintln!("{what}");
    ExitCode::FAILURE
}
