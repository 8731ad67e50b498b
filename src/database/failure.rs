//! What an error of the driver, the network or the server means: its row in the cause table.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;

use mysql_async::{DriverError, Error, IoError, ServerError};
use rustix::io::Errno;

use super::relay::End;
use crate::health::cause::Cause;
use crate::observation::Finding;

/// What an error of the driver means. `end` is what the relay saw happen to the connection: the driver itself does not
/// tell a closed connection from a malformed packet.
pub(super) fn driver(error: &Error, end: Option<&End>) -> Finding {
    match error {
        Error::Server(error) => server(error),
        Error::Io(IoError::Tls(error)) => Finding::new(Cause::DatabaseTls, error.to_string()),
        Error::Io(IoError::Io(error)) if is_tls(error) => Finding::new(Cause::DatabaseTls, error.to_string()),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            Finding::new(Cause::DatabaseTls, "the server does not offer TLS")
        }
        Error::Driver(
            error @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled),
        ) => Finding::new(Cause::DatabaseAccessDenied, error.to_string()),
        Error::Io(_) | Error::Driver(_) | Error::Other(_) | Error::Url(_) => match end {
            Some(End::Closed) => Finding::new(Cause::DatabaseLost, "the server closed the connection"),
            Some(End::Broken(error)) => broken(error),
            Some(End::NotMysql(said)) => {
                Finding::new(Cause::DatabaseNotMysql, format!("it says `{said}` instead of the protocol's greeting"))
            }
            Some(End::Driver) | None => {
                Finding::new(Cause::DatabaseNotMysql, format!("the protocol is broken: {}", brief(error)))
            }
        },
    }
}

/// What an error packet of the server means.
pub(crate) fn server(error: &ServerError) -> Finding {
    let cause = match error.code {
        // Not allowed from this host; refused with or without a password; expired (two spellings); locked (MySQL,
        // MariaDB); an authentication method that one side does not have.
        1130 | 1045 | 1698 | 1820 | 1862 | 3118 | 4151 | 1251 | 1524 => Cause::DatabaseAccessDenied,
        1044 | 1142 | 1143 | 1227 => Cause::DatabaseNoRight,
        1049 | 1146 => Cause::DatabaseNoSchema,
        1040 | 1203 | 1226 => Cause::DatabaseTooMany,
        1129 => Cause::DatabaseHostBlocked,
        1290 | 1792 | 1836 => Cause::DatabaseReadOnly,
        // It wants TLS and none is configured.
        3159 => Cause::DatabaseTls,
        // Shutdown, killed (by statement, MariaDB's and MySQL's session kill), timed out as idle, and the network
        // errors that a server reports itself.
        1053 | 1317 | 1927 | 3169 | 4031 | 1152 | 1158..=1161 | 1184 | 2006 | 2013 => Cause::DatabaseLost,
        _ => Cause::DatabaseError,
    };
    Finding::new(cause, format!("ERROR {} ({}): {}", error.code, error.state, one_line(&error.message)))
}

/// What it means that no TCP connection came about to any of `addresses`.
pub(super) fn connect(error: &io::Error, addresses: &[SocketAddr]) -> Finding {
    let cause = match error.kind() {
        _ if is_ours(error) => Cause::CouldNotRun,
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Cause::DatabaseRefused,
        ErrorKind::TimedOut => Cause::DatabaseTimeout,
        _ => Cause::DatabaseUnreachable,
    };
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    Finding::new(cause, format!("{}: {error}", addresses.join(", ")))
}

/// What it means that a connection broke.
fn broken(error: &io::Error) -> Finding {
    let cause = match error.kind() {
        ErrorKind::TimedOut => Cause::DatabaseTimeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            Cause::DatabaseUnreachable
        }
        _ => Cause::DatabaseLost,
    };
    Finding::new(cause, error.to_string())
}

/// What it means that a name did not resolve. The standard library keeps the resolver's code only in its text.
pub(super) fn resolve(error: &io::Error) -> Finding {
    let text = error.to_string();
    let cause = if is_ours(error) || text.contains("Memory allocation") {
        Cause::CouldNotRun
    } else if text.contains("Temporary failure") || error.raw_os_error().is_some() {
        // EAI_AGAIN or EAI_SYSTEM: nobody answered, or nobody who knows. Says nothing of the name.
        Cause::DatabaseTimeout
    } else {
        Cause::DatabaseUnknownHost
    };
    Finding::new(cause, text)
}

/// What it means that a file that a login needs could not be read.
pub(super) fn unreadable(cause: Cause, path: &Path, error: &io::Error) -> Finding {
    let cause = if is_ours(error) { Cause::CouldNotRun } else { cause };
    Finding::new(cause, format!("cannot read {}: {error}", path.display()))
}

