//! What a server is asked in its own dialect, MySQL 5.7 to 9 or MariaDB: its role, by SQL.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, Value, from_value_opt};

use super::failure::one_line;
use crate::observation::{DatabaseFacts, ReplicaChannel};

/// Every session: times are compared in UTC, and the server drops the session of a machine that vanished after 5
/// minutes, not after its default of 8 hours (dead sessions count against the account's limit).
const PREPARE: &str = "SET time_zone = '+00:00', wait_timeout = 300";

/// How a server is asked; chosen once a connection, by its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dialect {
    version: String,
    /// Selects `read_only`, `super_read_only` or NULL, and the server's identity.
    variables: &'static str,
    channels: &'static str,
    cipher: Option<String>,
}

impl Dialect {
    /// Prepares the session and sees what it is with.
    pub(super) async fn of(conn: &mut Conn) -> Result<Self, Error> {
        conn.query_drop(PREPARE).await?;
        let version: Option<Value> = conn.query_first("SELECT @@version").await?;
        let cipher: Option<Row> = conn.query_first("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await?;
        let cipher = cipher.and_then(|row| text(&row, &["Value"])).filter(|cipher| !cipher.is_empty());
        let version = version.and_then(plain).unwrap_or_default();
        Ok(Self::new(version, conn.server_version(), cipher))
    }

    /// `number` is the version of the greeting: Aurora's `@@version` ends in words.
    fn new(version: String, number: (u16, u16, u16), cipher: Option<String>) -> Self {
        let (variables, channels) = if version.to_ascii_lowercase().contains("mariadb") {
            ("SELECT @@read_only, NULL, CONCAT(@@server_id, '@', @@hostname, ':', @@port)", "SHOW ALL SLAVES STATUS")
        } else if number < (5, 7, 8) {
            ("SELECT @@read_only, NULL, @@server_uuid", "SHOW SLAVE STATUS")
        } else if number < (8, 0, 22) {
            ("SELECT @@read_only, @@super_read_only, @@server_uuid", "SHOW SLAVE STATUS")
        } else {
            ("SELECT @@read_only, @@super_read_only, @@server_uuid", "SHOW REPLICA STATUS")
        };
        Self { version, variables, channels, cipher }
    }

    pub(crate) async fn facts(&self, conn: &mut Conn) -> Result<DatabaseFacts, Error> {
        let variables: Option<(Value, Value, Value)> = conn.query_first(self.variables).await?;
        let (read_only, super_read_only, server) = variables.unwrap_or((Value::NULL, Value::NULL, Value::NULL));
        let replica = match conn.query::<Row, _>(self.channels).await {
            Ok(rows) => Some(rows.iter().map(channel).collect()),
            // Without the right to see replicas the rest still stands, and the role is ambiguous.
            Err(Error::Server(error)) if matches!(error.code, 1044 | 1045 | 1142 | 1227) => None,
            Err(error) => return Err(error),
        };
        Ok(DatabaseFacts {
            version: self.version.clone(),
            // A server that does not say is taken as one that cannot be written.
            read_only: switch(read_only).unwrap_or(true),
            super_read_only: switch(super_read_only),
            server: plain(server).unwrap_or_default(),
            replica,
            tls: self.cipher.clone(),
        })
    }
}

/// A channel, by the column names of any dialect.
fn channel(row: &Row) -> ReplicaChannel {
    let runs = |names| text(row, names).is_some_and(|value| value.eq_ignore_ascii_case("yes"));
    let host = text(row, &["Source_Host", "Master_Host"]).unwrap_or_default();
    let port = text(row, &["Source_Port", "Master_Port"]).unwrap_or_default();
    let errors = [text(row, &["Last_IO_Error"]), text(row, &["Last_SQL_Error"])];
    let errors: Vec<_> = errors.into_iter().flatten().filter(|error| !error.is_empty()).collect();
    ReplicaChannel {
        name: text(row, &["Channel_Name", "Connection_name"]).unwrap_or_default(),
        source: format!("{host}:{port}"),
        io_running: runs(&["Replica_IO_Running", "Slave_IO_Running"]),
        sql_running: runs(&["Replica_SQL_Running", "Slave_SQL_Running"]),
        lag_seconds: text(row, &["Seconds_Behind_Source", "Seconds_Behind_Master"]).and_then(|lag| lag.parse().ok()),
        error: (!errors.is_empty()).then(|| one_line(&errors.join("; "))),
    }
}

/// The first column that has one of `names`; `None` if there is none or it is NULL.
pub(crate) fn text(row: &Row, names: &[&str]) -> Option<String> {
    let columns = row.columns_ref();
    let index = columns.iter().position(|column| names.iter().any(|n| column.name_str().eq_ignore_ascii_case(n)))?;
    plain(row.as_ref(index)?.clone())
}

/// The text protocol gives every value as text; `None` for NULL.
fn plain(value: Value) -> Option<String> {
    from_value_opt::<Option<String>>(value).ok().flatten()
}

/// `0`/`1`, or words: `read_only` of MariaDB 12 is `OFF`, `ON` or a stricter form of on.
fn switch(value: Value) -> Option<bool> {
    plain(value).map(|text| !matches!(text.to_ascii_uppercase().as_str(), "0" | "OFF"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(version: &str, number: (u16, u16, u16)) -> (&'static str, &'static str) {
        let dialect = Dialect::new(version.to_owned(), number, None);
        (dialect.variables, dialect.channels)
    }

    #[test]
    fn each_version_is_asked_in_its_dialect() {
        let old = asks("5.7.44-log", (5, 7, 44));
        assert!(old.0.contains("super_read_only") && old.1 == "SHOW SLAVE STATUS");
        assert_eq!(asks("8.0.21", (8, 0, 21)), old);
        let new = asks("8.0.22", (8, 0, 22));
        assert!(new.0.contains("super_read_only") && new.1 == "SHOW REPLICA STATUS");
        for (version, number) in [("8.4.3", (8, 4, 3)), ("9.7.4", (9, 7, 4)), ("8.0.mysql_aurora.3.08.0", (8, 0, 39))] {
            assert_eq!(asks(version, number), new, "{version}");
        }
        let maria = asks("10.11.19-MariaDB-0+deb12u1", (10, 11, 19));
        assert!(!maria.0.contains("super_read_only") && !maria.0.contains("uuid"));
        assert_eq!(maria.1, "SHOW ALL SLAVES STATUS");
    }

    #[test]
    fn switches_are_read_as_numbers_and_as_words() {
        for (value, on) in [("0", false), ("OFF", false), ("1", true), ("ON", true), ("NO_LOCK_NO_ADMIN", true)] {
            assert_eq!(switch(Value::Bytes(value.into())), Some(on), "{value}");
        }
        assert_eq!(switch(Value::NULL), None);
    }
}
