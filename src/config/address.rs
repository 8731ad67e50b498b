//! Addresses as people write them: URLs, listeners, endpoints, networks.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{HttpUrl, Network, PublicAddress};

/// The longest host name of DNS.
const HOST_LENGTH: usize = 253;

impl HttpUrl {
    /// Reads `http://HOST[:PORT][/PATH]`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("must begin with `http://`: the agent asks nginx on this machine, without TLS".to_owned());
        }
        let rest = text.strip_prefix("http://").ok_or("must begin with `http://`")?;
        let (host, port, path) = split(rest)?;
        Ok(Self { text: text.to_owned(), host, port: port.unwrap_or(80), path })
    }

    /// The address it names, when that needs no resolver.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let ip = if self.host == "localhost" { IpAddr::from([127, 0, 0, 1]) } else { self.host.parse().ok()? };
        Some(SocketAddr::new(ip, self.port))
    }
}

/// The host of an `http://` or `https://` URL without path.
pub(super) fn site(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let (host, _, path) = split(rest.ok_or("must begin with `https://` or `http://`")?)?;
    if path == "/" { Ok(host) } else { Err("must end after the host: the agent appends its own paths".to_owned()) }
}

/// Host, port and path of what follows `http://`.
fn split(rest: &str) -> Result<(String, Option<u16>, String), String> {
    if rest.chars().any(|c| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
        return Err("must not contain spaces or characters outside ASCII: percent-encode them".to_owned());
    }
    if rest.contains('#') {
        return Err("must not have a fragment (`#...`): servers never see it".to_owned());
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if authority.contains('@') {
        return Err("must not contain a user name".to_owned());
    }
    let (host, port) = host_and_port(authority)?;
    Ok((host, port, path))
}

/// `HOST[:PORT]`; an IPv6 address stands in brackets.
pub(super) fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("has a `[` without `]`")?;
        host.parse::<Ipv6Addr>().map_err(|_| "has no IPv6 address between `[` and `]`".to_owned())?;
        (host, port)
    } else {
        text.split_at(text.find(':').unwrap_or(text.len()))
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some(number) => Some(number.parse().ok().filter(|&port| port != 0).ok_or("must have a port from 1 to 65535")?),
        None => return Err("has something other than a port after the host".to_owned()),
    };
    if text.starts_with('[') { Ok((host.to_owned(), port)) } else { host_name(host).map(|host| (host, port)) }
}

/// A host name or IPv4 address: what may stand in a `Host` header without a port.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.is_empty() {
        Err("has no host".to_owned())
    } else if text.len() > HOST_LENGTH || !text.chars().all(fits) {
        Err("must have a host name of letters, digits, `-` and `.`".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// `unix:/PATH` or a loopback `ADDRESS:PORT`.
pub(super) fn public(text: &str) -> Result<PublicAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return absolute(path).map(PublicAddress::Unix);
    }
    let address: SocketAddr =
        text.parse().map_err(|_| "must be `unix:/PATH` or a loopback address with a port: \"127.0.0.1:8480\"")?;
    if address.ip().to_canonical().is_loopback() {
        Ok(PublicAddress::Tcp(address))
    } else {
        Err("must be a loopback address: only nginx on this machine connects to it".to_owned())
    }
}

/// A path from the root.
pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() && !text.contains('\0') {
        Ok(path.to_owned())
    } else {
        Err("must be an absolute path: one that begins with `/`".to_owned())
    }
}

/// `ADDRESS/PREFIX`, or one address.
pub(super) fn network(text: &str) -> Result<Network, String> {
    let wrong = "must be networks such as \"10.0.0.0/8\" or single addresses";
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| wrong.to_owned())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok());
    match prefix.filter(|&prefix| prefix <= longest) {
        Some(prefix) => Ok(Network { address, prefix }),
        None => Err(format!("must have a prefix from /0 to /{longest}")),
    }
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = HttpUrl::parse("http://127.0.0.1:8080/a?b=c").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("127.0.0.1", 8080, "/a?b=c"));
        let url = HttpUrl::parse("http://[::1]").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("::1", 80, "/"));
        assert_eq!(url.address(), Some("[::1]:80".parse().unwrap()));
        let url = HttpUrl::parse("http://shop.example.com?x").unwrap();
        assert_eq!((url.host.as_str(), url.path.as_str(), url.address()), ("shop.example.com", "/?x", None));
        for bad in [
            "https://a/",
            "ftp://a/",
            "a",
            "http://",
            "http://a:0/",
            "http://a:99999/",
            "http://a b/",
            "http://u@a/",
            "http://a/#x",
            "http://[::1/",
            "http://[1.2.3.4]/",
            "http://[::1]x/",
            "http://a/\r\nX: y",
            "http://ä/",
        ] {
            assert!(HttpUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_site_has_no_path() {
        assert_eq!(site("https://ap-south-1.shop.example.com").unwrap(), "ap-south-1.shop.example.com");
        assert_eq!(site("https://a:8443/").unwrap(), "a");
        assert!(site("https://a/health").is_err());
        assert!(site("shop.example.com").is_err());
    }

    #[test]
    fn the_public_listener_is_for_this_machine() {
        assert!(matches!(public("unix:/run/x.sock"), Ok(PublicAddress::Unix(_))));
        assert!(matches!(public("127.0.0.1:8480"), Ok(PublicAddress::Tcp(_))));
        for bad in ["unix:x.sock", "0.0.0.0:8480", "127.0.0.1", "[::]:80", "localhost:80"] {
            assert!(public(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_have_a_prefix_that_fits() {
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        for bad in ["10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "x"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
