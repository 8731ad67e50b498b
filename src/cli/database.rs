//! `dr-agent database grants`.

use std::io::{self, Read};
use std::path::Path;

use super::{Exit, GrantsArgs, SqlDialect, region, render};
use crate::authority::sql::schema::{self, Dialect};
use crate::config::load;

/// The account, where no configuration names another.
const USER: &str = "dr_agent";

/// More than any password has.
const LIMIT: u64 = 4096;

pub(super) fn grants(path: Option<&Path>, args: &GrantsArgs) -> Exit {
    let dialect = match args.dialect {
        None => Dialect::Both,
        Some(SqlDialect::Mysql) => Dialect::Mysql,
        Some(SqlDialect::Mariadb) => Dialect::Mariadb,
    };
    let configured = load::at_start(path, region(None).as_deref()).config.database.map(|database| database.user);
    let user = configured.as_deref().unwrap_or(USER);
    let password = match args.password_stdin.then(password).transpose() {
        Ok(password) => password,
        Err(error) => {
            render::error(&error);
            return Exit::Usage;
        }
    };
    match schema::script(dialect, user, password.as_deref()) {
        Ok(script) => {
            render::data(&script);
            if password.is_none() {
                render::note("fill in the password, or give it with `--password-stdin`");
            }
            Exit::Ok
        }
        Err(error) => {
            render::error(&error);
            Exit::Usage
        }
    }
}

/// One line of standard input.
fn password() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(LIMIT).read_to_string(&mut text)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
