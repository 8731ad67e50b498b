//! Asking the members for their grants and records, over the peer listener, with keys.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::grants::{Denial, Reply, Round};
use super::records::{Record, Told};
use crate::group::keys::{self, Keys, MAC, Message, NONCE};
use crate::group::membership::Member;
use crate::observation::Stages;
use crate::probes::http::{Address, Request, exchange};

/// One question, whatever it is.
const LIMIT: Duration = Duration::from_secs(1);

/// Bytes of a question's body: a record and its id.
pub const BODY: usize = 8 * 1024;

/// Bytes of an answer: a member's records, all of them.
const ANSWER: usize = 512 * 1024;

pub const GRANT: &str = "/peer/grant";
pub const RECORDS: &str = "/peer/records";

/// The body of `POST /peer/grant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub id: String,
    pub record: Record,
}

/// The body of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub refusal: Denial,
}

/// How to reach the members of the group.
#[derive(Debug, Clone)]
pub struct Asker {
    pub members: Vec<Member>,
    /// Where they listen, if their entry does not say.
    pub port: u16,
    pub deployment: String,
    pub keys: Keys,
}

impl Asker {
    /// Asks one after the other until the round is won or lost. `me` has given its own grant.
    pub async fn round(&self, mut round: Round, me: &str, record: &Record) -> Round {
        while let Some(voter) = round.next() {
            let reply = if voter == me { Reply::Granted } else { self.grant(voter, &round.id, record).await };
            round.hear(reply);
        }
        round
    }

    async fn grant(&self, voter: &str, id: &str, record: &Record) -> Reply {
        let question = Question { id: id.to_owned(), record: record.clone() };
        // Strings and numbers: serialising cannot fail.
        let body = serde_json::to_vec(&question).unwrap_or_default();
        match self.ask(voter, Method::POST, GRANT, body).await {
            Some((StatusCode::OK, _)) => Reply::Granted,
            Some((StatusCode::CONFLICT, body)) => serde_json::from_slice::<Refused>(&body)
                // What only a newer release says is a refusal all the same.
                .map_or(Reply::Denied(Denial::Stranger), |refused| Reply::Denied(refused.refusal)),
            Some(_) | None => Reply::Silent,
        }
    }

    /// Gives grants back to `voters`, side by side. One that does not arrive ends with the cooldown.
    pub async fn give_back(&self, id: &str, voters: &[String]) {
        let path = format!("{GRANT}/{id}");
        join_all(voters.iter().map(|voter| self.ask(voter, Method::DELETE, &path, Vec::new()))).await;
    }

    /// The records that the other members keep, and whether that is all: a majority agreed to each replacement, so more
    /// than half of those that are left know of it.
    pub async fn records(&self, me: &str) -> (Vec<Told>, bool) {
        let others = self.members.iter().filter(|member| member.instance != me);
        let answers = join_all(others.map(|member| self.ask(&member.instance, Method::GET, RECORDS, Vec::new()))).await;
        let asked = answers.len();
        let lists = answers.into_iter().flatten().filter(|(status, _)| *status == StatusCode::OK);
        let lists: Vec<Vec<Told>> = lists.filter_map(|(_, body)| serde_json::from_slice(&body).ok()).collect();
        let is_all = if asked == 0 { !self.members.is_empty() } else { 2 * lists.len() > asked };
        (lists.into_iter().flatten().collect(), is_all)
    }

    /// The signed answer of one member; `None` without one.
    async fn ask(&self, instance: &str, method: Method, path: &str, body: Vec<u8>) -> Option<(StatusCode, Bytes)> {
        let member = self.members.iter().find(|member| member.instance == instance)?;
        let address = SocketAddr::new(member.address, member.port.unwrap_or(self.port));
        let nonce = keys::nonce()?;
        let name = method.as_str().to_owned();
        let message =
            Message::Request { method: &name, path, deployment: &self.deployment, nonce: &nonce, body: &body };
        let headers = vec![(NONCE, nonce.clone()), (MAC, self.keys.sign(message))];
        let host = address.to_string();
        let request = Request { method, path, host: &host, body: body.into(), headers, keep: ANSWER };
        let address = Address::from(address);
        let mut stages = Stages::default();
        let answer = timeout(LIMIT, exchange(&address, request, &mut stages)).await.ok()?.ok()?;
        let mac = answer.headers.get(MAC)?.to_str().ok()?;
        let message = Message::Answer { nonce: &nonce, status: answer.status.as_u16(), body: &answer.body };
        self.keys.verify(message, mac).then_some((answer.status, answer.body))
    }
}
