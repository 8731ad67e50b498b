//! What must be there before: the schema, its tables, and the account with its rights, as SQL for a person to run.

use std::fmt::Write as _;

/// Whose SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Mysql,
    Mariadb,
    /// What both take: what is MariaDB's alone is a comment that only MariaDB executes.
    Both,
}

/// The connections that the account may have at a time: two regions of four agents, with three each and some to spare.
const CONNECTIONS: u32 = 60;

/// Regions and identities are compared byte by byte. 190 characters of four bytes are what an index of the oldest row
/// format takes.
const TABLES: &str = "\
CREATE DATABASE IF NOT EXISTS dr_agent CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which region owns the data: each promotion adds a row, the highest epoch wins. Must not be filtered from replication.
CREATE TABLE IF NOT EXISTS dr_agent.authority (
    epoch BIGINT UNSIGNED PRIMARY KEY,
    parent BIGINT UNSIGNED NOT NULL UNIQUE,
    region VARCHAR(32) NOT NULL,
    server VARCHAR(190) NOT NULL,
    kind ENUM('init', 'promotion', 'claim') NOT NULL,
    reason VARCHAR(255) NOT NULL,
    since TIMESTAMP(6) NOT NULL
) ENGINE=InnoDB;

-- Regions whose data an epoch elsewhere made stale.
CREATE TABLE IF NOT EXISTS dr_agent.superseded (
    region VARCHAR(32) NOT NULL,
    epoch BIGINT UNSIGNED NOT NULL,
    by_epoch BIGINT UNSIGNED NOT NULL,
    by_region VARCHAR(32) NOT NULL,
    since TIMESTAMP(6) NOT NULL,
    PRIMARY KEY (region, by_epoch)
) ENGINE=InnoDB;

-- Servers that were seen as replicas.
CREATE TABLE IF NOT EXISTS dr_agent.roll (
    server VARCHAR(190) PRIMARY KEY,
    region VARCHAR(32) NOT NULL,
    since TIMESTAMP(6) NOT NULL
) ENGINE=InnoDB;

-- When a region's owner last wrote: the lag of a replica, and what a promotion loses.
CREATE TABLE IF NOT EXISTS dr_agent.heartbeat (
    region VARCHAR(32) PRIMARY KEY,
    at TIMESTAMP(6) NOT NULL
) ENGINE=InnoDB;

-- Planned closes and drills.
CREATE TABLE IF NOT EXISTS dr_agent.closing (
    region VARCHAR(32) PRIMARY KEY,
    kind ENUM('close', 'drill') NOT NULL,
    until TIMESTAMP(6) NOT NULL,
    reason VARCHAR(255) NOT NULL,
    by_whom VARCHAR(190) NOT NULL
) ENGINE=InnoDB;
";

/// Stands where the password belongs when none is given: no server takes it by mistake.
const PLACEHOLDER: &str = "<'the password'>";

/// Why SQL for an account cannot be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    #[error("the password is empty")]
    NoPassword,
    #[error("a backslash or a control character means something else on each server: choose a password without")]
    Password,
    #[error("a user name of 1 to 32 letters, digits, `_`, `-` or `.` is needed")]
    User,
}

/// The whole script, to be run once on the primary by an administrator; a second time it changes nothing but the limits
/// and rights back to what they should be. Without `password` a placeholder is to be filled in.
///
/// # Errors
/// When the name or the password cannot be written so that every server understands the same.
pub fn script(dialect: Dialect, user: &str, password: Option<&str>) -> Result<String, Unwritable> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !(1..=32).contains(&user.len()) || !user.chars().all(plain) {
        return Err(Unwritable::User);
    }
    let password = match password {
        None => PLACEHOLDER.to_owned(),
        Some("") => return Err(Unwritable::NoPassword),
        Some(text) if text.contains('\\') || text.chars().any(char::is_control) => return Err(Unwritable::Password),
        Some(text) => format!("'{}'", text.replace('\'', "''")),
    };
    let mut script = "\
-- dr-agent: its schema, and an account that can write nothing else.
-- Run it on the primary as an administrator. Replicas get it by replication.
SET time_zone = '+00:00';

"
    .to_owned();
    script.push_str(TABLES);
    // Writing to a string cannot fail.
    let _ = write!(
        script,
        "
-- The account. If it exists, its password stays.
CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY {password};
ALTER USER '{user}'@'%' REQUIRE SSL WITH MAX_USER_CONNECTIONS {CONNECTIONS};
{};
-- To see whether a server is a replica, and how far behind.
{};
",
        grant(user),
        watch_grant(dialect, user),
    );
    Ok(script)
}

/// The grant for the tables. The name of a schema is a pattern here, in which `_` is any character.
#[must_use]
pub fn grant(user: &str) -> String {
    format!("GRANT SELECT, INSERT, UPDATE ON `dr\\_agent`.* TO '{user}'@'%'")
}

/// The grant for the state of replication, which MariaDB splits since 10.5.
fn watch_grant(dialect: Dialect, user: &str) -> String {
    let rights = match dialect {
        Dialect::Mysql => "REPLICATION CLIENT",
        Dialect::Mariadb => "REPLICATION CLIENT, REPLICA MONITOR",
        Dialect::Both => "REPLICATION CLIENT/*M!100502 , REPLICA MONITOR */",
    };
    format!("GRANT {rights} ON *.* TO '{user}'@'%'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_quoted_or_refused_and_never_something_else() {
        let with = |password| script(Dialect::Both, "dr_agent", password);
        assert!(with(Some("it's")).unwrap().contains("IDENTIFIED BY 'it''s';"));
        assert_eq!(with(Some("")), Err(Unwritable::NoPassword));
        assert_eq!(with(Some("a\\")), Err(Unwritable::Password));
        assert_eq!(with(Some("a\nb")), Err(Unwritable::Password));
        assert!(with(None).unwrap().contains("IDENTIFIED BY <"), "which is a syntax error");
        for user in ["", "it's", "a b", &"x".repeat(33)] {
            assert_eq!(script(Dialect::Both, user, None), Err(Unwritable::User), "{user}");
        }
    }

    #[test]
    fn only_mariadb_is_given_the_right_that_it_alone_has() {
        let monitor = |dialect| script(dialect, "dr_agent", None).unwrap().contains(", REPLICA MONITOR ON");
        assert!(!monitor(Dialect::Mysql) && monitor(Dialect::Mariadb) && !monitor(Dialect::Both));
    }
}
