//! The configuration in force as a file: reading it back gives the same configuration.

use std::fmt::{self, Display, Write};
use std::path::Path;

use super::raw::show_duration;
use super::{Apply, Authority, Config, Format, Repoint, Verify};
use crate::health::component::Schedule;
use crate::outputs::cloudwatch;

/// A `fmt::Write` of lines cannot fail on a `String`.
struct Page(String);

impl Page {
    fn table(&mut self, name: impl Display) {
        let _ = write!(self.0, "\n[{name}]\n");
    }

    fn list_table(&mut self, name: &str) {
        let _ = write!(self.0, "\n[[{name}]]\n");
    }

    fn comment(&mut self, text: &str) {
        let _ = writeln!(self.0, "# {text}");
    }

    fn line(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.line(key, Quoted(&value.to_string()));
    }

    fn path(&mut self, key: &str, value: &Path) {
        self.text(key, value.display());
    }

    fn duration(&mut self, key: &str, value: std::time::Duration) {
        self.text(key, show_duration(value));
    }

    fn list<T: Display>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        let values: Vec<_> = values.into_iter().map(|value| Quoted(&value.to_string()).to_string()).collect();
        self.line(key, format_args!("[{}]", values.join(", ")));
    }

    fn schedule(&mut self, schedule: &Schedule) {
        self.duration("interval", schedule.interval);
        self.duration("timeout", schedule.timeout);
        if let Some(fast) = schedule.fast_interval {
            self.duration("fast_interval", fast);
        }
        self.line("fall", schedule.fall);
        self.line("rise", schedule.rise);
    }
}

/// A TOML basic string.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// The configuration as TOML, with every default written out. No secret is in it: passwords are in files of their own.
#[must_use]
pub fn as_toml(config: &Config) -> String {
    let mut page = Page(String::new());
    page.line("schema", 1);
    page.text("deployment", &config.deployment);
    if let Some(home) = &config.home {
        page.text("home", home);
    }
    if let Some(key_file) = &config.key_file {
        page.path("key_file", key_file);
    }
    page.path("state_dir", &config.state_dir);

    page.table("listen");
    page.text("public", &config.listen.public);
    page.text("peer", config.listen.peer);
    page.path("control", &config.listen.control);

    page.table("probe.nginx");
    page.schedule(&config.nginx.schedule);
    page.text("url", &config.nginx.url.text);
    page.path("pid_file", &config.nginx.pid_file);
    if let Some(app) = &config.app {
        page.table("probe.app");
        page.schedule(&app.schedule);
        page.text("url", &app.url.text);
        if let Some(host) = &app.host {
            page.text("host", host);
        }
        let ranges =
            app.status.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") });
        page.text("status", ranges.collect::<Vec<_>>().join(", "));
        if let Some(body) = &app.body {
            page.text("body", body);
        }
        if let Some(limit) = app.latency_limit {
            page.duration("latency_limit", limit);
        }
    }
    if let Some(efs) = &config.efs {
        page.table("probe.efs");
        page.schedule(&efs.schedule);
        page.path("path", &efs.path);
        page.list("types", &efs.types);
        page.duration("latency_limit", efs.latency_limit);
    }
    if let Some(database) = &config.database {
        page.table("probe.database");
        page.schedule(&database.schedule);
        page.duration("fresh_interval", database.fresh_interval);
        page.duration("fresh_timeout", database.fresh_timeout);
        page.text("user", &database.user);
        if let Some(file) = &database.password_file {
            page.path("password_file", file);
        }
        if let Some(file) = &database.tls_ca {
            page.path("tls_ca", file);
        }
        page.duration("latency_limit", database.latency_limit);
        page.duration("lag_limit", database.lag_limit);
    }
    page.table("probe.host");
    page.schedule(&config.host.schedule);
    page.list("paths", config.host.paths.iter().map(|path| path.display()));
    page.text("low", format_args!("{}%", config.host.low_percent));
    page.text("full", format_args!("{}%", config.host.full_percent));
    page.text("pressure", format_args!("{}%", config.host.pressure_percent));
    page.table("probe.wiring");
    page.schedule(&config.wiring.schedule);
    for (name, exec) in &config.exec {
        page.table(format_args!("probe.exec.{name}"));
        page.schedule(&exec.schedule);
        page.list("command", &exec.command);
    }

    for (name, region) in &config.regions {
        page.table(format_args!("region.{name}"));
        for (key, value) in [("database", &region.database), ("efs", &region.efs), ("url", &region.url)] {
            if let Some(value) = value {
                page.text(key, value);
            }
        }
    }

    page.table("verdict");
    page.duration("start_limit", config.policy.start_limit);
    page.duration("hold_database", config.policy.hold_database);
    page.duration("hold_efs", config.policy.hold_efs);
    page.duration("hold_capacity", config.policy.hold_capacity);
    page.duration("reopen", config.policy.reopen);
    page.table("replace");
    page.text("mode", if config.replace.enforce { "enforce" } else { "observe" });
    page.duration("sustain", config.replace.sustain);
    page.duration("cooldown", config.replace.cooldown);

    if let Some(authority) = &config.authority {
        show_authority(&mut page, authority);
    }
    if config.repoint != Repoint::default() {
        show_repoint(&mut page, &config.repoint);
    }

    page.table("metrics");
    page.list("allow", &config.metrics_allow);

    if let Some(namespace) = &config.cloudwatch {
        page.table("cloudwatch");
        page.comment(cloudwatch::PRICE);
        page.text("namespace", namespace);
    }
    page.0
}

fn show_authority(page: &mut Page, authority: &Authority) {
    page.table("authority");
    page.list("regions", &authority.regions);
    page.duration("poll", authority.poll);
    page.duration("boot_wait", authority.boot_wait);
    page.duration("takeover_wait", authority.takeover_wait);
}

fn show_repoint(page: &mut Page, repoint: &Repoint) {
    page.table("repoint");
    let (apply, unit) = match &repoint.apply {
        Apply::Reload(unit) => ("reload", Some(unit)),
        Apply::Restart(unit) => ("restart", Some(unit)),
        Apply::Nothing => ("none", None),
    };
    page.text("apply", apply);
    if let Some(unit) = unit {
        page.text("unit", unit);
    }
    match &repoint.verify {
        Verify::Sql => page.text("verify", "sql"),
        Verify::Tcp => page.text("verify", "tcp"),
        Verify::Http(url) => page.text("verify", &url.text),
    }
    for output in &repoint.outputs {
        page.list_table("repoint.output");
        match output.format {
            Format::Env => page.text("format", "env"),
            Format::Json => page.text("format", "json"),
            Format::Proxy(listen) => {
                page.text("format", "proxy");
                page.text("listen", listen);
            }
        }
        page.path("path", &output.path);
    }
}
