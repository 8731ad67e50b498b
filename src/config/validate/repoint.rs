//! `[repoint]`: how the app learns which database to use.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::raw::Section;
use crate::config::{Apply, Format, HttpUrl, Output, Repoint, Verify, address};

/// Where an app that has no settings of its own looks for its database.
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3306);

/// Included by `packaging/nginx/database-proxy.conf`.
const PROXY_FILE: &str = "/var/lib/dr-agent-helper/database-proxy.conf";

/// `has_account`: the file has `[probe.database]`, whose login proves what the app would find.
pub(super) fn repoint(mut section: Section<'_>, has_account: bool) -> Repoint {
    let there = section.is_there();
    let word = section.word("apply", &["reload", "restart", "none"]);
    let unit = section.read("unit", unit);
    let apply = match (word, unit) {
        ("reload", Some(unit)) => Apply::Reload(unit),
        ("restart", Some(unit)) => Apply::Restart(unit),
        ("none", _) => Apply::Nothing,
        (word, None) if there && !section.has("unit") => {
            section.reject("unit", format!("`apply = \"{word}\"` needs the app's unit: unit = \"shop.service\""));
            Apply::Nothing
        }
        _ => Apply::Nothing,
    };
    let verify = section.read("verify", verify).unwrap_or_default();
    let mut outputs: Vec<Output> = Vec::new();
    for mut table in section.listed_sections("output") {
        let output = output(&mut table);
        if let Some(output) = output {
            if outputs.iter().any(|other| other.path == output.path) {
                table.reject("path", "is another output's too");
            }
            let is_proxy = |output: &Output| matches!(output.format, Format::Proxy(_));
            if is_proxy(&output) && outputs.iter().any(is_proxy) {
                table.reject("format", "there is one database proxy, and so one such output");
            }
            outputs.push(output);
        }
        table.end();
    }
    if verify == Verify::Sql && !outputs.is_empty() && !has_account {
        section.reject("verify", "`sql` needs the account of [probe.database]; else write \"tcp\" or a URL of the app");
    }
    section.end();
    Repoint { apply, verify, outputs }
}

fn output(table: &mut Section<'_>) -> Option<Output> {
    let format = table.word("format", &["env", "json", "proxy"]);
    let path = table.read("path", address::absolute);
    match format {
        "proxy" => {
            let listen = table.read("listen", loopback).unwrap_or(PROXY);
            let path = path.or_else(|| (!table.has("path")).then(|| PathBuf::from(PROXY_FILE)));
            Some(Output { format: Format::Proxy(listen), path: path? })
        }
        format => {
            if !table.has("path") {
                table.reject("path", format!("the `{format}` output needs the file to write"));
            }
            let format = if format == "json" { Format::Json } else { Format::Env };
            Some(Output { format, path: path? })
        }
    }
}

/// It becomes an argument of `systemctl`.
fn unit(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.@:\\".contains(c);
    if text.ends_with(".service") && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("must be the name of a service, as in \"shop.service\"".to_owned())
    }
}

fn verify(text: &str) -> Result<Verify, String> {
    match text {
        "sql" => Ok(Verify::Sql),
        "tcp" => Ok(Verify::Tcp),
        _ => {
            let url = HttpUrl::parse(text).map_err(|_| "must be `sql`, `tcp` or an `http://` URL on loopback")?;
            let is_here = url.address().is_some_and(|address| address.ip().to_canonical().is_loopback());
            if is_here {
                Ok(Verify::Http(url))
            } else {
                Err("must be a URL on loopback: the app on this machine".to_owned())
            }
        }
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.ip().to_canonical().is_loopback());
    address.ok_or_else(|| "must be a loopback address with a port: \"127.0.0.1:3306\"".to_owned())
}
