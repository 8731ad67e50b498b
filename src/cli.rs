//! The command line. Data goes to stdout, all else to stderr; everything is readable without colour; what is wrong
//! comes with a `hint:` line that says what to do. Only [`render`] prints.

mod authority;
mod bootstrap;
mod check;
mod client;
mod close;
mod config;
mod database;
mod drill;
mod exit;
mod explain;
mod helper;
mod history;
mod latch;
mod page;
mod render;
mod status;
mod time;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::app;
use crate::config::load;
use crate::identity;
use crate::latches::Kind;
use exit::{EXIT_CODES, Exit};

/// Tells the truth about this web instance to its load balancer, Route 53 and you.
#[derive(Debug, Parser)]
#[command(name = "dr-agent", version, after_help = EXIT_CODES, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The configuration file [default: /etc/dr-agent/agent.toml]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Everywhere")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM; SIGHUP reads the configuration again
    #[command(after_help = "Examples:\n  dr-agent run\n  dr-agent run --config ./agent.toml --region ap-south-1")]
    Run(RegionArg),
    /// Look at everything once, with or without a running agent, and say what to do
    #[command(after_help = "\
Examples:
  dr-agent check                          what is wrong, and what would act on it
  dr-agent check --format json | jq .     the same for programs
  sudo dr-agent check --as-me             what root can do, not what the agent can
  sudo dr-agent check --offline           whether an image may be made of this machine

As root it probes as the agent's user, because a file that only root can read does not help it. \
            On an EC2 instance it asks AWS whatever the role may ask without an effect: a permission that is missing comes with the \
            policy to paste. It ends within 15 s whatever hangs. All it leaves is its file in the folder .dr-agent of the mount, and a lock file in the \
            state directory.")]
    Check(CheckArgs),
    /// Make this machine an instance of its region: secrets, mount, journal; systemd starts it
    #[command(after_help = "\
Examples:
  dr-agent bootstrap                      what its unit does at boot; again at any time
  systemctl restart dr-agent-bootstrap    the same, by systemd
  dr-agent bootstrap --seal               before an image is made of this machine

What is as it should be is left alone. `dr-agent check` shows what came of the newest one.")]
    Bootstrap(BootstrapArgs),
    /// What the running agent knows
    #[command(after_help = "Examples:\n  dr-agent status\n  dr-agent status --watch\n  dr-agent status --format json")]
    Status(StatusArgs),
    /// Why a verdict is what it is: each component's row of the cause table as it applies now
    #[command(after_help = "Examples:\n  dr-agent explain\n  dr-agent explain region\n  dr-agent explain repoint")]
    Explain(ExplainArgs),
    /// What changed, when and why
    #[command(after_help = "\
Examples:
  dr-agent history --since -2h
  dr-agent history --since 03:00 --until 03:30
  dr-agent history --since '2026-11-23 22:00' --format json
  dr-agent history --group                why instances of this group are gone
  dr-agent history --failovers            each change of the owner of the data, step by step")]
    History(HistoryArgs),
    /// Ask the load balancer to stop sending requests to this instance
    #[command(after_help = "\
Examples:
  dr-agent drain --reason 'deploy 42'
  dr-agent drain --reason 'disk swap' --for 4h

It survives a restart of the agent and ends with a reboot. If no other instance of the group is known to be healthy it is \
            refused without --force: the load balancer would send requests to all instances, drained or not. So it is if the group's \
            health check type is ELB: Auto Scaling would end the instance.")]
    Drain(DrainArgs),
    /// End a drain
    #[command(after_help = "Examples:\n  dr-agent undrain")]
    Undrain,
    /// Keep the agent from repairing or replacing this instance; verdicts do not change
    #[command(after_help = "Examples:\n  dr-agent hold --reason 'looking at it'\n  dr-agent hold --release")]
    Hold(HoldArgs),
    /// Check or show the configuration
    #[command(subcommand, after_help = "Examples:\n  dr-agent config check\n  dr-agent config show --region us-east-1")]
    Config(ConfigCommand),
    /// What the database must have for the agent
    #[command(
        subcommand,
        after_help = "Examples:\n  dr-agent database grants\n  dr-agent database grants --dialect mariadb"
    )]
    Database(DatabaseCommand),
    /// Who owns the data: this region or the other one, and why
    #[command(
        subcommand,
        after_help = "Examples:\n  dr-agent authority show\n  dr-agent authority init --reason 'first set-up'"
    )]
    Authority(AuthorityCommand),
    /// Close this region on purpose, open it again, and see how far that is
    #[command(
        subcommand,
        after_help = "Examples:\n  dr-agent fence status\n  dr-agent fence close --reason 'failback' --for 30m"
    )]
    Fence(FenceCommand),
    /// Rehearse a failure, for a while: of this region, or of one component here
    #[command(after_help = "\
