//! `dr-agent check --offline`: whether an image may be made of this machine.

use std::path::Path;

use rustix::process::geteuid;
use tokio::runtime;

use crate::cli::{Exit, Format, page, render};
use crate::health::cause::Status;
use crate::image::inspect;
use crate::report::items::{Item, overall};

pub(super) fn run(path: Option<&Path>, format: Format) -> Exit {
    if !geteuid().is_root() {
        render::errors(&["`dr-agent check --offline` looks for secrets and asks nginx: run it as root".to_owned()]);
        return Exit::Permission;
    }
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            render::error(&error);
            return Exit::Unknown;
        }
    };
    let items = runtime.block_on(inspect::look(path));
    render::data(&match format {
        Format::Text => page::items(&items),
        Format::Json => page::items_json(&items),
    });
    exit(&items)
}

/// A bad configuration has a code of its own.
fn exit(items: &[Item]) -> Exit {
    let is_bad = |item: &Item| item.name == inspect::CONFIGURATION && item.status == Status::Unhealthy;
    if items.iter().any(is_bad) { Exit::Configuration } else { overall(items).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_every_look() {
        let well = Item::well(inspect::CONFIGURATION, "");
        assert_eq!(exit(std::slice::from_ref(&well)), Exit::Ok);
        assert_eq!(exit(&[well.clone(), Item::degraded("units", "", "")]), Exit::Degraded);
        assert_eq!(exit(&[well, Item::unhealthy("sealed", "", "")]), Exit::Unhealthy);
        let bad = Item::unhealthy(inspect::CONFIGURATION, "", "");
        assert_eq!(exit(&[bad, Item::unhealthy("sealed", "", "")]), Exit::Configuration);
    }
}
