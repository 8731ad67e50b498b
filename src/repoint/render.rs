//! The text of each output, and what such a text says. Pure.
//!
//! "No writer" is empty in `env` and null in `json`; the proxy has no server then, and nobody listens.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::config::{Format, HostPort};

/// What the outputs say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub writer: Option<HostPort>,
    pub reader: Option<HostPort>,
    /// Of authority, as the app is told; `none` stands there while there is no writer.
    pub state: String,
    pub epoch: u64,
}

/// How the app is told that there is no writer.
const NO_WRITER: &str = "none";

const HEAD: &str = "# Written by dr-agent; a change here is lost with the next one of its own.\n";

const PROXY_SET: &str = "set $dr_agent_writer \"";

/// The file of an output. `resolvers`: the name servers of this machine, for the proxy.
#[must_use]
pub fn text(format: Format, content: &Content, resolvers: &[IpAddr]) -> String {
    match format {
        Format::Env => env(content),
        Format::Json => json(content),
        Format::Proxy(listen) => proxy(listen, content.writer.as_ref(), resolvers),
    }
}

fn state(content: &Content) -> &str {
    if content.writer.is_some() { &content.state } else { NO_WRITER }
}

fn env(content: &Content) -> String {
    let mut out = HEAD.to_owned();
    // Writing to a string cannot fail.
    for (name, endpoint) in [("WRITER", &content.writer), ("READER", &content.reader)] {
        let (host, port) = endpoint.as_ref().map_or_else(Default::default, |at| (at.host.clone(), at.port.to_string()));
        let _ = write!(out, "DATABASE_{name}_HOST={host}\nDATABASE_{name}_PORT={port}\n");
    }
    let _ = write!(out, "DATABASE_STATE={}\nDATABASE_EPOCH={}\n", state(content), content.epoch);
    out
}

fn json(content: &Content) -> String {
    let content = Content { state: state(content).to_owned(), ..content.clone() };
    // Nothing in it can fail to be written.
    let mut out = serde_json::to_string(&content).unwrap_or_default();
    out.push('\n');
    out
}

/// The address stands in a variable, so that nginx starts while DNS is dead and asks again when the address changes.
fn proxy(listen: SocketAddr, writer: Option<&HostPort>, resolvers: &[IpAddr]) -> String {
    let Some(writer) = writer else { return HEAD.to_owned() };
    let mut out = HEAD.to_owned();
    let resolvers: Vec<_> = resolvers.iter().map(bracketed).collect();
    // As the C library does where nobody names a server.
    let resolvers = if resolvers.is_empty() { "127.0.0.1".to_owned() } else { resolvers.join(" ") };
    let host = writer.host.parse::<IpAddr>().map_or_else(|_| writer.host.clone(), |ip| bracketed(&ip));
    let port = writer.port;
    let _ = write!(
        out,
        "resolver {resolvers} valid=2s ipv6=off;\nresolver_timeout 2s;\nserver {{\n    listen {listen};\n    \
         {PROXY_SET}{host}:{port}\";\n    proxy_pass $dr_agent_writer;\n}}\n"
    );
    out
}