Examples:
  dr-agent drill --reason 'quarterly rehearsal' --for 10m                     the region answers Route 53 503
  dr-agent drill --component efs --reason 'who notices?' --for 5m             as if the mount failed here
  dr-agent drill --component database --shared --reason 'hold' --for 5m       as if it failed for everybody
  dr-agent drill --end

Users are served all the while, nobody is replaced, and every answer says that it is a drill. It ends by itself, also if the \
            agent dies. That of a region is written into its database, so that every agent obeys it; `dr-agent fence release` ends it. \
            With --shared, and of a region, it is refused without --force unless the other region is ready.")]
    Drill(DrillArgs),
    /// Keys by which agents know each other
    #[command(
        subcommand,
        after_help = "Examples:\n  dr-agent key generate | install -m 0640 -g dr-agent /dev/stdin /etc/dr-agent/group.key"
    )]
    Key(KeyCommand),
    /// What needs root, for a request of the agent; systemd starts it
    #[command(
        subcommand,
        after_help = "Examples:\n  dr-agent helper nginx-restart\n  dr-agent helper gate-open --wait 12s"
    )]
    Helper(HelperCommand),
    /// The version and what it was built with
    #[command(after_help = "Examples:\n  dr-agent version")]
    Version,
}

#[derive(Debug, Clone, Args)]
struct RegionArg {
    /// The region this instance is in [default: /etc/dr-agent/region, else metadata]
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    region: RegionArg,
    /// Probe as the user who runs this, not as the agent's user
    #[arg(long)]
    as_me: bool,
    /// Judge this machine as an image to be: without network, without an agent, and sealed
    #[arg(long, conflicts_with_all = ["region", "as_me"])]
    offline: bool,
    #[arg(long, value_enum, default_value_t = Format::Text, help = FORMAT)]
    format: Format,
}

#[derive(Debug, Args)]
struct BootstrapArgs {
    /// Take out of this machine what must not be in an image of it: identity, state, secrets
    #[arg(long)]
    seal: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Show it again every second, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    #[arg(long, value_enum, default_value_t = Format::Text, help = FORMAT)]
    format: Format,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// What to explain; all of it without one
    #[arg(value_enum)]
    verdict: Option<Verdict>,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    /// From when on: a local time, a date and time, or how long ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse)]
    since: Option<Timestamp>,
    /// Until when
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse)]
    until: Option<Timestamp>,
    /// The instances of the group that were replaced, as the members that agreed to it remember them
    #[arg(long, conflicts_with_all = ["since", "until"])]
    group: bool,
    /// Each change of the owner of the data that this agent has seen: every step, and what may be lost
    #[arg(long, conflicts_with_all = ["since", "until", "group"])]
    failovers: bool,
    #[arg(long, value_enum, default_value_t = Format::Text, help = FORMAT)]
    format: Format,
}

#[derive(Debug, Args)]
struct DrainArgs {
    /// Why, for whoever finds it drained
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long: at most 24h, or `boot` for until the machine reboots
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = time::span)]
    span: time::Span,
    /// Even if no other instance is known to be healthy, or Auto Scaling would end this one for it
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct HoldArgs {
    /// Why, for whoever finds it held
    #[arg(long, value_name = "TEXT", required_unless_present = "release", conflicts_with = "release")]
    reason: Option<String>,
    /// How long: at most 24h, or `boot` for until the machine reboots
    #[arg(long = "for", value_name = "TIME", default_value = "boot", value_parser = time::span, conflicts_with = "release")]
    span: time::Span,
    /// End the hold
    #[arg(long)]
    release: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say everything that is wrong with the file, with the fix
    #[command(after_help = "Examples:\n  dr-agent config check\n  dr-agent config check --config ./agent.toml")]
    Check(RegionArg),
    /// Print the configuration in force as TOML, with every default written out
    #[command(after_help = "Examples:\n  dr-agent config show\n  dr-agent config show --region us-east-1")]
    Show(RegionArg),
}

