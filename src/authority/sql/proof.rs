//! The proof that a database is a primary: writable and no replica, on three fresh connections, which all lead to one
//! server. A name that is being moved leads to two; a server that is being promoted changes in between.

use tokio::time::timeout;

use super::Database;
use super::read::Reading;
use crate::authority::database::{Read, Unread};
use crate::clock::BootTime;
use crate::observation::{Finding, Stages};

/// Fresh connections that must agree.
const CONNECTIONS: usize = 3;

/// What the whole proof may take.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// A database that was proven writable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Before the first of the connections.
    pub began: BootTime,
    /// What the last of them showed. Its connection is the one that a claim uses.
    pub read: Read,
}

/// Why a database is not proven writable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error("it could not be read: {}", .0.words())]
    Unread(Unread),
    #[error("the server `{0}` is read-only")]
    ReadOnly(String),
    #[error("the server `{0}` has a replica channel")]
    Replica(String),
    #[error("whether the server `{0}` is a replica may not be seen: the account has no right to it")]
    ChannelsUnseen(String),
    #[error("the endpoint leads to two servers, `{0}` and `{1}`")]
    TwoServers(String, String),
}

impl Database {
    /// Proves it writable, within 5 s.
    ///
    /// # Errors
    /// The first thing that speaks against it.
    pub async fn prove(&mut self) -> Result<Proof, Unproven> {
        let began = BootTime::now();
        let mut stages = Stages::default();
        let looked = timeout(LIMIT, async {
            let mut server: Option<String> = None;
            let mut last = None;
            for _ in 0..CONNECTIONS {
                let read =
                    self.look_afresh(&mut stages).await.map_err(|finding| Unproven::Unread(self.unread(finding)))?;
                let read = writable(read)?;
                match &server {
                    Some(server) if *server != read.server => {
                        return Err(Unproven::TwoServers(server.clone(), read.server));
                    }
                    _ => server = Some(read.server.clone()),
                }
                last = Some(read);
            }
            last.ok_or_else(|| Unproven::Unread(Unread::Failed("nobody looked".to_owned())))
        });
        let read = looked.await.unwrap_or_else(|_| Err(Unproven::Unread(self.unread(self.overdue(&stages)))))?;
        Ok(Proof { began, read })
    }

    async fn look_afresh(&mut self, stages: &mut Stages) -> Result<Read, Finding> {
        self.link.renew(stages).await?;
        self.link.ask(&Reading, stages).await?
    }
}

/// What one connection shows, if it does not speak against the proof.
fn writable(read: Read) -> Result<Read, Unproven> {
    match read.channels {
        _ if !read.is_writable => Err(Unproven::ReadOnly(read.server)),
        Some(0) => Ok(read),
        Some(_) => Err(Unproven::Replica(read.server)),
        None => Err(Unproven::ChannelsUnseen(read.server)),
    }
}
