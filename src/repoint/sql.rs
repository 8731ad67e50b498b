//! The look before the leap by SQL, with the agent's account.

use super::look::Look;
use crate::authority::database::Read;
use crate::authority::sql::Database;
use crate::config::{DatabaseProbe, HostPort};
use crate::database::Endpoint;

/// Logs in as the database probe does.
#[derive(Debug, Clone, Copy)]
pub struct Sql;

impl Look for Sql {
    async fn prove(&self, account: &DatabaseProbe, at: &HostPort) -> Result<Read, String> {
        let HostPort { host, port } = at.clone();
        let mut database = Database::new(Endpoint { host, port, ..Endpoint::from(account) });
        database.prove().await.map(|proof| proof.read).map_err(|unproven| unproven.to_string())
    }
}
