//! Asking the other members, all at once: one question each, a second at most, eight kilobytes at most.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use hyper::StatusCode;
use tokio::time::timeout;

use super::keys::{self, Keys, MAC, Message, NONCE};
use super::membership::Member;
use super::word::{self, Word};
use crate::clock::BootTime;
use crate::observation::Stages;
use crate::probes::http::{Address, Request, exchange};

/// What a member may take to answer. A healthy one takes milliseconds, and a round must be over before the next.
const LIMIT: Duration = Duration::from_secs(1);

/// The path of the question.
pub const PATH: &str = "/peer";

/// One member asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub instance: String,
    pub in_my_zone: bool,
    /// When the question was sent.
    pub sent: BootTime,
    /// Its word, if it is that member's; else why there is none.
    pub word: Result<Word, Silence>,
}

/// Why a member that was asked has no word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// No complete answer in time.
    NoAnswer,
    /// It answered something else than 200.
    Refused,
    /// What it said is no word that this release understands.
    Garbled,
    /// The answer was not signed with a key of this deployment.
    Unsigned,
    /// It was not asked: the key file here cannot be used.
    NoKey,
    /// Somebody else lives at this address now.
    Stranger,
}

impl Silence {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoAnswer => "no answer",
            Self::Refused => "refused the question",
            Self::Garbled => "said nothing that this release understands",
            Self::Unsigned => "did not sign its answer with a key of this deployment",
            Self::NoKey => "is not asked while the key file here cannot be used",
            Self::Stranger => "is somebody else now",
        }
    }
}

/// Asks all `members`, side by side, and ends within [`LIMIT`]. `port` is where they listen, and `zone` mine.
pub async fn round(
    members: &[Member],
    zone: Option<&str>,
    port: u16,
    deployment: &str,
    keys: Option<&Keys>,
) -> Vec<Heard> {
    join_all(members.iter().map(|member| async move {
        let sent = BootTime::now();
        let address = SocketAddr::new(member.address, member.port.unwrap_or(port));
        let word = match timeout(LIMIT, ask(address, deployment, keys)).await {
            Ok(Ok(word)) if word.instance.as_deref() == Some(member.instance.as_str()) => Ok(word),
            Ok(Ok(_)) => Err(Silence::Stranger),
            Ok(Err(silence)) => Err(silence),
            Err(_) => Err(Silence::NoAnswer),
        };
        let in_my_zone = zone == Some(member.zone.as_str());
        Heard { instance: member.instance.clone(), in_my_zone, sent, word }
    }))
    .await
}

/// Nobody is asked: an answer could not be told from a stranger's.
#[must_use]
pub fn nobody(members: &[Member], zone: Option<&str>) -> Vec<Heard> {
    let heard = |member: &Member| Heard {
        instance: member.instance.clone(),
        in_my_zone: zone == Some(member.zone.as_str()),
        sent: BootTime::now(),
        word: Err(Silence::NoKey),
    };
    members.iter().map(heard).collect()
}

/// The word of whoever answers at `address`, within [`LIMIT`].
pub async fn at(address: SocketAddr, deployment: &str, keys: &Keys) -> Option<Word> {
    timeout(LIMIT, ask(address, deployment, Some(keys))).await.ok()?.ok()
}

async fn ask(address: SocketAddr, deployment: &str, keys: Option<&Keys>) -> Result<Word, Silence> {
    let host = address.to_string();
    let mut request = Request { keep: word::LIMIT + 1, ..Request::get(&host, PATH) };
    let nonce = keys::nonce().ok_or(Silence::NoAnswer)?;
    if let Some(keys) = keys {
        let message = Message::Request { method: "GET", path: PATH, deployment, nonce: &nonce, body: b"" };
        request.headers = vec![(NONCE, nonce.clone()), (MAC, keys.sign(message))];
    }
    let answer =
        exchange(&Address::from(address), request, &mut Stages::default()).await.map_err(|_| Silence::NoAnswer)?;
    if answer.status != StatusCode::OK {
        return Err(Silence::Refused);
    }
    if let Some(keys) = keys {
        let mac = answer.headers.get(MAC).and_then(|mac| mac.to_str().ok()).unwrap_or_default();
        if !keys.verify(Message::Answer { nonce: &nonce, status: answer.status.as_u16(), body: &answer.body }, mac) {
            return Err(Silence::Unsigned);
        }
    }
    Word::decode(&answer.body).ok_or(Silence::Garbled)
}