/// Whether this machine, not the network, ran out of something.
fn is_ours(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRNOTAVAIL))
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}

/// The driver's errors can carry whole packets.
fn brief(error: &Error) -> String {
    match error {
        Error::Driver(DriverError::UnexpectedPacket { .. }) => "unexpected packet".to_owned(),
        other => one_line(&other.to_string()),
    }
}

/// Foreign text for a one-line detail: no control characters, no novels.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: u16) -> Cause {
        let error = ServerError { code, message: "text\nwith a line break".to_owned(), state: "HY000".to_owned() };
        let finding = driver(&Error::Server(error), None);
        assert!(!finding.detail.contains('\n'));
        finding.cause
    }

    #[test]
    fn server_codes_have_the_rows_of_the_contract() {
        let rows: &[(Cause, &[u16])] = &[
            (Cause::DatabaseAccessDenied, &[1045, 1130, 1698, 1820, 1862]),
            (Cause::DatabaseNoRight, &[1044, 1142, 1227]),
            (Cause::DatabaseNoSchema, &[1049, 1146]),
            (Cause::DatabaseTooMany, &[1040, 1203, 1226]),
            (Cause::DatabaseHostBlocked, &[1129]),
            (Cause::DatabaseReadOnly, &[1290, 1792]),
            (Cause::DatabaseLost, &[1053, 2006, 2013]),
            (Cause::DatabaseError, &[1, 1043, 1064, 1205, 9999]),
        ];
        for (cause, codes) in rows {
            for &number in *codes {
                assert_eq!(code(number), *cause, "{number}");
            }
        }
    }

    #[test]
    fn network_errors_are_told_from_our_own() {
        let cause = |errno: Errno| connect(&io::Error::from(errno), &[]).cause;
        assert_eq!(cause(Errno::CONNREFUSED), Cause::DatabaseRefused);
        assert_eq!(cause(Errno::TIMEDOUT), Cause::DatabaseTimeout);
        assert_eq!(cause(Errno::HOSTUNREACH), Cause::DatabaseUnreachable);
        assert_eq!(cause(Errno::NETUNREACH), Cause::DatabaseUnreachable);
        assert_eq!(cause(Errno::PERM), Cause::DatabaseUnreachable, "a local firewall rejects");
        assert_eq!(cause(Errno::MFILE), Cause::CouldNotRun);
        assert_eq!(cause(Errno::ADDRNOTAVAIL), Cause::CouldNotRun, "no local port left");
    }

    #[test]
    fn a_file_that_cannot_be_read_for_want_of_descriptors_or_memory_is_no_wrong_setting() {
        let cause = |errno: Errno| unreadable(Cause::DatabaseNoPassword, Path::new("/x"), &errno.into()).cause;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert_eq!(cause(errno), Cause::CouldNotRun);
        }
        for errno in [Errno::NOENT, Errno::ACCESS] {
            assert_eq!(cause(errno), Cause::DatabaseNoPassword);
        }
    }

    #[test]
    fn the_driver_is_believed_only_as_far_as_the_relay_agrees() {
        let eof = || Error::Io(IoError::Io(ErrorKind::UnexpectedEof.into()));
        let cause = |end: Option<End>| driver(&eof(), end.as_ref()).cause;
        assert_eq!(cause(Some(End::Closed)), Cause::DatabaseLost);
        assert_eq!(cause(Some(End::Broken(Errno::CONNRESET.into()))), Cause::DatabaseLost);
        assert_eq!(cause(Some(End::Broken(Errno::TIMEDOUT.into()))), Cause::DatabaseTimeout);
        assert_eq!(cause(Some(End::NotMysql("SSH".to_owned()))), Cause::DatabaseNotMysql);
        assert_eq!(cause(None), Cause::DatabaseNotMysql, "the connection stands, so the packet was malformed");
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_from_a_resolver_that_does_not_answer() {
        let cause = |text: &str| resolve(&io::Error::other(text)).cause;
        let failed = "failed to lookup address information";
        assert_eq!(cause(&format!("{failed}: Name or service not known")), Cause::DatabaseUnknownHost);
        assert_eq!(cause(&format!("{failed}: No address associated with hostname")), Cause::DatabaseUnknownHost);
        assert_eq!(cause(&format!("{failed}: Temporary failure in name resolution")), Cause::DatabaseTimeout);
        assert_eq!(resolve(&Errno::IO.into()).cause, Cause::DatabaseTimeout);
    }
}
