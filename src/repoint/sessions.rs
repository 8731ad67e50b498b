//! How many connections this instance still has to a database that is no longer the writer. Its pools must let go of
//! them: the server lets no account see another's sessions, so each instance counts its own in `/proc/net`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One line of `/proc/net/tcp` or `/proc/net/tcp6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub remote: SocketAddr,
    pub is_established: bool,
    /// Of the socket; 0 when no process has it any more.
    pub inode: u64,
}

/// The kernel's number for an established connection.
const ESTABLISHED: u8 = 1;

impl Connection {
    /// Reads a line; `None` for the heading and for what is not one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let remote = address(fields.nth(2)?)?;
        let state = u8::from_str_radix(fields.next()?, 16).ok()?;
        // Queues, timer, retransmissions, user and timeout stand between.
        let inode = fields.nth(5)?.parse().ok()?;
        Some(Self { remote, is_established: state == ESTABLISHED, inode })
    }
}

/// `0100007F:0CEA`: words of 32 bits as this machine stores them, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(ip)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(ip.get(index * 8..index * 8 + 8)?)?);
            }
            // A socket of both families shows an IPv4 address inside an IPv6 one.
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Established connections to where `counts` says, but for those of the sockets `own`.
pub fn count(
    connections: impl IntoIterator<Item = Connection>,
    counts: impl Fn(SocketAddr) -> bool,
    own: &BTreeSet<u64>,
) -> usize {
    let counts = |c: &Connection| c.is_established && counts(c.remote) && !own.contains(&c.inode);
    connections.into_iter().filter(counts).count()
}

/// Established connections of this machine to where `counts` says, but for those of this process. Blocking.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn established(counts: impl Fn(SocketAddr) -> bool) -> io::Result<usize> {
    // Before the tables are read: what opens in between is not ours.
    let own = own_sockets()?;
    let mut found = 0;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let file = match File::open(table) {
            Ok(file) => file,
            // IPv6 is off.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => continue,
            Err(error) => return Err(error),
        };
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        found += count(lines.filter_map(|line| Connection::parse(&line)), &counts, &own);
    }
    Ok(found)
}

/// The sockets of this process.
fn own_sockets() -> io::Result<BTreeSet<u64>> {
    let inode = |entry: io::Result<fs::DirEntry>| {
        // One may be closed meanwhile.
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Ok(fs::read_dir("/proc/self/fd")?.filter_map(inode).collect())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lines_of_both_tables_are_read() {
        let line =
            "   0: 0100007F:D431 0200000A:0CEA 01 00000000:00000000 00:00000000 00000000   848        0 4711 1 0";
        let read = Connection::parse(line).unwrap();
        assert_eq!(read, Connection { remote: "10.0.0.2:3306".parse().unwrap(), is_established: true, inode: 4711 });
        let six = "   1: 0000000000000000FFFF00000100007F:C350 0000000000000000FFFF00000200000A:0CEA 06 00000000:00000000 03:000009C4 00000000     0        0 0 3 0";
        let read = Connection::parse(six).unwrap();
        assert_eq!((read.remote, read.is_established), ("10.0.0.2:3306".parse().unwrap(), false));
        let six = "   1: 000080FE000000000000000001000000:C350 B80D0120000000000000000001000000:0CEA 01 00000000:00000000 00:00000000 00000000   848        0 12 1 0";
        assert_eq!(Connection::parse(six).unwrap().remote, "[2001:db8::1]:3306".parse().unwrap());
        for bad in [
            "",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            "0: x y z",
        ] {
            assert_eq!(Connection::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_established_ones_to_the_servers_and_not_our_own_count() {
        let line =
            |remote: &str, is_established, inode| Connection { remote: remote.parse().unwrap(), is_established, inode };
        let servers: BTreeSet<SocketAddr> = ["10.0.0.2:3306".parse().unwrap()].into();
        let all = [
            line("10.0.0.2:3306", true, 1),
            line("10.0.0.2:3306", true, 2),
            line("10.0.0.2:3306", false, 3),
            line("10.0.0.2:3307", true, 4),
            line("10.0.0.3:3306", true, 5),
        ];
        assert_eq!(count(all, |at| servers.contains(&at), &BTreeSet::new()), 2);
        assert_eq!(count(all, |at| servers.contains(&at), &[2].into()), 1);
    }

    #[test]
    fn connections_of_this_process_are_in_the_tables_and_are_not_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let stream = TcpStream::connect(server).unwrap();
        let text = fs::read_to_string("/proc/net/tcp").unwrap();
        let seen = |own: &BTreeSet<u64>| count(text.lines().filter_map(Connection::parse), |at| at == server, own);
        assert_eq!(seen(&BTreeSet::new()), 1, "{text}");
        assert_eq!(established(|at| at == server).unwrap(), 0);
        drop(stream);
    }
}
