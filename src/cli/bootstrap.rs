//! `dr-agent bootstrap`: what a boot makes of this machine before it serves; and `--seal`, before it becomes an image.

use std::path::Path;

use rustix::process::geteuid;
use tokio::runtime;

use super::{BootstrapArgs, Exit, page, region, render};
use crate::bootstrap::run::{self, Failed};
use crate::config::load;
use crate::image;
use crate::report::items::{Item, overall};

pub(super) fn run(config: Option<&Path>, args: &BootstrapArgs) -> Exit {
    if !geteuid().is_root() {
        render::errors(&["`dr-agent bootstrap` mounts and writes secrets: run it as root".to_owned()]);
        return Exit::Permission;
    }
    if args.seal { seal(config) } else { bootstrap(config, region(None)) }
}

fn seal(path: Option<&Path>) -> Exit {
    let mut loaded = load::at_start(path, None);
    // What is a secret is named alike for every region, and for none where none is known.
    if let Some(region) = loaded.config.regions.keys().next().cloned() {
        loaded.move_to(&region);
    }
    if !loaded.problems.is_empty() {
        render::errors(&loaded.problems);
        render::hint("which files are secrets stands in the configuration: correct it and seal again");
        return Exit::Configuration;
    }
    match image::seal::seal(Path::new("/"), &loaded.config) {
        Ok(items) => {
            show(&items);
            overall(&items).into()
        }
        Err(error) => {
            render::error(&error);
            Exit::Usage
        }
    }
}

fn bootstrap(config: Option<&Path>, region: Option<String>) -> Exit {
    crate::install_crypto_provider();
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            render::error(&error);
            return Exit::Unknown;
        }
    };
    let done = runtime.block_on(run::run(config, region));
    // A program that hangs in a dead mount must not keep the result.
    runtime.shutdown_background();
    match done {
        Ok(record) => {
            show(&record.items);
            overall(&record.items).into()
        }
        Err(error) => {
            render::error(&error);
            if matches!(error, Failed::Busy) { Exit::Usage } else { Exit::Permission }
        }
    }
}

/// A line each, with what to do about it.
pub(super) fn show(items: &[Item]) {
    render::data(&page::items(items));
}
