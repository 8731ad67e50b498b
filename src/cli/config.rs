//! `dr-agent config check` and `config show`.

use std::path::Path;

use super::{Exit, region, render};
use crate::config::load::{self, File, Problems};
use crate::config::{self, Config, show};

pub(super) fn check(path: Option<&Path>, given: Option<String>) -> Exit {
    match good(path, given) {
        Ok((Some(file), _)) => {
            render::data(&format!("{} is good\n", file.path().display()));
            Exit::Ok
        }
        Ok((None, _)) => {
            render::data("there is no file: the built-in defaults apply\n");
            note_defaults();
            Exit::Ok
        }
        Err(problems) => bad(&problems),
    }
}

pub(super) fn show(path: Option<&Path>, given: Option<String>) -> Exit {
    match good(path, given) {
        Ok((file, config)) => {
            render::data(&show::as_toml(&config));
            if file.is_none() {
                note_defaults();
            }
            if config.region.is_none() && !config.regions.is_empty() {
                render::note("the region is not known: name it with `--region` to see its values");
            }
            Exit::Ok
        }
        Err(problems) => bad(&problems),
    }
}

/// A good file is checked for every region it has: it is the same file on all machines.
fn good(path: Option<&Path>, given: Option<String>) -> Result<(Option<File>, Config), Problems> {
    let region = region(given);
    let file = match load::read(path.unwrap_or(Path::new(load::DEFAULT_PATH))) {
        Ok(file) => file,
        Err(problems) if problems.is_missing() && path.is_none() => return Ok((None, config::defaults())),
        Err(problems) => return Err(problems),
    };
    let config = file.config(region.as_deref())?;
    for other in config.regions.keys() {
        file.config(Some(other))?;
    }
    Ok((Some(file), config))
}

fn bad(problems: &Problems) -> Exit {
    render::errors(&problems.lines());
    if problems.is_permission() { Exit::Permission } else { Exit::Configuration }
}

fn note_defaults() {
    render::note(format_args!(
        "without {} only nginx and the host are watched, and nobody looks whether nginx is wired to the agent",
        load::DEFAULT_PATH
    ));
}
