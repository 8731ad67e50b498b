//! Writes the man pages and the shell completions into a folder: `documents FOLDER DATE`. The package is made with it; it is no
//! part of the agent, which would be larger for it.

#[path = "documents/configuration.rs"]
mod configuration;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use roff::{Roff, bold, roman};

/// What the programs and pages of an administrator are found under.
const SECTION: &str = "8";
const MANUAL: &str = "dr-agent";

const FILES: [(&str, &str); 9] = [
    ("/etc/dr-agent/agent.toml", "The configuration: agent.toml(5)."),
    ("/etc/dr-agent/region", "Names the region, where there is no metadata service."),
    ("/etc/nginx/dr-agent.d/dr-agent.conf", "What nginx includes in every server block."),
    ("/var/lib/dr-agent", "State, and below public the markers by which nginx gives the agent's last word."),
    ("/var/lib/dr-agent-helper", "What the root helper of repointing remembers."),
    ("/run/dr-agent/control.sock", "The control socket: root and the group dr-agent-admin."),
    ("/run/dr-agent-http/public.sock", "The health paths, for nginx."),
    ("/usr/share/dr-agent", "The role's policy, the SELinux module, the drop-in for what uses the database."),
    ("/usr/share/doc/dr-agent", "The manual, with two regions and failback, and examples of the configuration."),
];

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(date)) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: documents FOLDER DATE"));
    };
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let mut command = dr_agent::cli::command();
    for shell in [Shell::Bash, Shell::Zsh] {
        generate_to(shell, &mut command, "dr-agent", &completions)?;
    }
    command.build();
    pages(&command, &man, &date)?;
    fs::write(man.join("agent.toml.5"), configuration::page(include_str!("agent.toml"), &date).render())
}

/// One page for each command, as git has it.
fn pages(command: &Command, folder: &Path, date: &str) -> io::Result<()> {
    page(command, folder, date)?;
    command.get_subcommands().try_for_each(|each| pages(each, folder, date))
}

fn page(command: &Command, folder: &Path, date: &str) -> io::Result<()> {
    let source = format!("dr-agent {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).section(SECTION).manual(MANUAL).source(source).date(date);
    let mut file = File::create(folder.join(man.get_filename()))?;
    man.render_title(&mut file)?;
    man.render_name_section(&mut file)?;
    man.render_synopsis_section(&mut file)?;
    man.render_description_section(&mut file)?;
    man.render_options_section(&mut file)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut file)?;
    }
    file.write_all(notes(command).render().as_bytes())
}

/// What stands below the options in `--help`, line by line as it is there, and where to read on.
fn notes(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let top = command.get_name() == "dr-agent";
    if let Some(notes) = command.get_after_help().map(ToString::to_string) {
        let (heading, notes) = notes.split_once(":\n").unwrap_or(("notes", notes.as_str()));
        roff.control("SH", [heading.to_uppercase().as_str()]);
        roff.control("nf", []);
        for line in notes.lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    if top {
        roff.control("SH", ["FILES"]);
        for (path, text) in FILES {
            roff.control("TP", []).text([bold(path)]).text([roman(text)]);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    let own = [roman("agent.toml(5), systemctl(1), journalctl(1)")];
    let below = [roman("dr-agent(8), agent.toml(5)")];
    roff.text(if top { own } else { below });
    roff
}
