//! The look before the leap by SQL, with the agent's account.

use std::sync::Arc;

use tokio::sync::watch;

use super::look::Look;
use crate::authority::database::Read;
use crate::authority::sql::Database;
use crate::config::HostPort;
use crate::database::Endpoint;
use crate::snapshot::Snapshot;

/// Logs in as the database probe does, whatever the configuration says now.
#[derive(Debug, Clone)]
pub struct Sql {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Look for Sql {
    async fn prove(&self, at: &HostPort) -> Result<Read, String> {
        let account = self.snapshots.borrow().config.database.as_ref().map(Endpoint::from);
        let account = account.ok_or("there is no [probe.database] to log in with")?;
        let HostPort { host, port } = at.clone();
        let mut database = Database::new(Endpoint { host, port, ..account });
        database.prove().await.map(|proof| proof.read).map_err(|unproven| unproven.to_string())
    }
}