#[derive(Debug, Subcommand)]
enum DatabaseCommand {
    /// Print the SQL that creates the schema `dr_agent`, its tables, and the agent's account
    #[command(after_help = "\
Examples:
  dr-agent database grants                                   to read, with a placeholder for the password
  dr-agent database grants --password-stdin < /etc/dr-agent/database.password | mysql -h PRIMARY -u admin -p

Run it on the primary; replicas get it by replication. It may be run again: an account that exists keeps its password. The \
            account can write the schema `dr_agent` and nothing else, and read the state of replication.")]
    Grants(GrantsArgs),
}

#[derive(Debug, Args)]
struct GrantsArgs {
    /// Whose SQL; without it, what both take
    #[arg(long, value_enum)]
    dialect: Option<SqlDialect>,
    /// Read the account's password from standard input
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SqlDialect {
    Mysql,
    Mariadb,
}

#[derive(Debug, Subcommand)]
enum AuthorityCommand {
    /// What the running agent knows of it
    #[command(after_help = "Examples:\n  dr-agent authority show\n  dr-agent authority show --format json")]
    Show(FormatArg),
    /// Write the first epoch: this region owns the data from now on. Once, on the primary's side
    #[command(after_help = "Examples:\n  dr-agent authority init --reason 'first set-up'")]
    Init(InitArgs),
    /// Write an epoch above everything that is known, where the agents may not do it by themselves
    #[command(after_help = "Examples:\n  dr-agent authority claim --reason 'promoted by hand, never seen replicating'")]
    Claim(ClaimArgs),
}

#[derive(Debug, Subcommand)]
enum FenceCommand {
    /// Whether this region is closed, since when, why, and how far a planned close is
    #[command(after_help = "Examples:\n  dr-agent fence status")]
    Status(FormatArg),
    /// Close this region for users and writers, for a while, so that the other one can be promoted without loss
    #[command(after_help = "\
Examples:
  dr-agent fence close --reason 'failback to ap-south-1' --for 30m

It shows what is still open, says when to promote the other region's database, and ends when that has claimed. The close ends \
            by itself at its time.")]
    Close(CloseArgs),
    /// End a planned close; where a higher epoch exists it is a claim, which gives up what the other region has written
    #[command(after_help = "Examples:\n  dr-agent fence release --reason 'not today'")]
    Release(ClaimArgs),
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Print a new key, for a line of `key_file`
    #[command(
        after_help = "Examples:\n  dr-agent key generate | install -m 0640 -g dr-agent /dev/stdin /etc/dr-agent/group.key"
    )]
    Generate,
}

#[derive(Debug, Args)]
struct FormatArg {
    #[arg(long, value_enum, default_value_t = Format::Text, help = FORMAT)]
    format: Format,
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Why, for whoever reads the row
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Although the other region's database cannot be read, or is writable too
    #[arg(long)]
    force: bool,
    /// The words that would have to be typed otherwise: `init without knowing the other region`
    #[arg(long, value_name = "TEXT")]
    yes: Option<String>,
}

#[derive(Debug, Args)]
struct ClaimArgs {
    /// Why, for whoever reads the row
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The word that would have to be typed otherwise: the command's own, `claim` or `release`
    #[arg(long, value_name = "TEXT")]
    yes: Option<String>,
}