fn bracketed(ip: &IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// The writer and the reader that a text names, where the format has one; `None` for a text that is not of the format.
/// An empty text names none.
#[must_use]
pub fn endpoints(format: Format, text: &str) -> Option<(Option<HostPort>, Option<HostPort>)> {
    match format {
        _ if text.trim().is_empty() => Some((None, None)),
        Format::Env => Some((env_endpoint(text, "WRITER").ok()?, env_endpoint(text, "READER").ok()?)),
        Format::Json => {
            let content: Content = serde_json::from_str(text).ok()?;
            Some((content.writer, content.reader))
        }
        Format::Proxy(_) => {
            let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
            if lines.clone().next().is_none() {
                return Some((None, None));
            }
            let line = lines.find_map(|line| line.trim().strip_prefix(PROXY_SET)?.strip_suffix("\";"))?;
            let (host, port) = line.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Some((Some(HostPort { host, port: port.parse().ok()? }), None))
        }
    }
}

/// The lines of an endpoint are not there, or are no endpoint.
struct NotThere;

fn env_endpoint(text: &str, name: &str) -> Result<Option<HostPort>, NotThere> {
    let value = |what: &str| {
        let key = format!("DATABASE_{name}_{what}=");
        text.lines().find_map(|line| line.strip_prefix(&key)).ok_or(NotThere)
    };
    let (host, port) = (value("HOST")?, value("PORT")?);
    if host.is_empty() {
        return Ok(None);
    }
    let port = port.parse().map_err(|_| NotThere)?;
    Ok(Some(HostPort { host: host.to_owned(), port }))
}

/// The name servers of a `resolv.conf`.
#[must_use]
pub fn resolvers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        // An address with a zone means nothing to nginx.
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTEN: Format = Format::Proxy(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3306));

    fn endpoint(host: &str) -> HostPort {
        HostPort { host: host.to_owned(), port: 3306 }
    }

    fn content(writer: Option<&str>, reader: Option<&str>) -> Content {
        Content { writer: writer.map(endpoint), reader: reader.map(endpoint), state: "owner".to_owned(), epoch: 4 }
    }

    #[test]
    fn env_with_and_without_a_writer() {
        insta::assert_snapshot!(text(Format::Env, &content(Some("w.example"), Some("r.example")), &[]), @r"
        # Written by dr-agent; a change here is lost with the next one of its own.
        DATABASE_WRITER_HOST=w.example
        DATABASE_WRITER_PORT=3306
        DATABASE_READER_HOST=r.example
        DATABASE_READER_PORT=3306
        DATABASE_STATE=owner
        DATABASE_EPOCH=4
        ");
        insta::assert_snapshot!(text(Format::Env, &content(None, Some("r.example")), &[]), @r"
        # Written by dr-agent; a change here is lost with the next one of its own.
        DATABASE_WRITER_HOST=
        DATABASE_WRITER_PORT=
        DATABASE_READER_HOST=r.example
        DATABASE_READER_PORT=3306
        DATABASE_STATE=none
        DATABASE_EPOCH=4
        ");
    }

    #[test]
    fn json_with_and_without_a_writer() {
        insta::assert_snapshot!(text(Format::Json, &content(Some("w.example"), None), &[]), @r#"{"writer":{"host":"w.example","port":3306},"reader":null,"state":"owner","epoch":4}"#);
        insta::assert_snapshot!(text(Format::Json, &content(None, None), &[]), @r#"{"writer":null,"reader":null,"state":"none","epoch":4}"#);
    }

    #[test]
    fn the_proxy_with_and_without_a_writer() {
        let servers = ["10.0.0.2".parse().unwrap(), "fd00:ec2::253".parse().unwrap()];
        insta::assert_snapshot!(text(LISTEN, &content(Some("w.example"), None), &servers), @r#"
        # Written by dr-agent; a change here is lost with the next one of its own.
        resolver 10.0.0.2 [fd00:ec2::253] valid=2s ipv6=off;
        resolver_timeout 2s;
        server {
            listen 127.0.0.1:3306;
            set $dr_agent_writer "w.example:3306";
            proxy_pass $dr_agent_writer;
        }
        "#);
        assert_eq!(text(LISTEN, &content(None, Some("r.example")), &servers), HEAD);
        assert!(text(LISTEN, &content(Some("fd00::1"), None), &[]).contains("\"[fd00::1]:3306\""));
    }

    #[test]
    fn what_is_rendered_says_what_it_was_rendered_from() {
        for format in [Format::Env, Format::Json, LISTEN] {
            for writer in [None, Some("w.example"), Some("10.0.0.1"), Some("fd00::1")] {
                for reader in [None, Some("r.example")] {
                    let content = content(writer, reader);
                    let read = endpoints(format, &text(format, &content, &[])).unwrap();
                    assert_eq!(read.0, content.writer, "{format:?}");
                    assert!(matches!(format, Format::Proxy(_)) || read.1 == content.reader, "{format:?}");
                }
            }
            assert_eq!(endpoints(format, " \n"), Some((None, None)));
            assert_eq!(endpoints(format, "DB_HOST=other\n"), None);
        }
    }

    #[test]
    fn name_servers_are_read_off_resolv_conf() {
        let text = "# x\nsearch a b\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\n nameserver\t::1 \noptions edns0\n";
        assert_eq!(resolvers(text), ["10.0.0.2".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    }
}
