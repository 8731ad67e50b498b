//! Connections to a MySQL or MariaDB server, for whoever asks one: the probe, the authority.

mod dialect;
mod failure;
mod link;
mod login;
mod relay;

use std::path::PathBuf;

use mysql_async::{Conn, Error};

use crate::config::DatabaseProbe;

pub(crate) use dialect::{Dialect, text};
pub(crate) use failure::server;
pub(crate) use link::{FILES, Link, Pace};
pub(crate) use login::{TCP, ask_at};

/// A server, and how to log in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub user: String,
    /// Read for each login.
    pub password_file: Option<PathBuf>,
    /// PEM bundle of the authorities that may sign the server's certificate; `None`: the connection is not encrypted.
    pub tls_ca: Option<PathBuf>,
}

impl From<&DatabaseProbe> for Endpoint {
    fn from(probe: &DatabaseProbe) -> Self {
        let DatabaseProbe { host, port, user, password_file, tls_ca, .. } = probe.clone();
        Self { host, port, user, password_file, tls_ca }
    }
}

/// Something that is done over one connection.
pub(crate) trait Operation: Sync {
    /// It may be done a second time.
    const IS_READ: bool;
    type Answer: Send;

    /// An error ends the connection; what the server refuses and the connection survives is an answer.
    fn run(&self, conn: &mut Conn, dialect: &Dialect) -> impl Future<Output = Result<Self::Answer, Error>> + Send;
}