#[derive(Debug, Args)]
struct DrillArgs {
    /// What is taken as failing, as `dr-agent status` names it; left out: the region
    #[arg(long, value_name = "NAME")]
    component: Option<String>,
    /// As if no member of the group passed either
    #[arg(long, requires = "component")]
    shared: bool,
    /// Why, for whoever finds it
    #[arg(long, value_name = "TEXT", required_unless_present = "end")]
    reason: Option<String>,
    /// How long, at most 24h
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time::length)]
    span: Duration,
    /// Though the other region is not ready
    #[arg(long)]
    force: bool,
    /// End the drill of a component
    #[arg(long, conflicts_with_all = ["component", "shared", "reason", "force"])]
    end: bool,
}

#[derive(Debug, Args)]
struct CloseArgs {
    /// Why, for whoever finds it closed
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long, at most 24h
    #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = time::length)]
    span: Duration,
    /// Do not wait until the other region can be promoted
    #[arg(long)]
    detach: bool,
}

const FORMAT: &str = "Text for people, or versioned JSON for programs";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verdict {
    /// Can this instance serve?
    Instance,
    /// Can this region serve?
    Region,
    /// Is this instance to be replaced?
    Replace,
    /// Which database does the app use, and why?
    Repoint,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum HelperCommand {
    /// Restart nginx, if its configuration is good
    NginxRestart,
    /// Mount the file system anew, if it answers then
    EfsRemount,
    /// Make the app's outputs say what the agent decided
    RepointApply,
    /// Wait, at boot, until the app's outputs are those of this boot; it always ends well
    GateOpen {
        /// How long at most
        #[arg(long, value_name = "TIME", default_value = "12s", value_parser = time::wait)]
        wait: Duration,
    },
}

/// The command line, for whoever documents it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let matches = command().try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // clap knows which stream is right; a closed one is nobody to tell.
            drop(error.print());
            return exit.into();
        }
    };
    let config = cli.config;
    let socket = || control_socket(config.as_deref());
    let exit = match cli.command {
        Command::Run(region) => run(config, region.region),
        Command::Check(args) => check::run(config, &args),
        Command::Bootstrap(args) => bootstrap::run(config.as_deref(), &args),
        Command::Status(args) => status::run(&socket(), &args),
        Command::Explain(args) => explain::run(&socket(), args.verdict),
        Command::History(args) => history::run(&socket(), &args),
        Command::Drain(args) => latch::set(&socket(), Kind::Drain, &args.reason, args.span, args.force),
        Command::Undrain => latch::clear(&socket(), Kind::Drain),
        Command::Hold(args) => match &args.reason {
            Some(reason) => latch::set(&socket(), Kind::Hold, reason, args.span, false),
            None => latch::clear(&socket(), Kind::Hold),
        },
        Command::Config(ConfigCommand::Check(region)) => config::check(config.as_deref(), region.region),
        Command::Config(ConfigCommand::Show(region)) => config::show(config.as_deref(), region.region),
        Command::Database(DatabaseCommand::Grants(args)) => database::grants(config.as_deref(), &args),
        Command::Authority(command) => authority::authority(&socket(), command),
        Command::Fence(command) => authority::fence(&socket(), command),
        Command::Drill(args) => drill::run(&socket(), args),
        Command::Key(KeyCommand::Generate) => authority::generate_key(),
        Command::Helper(command) => helper::run(config.as_deref(), command),
        Command::Version => version(),
    };
    exit.into()
}

fn run(config: Option<PathBuf>, region: Option<String>) -> Exit {
    match app::run(app::Options { config, region }) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            render::error(&error);
            Exit::NotRunning
        }
    }
}

fn version() -> Exit {
    render::data(&format!("dr-agent {}\nTLS: rustls with aws-lc-rs\n", env!("CARGO_PKG_VERSION")));
    Exit::Ok
}

/// Where the running agent listens for orders. A bad file has the agent on its last good one, so this does as it does.
fn control_socket(config: Option<&Path>) -> PathBuf {
    load::at_start(config, region(None).as_deref()).config.listen.control
}

/// The region by what can be had without asking anybody.
fn region(given: Option<String>) -> Option<String> {
    given.or_else(identity::region_from_file)
}

/// Asking the agent takes no longer than this: it answers from memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// An order is written to disk and takes effect before it is answered: the agent gives itself 3 s.
const ORDER_LIMIT: Duration = Duration::from_secs(4);
