//! Asking the other region what it knows of authority: one question through its load balancer, so to any one of its
//! instances.
//!
//! Who answers is proven by the MAC over the answer and this question's nonce. The certificate proves nothing here, and
//! one that ran out must not keep the regions from hearing each other: it is taken as it is, and
//! [`crate::certificates`] is who complains about it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::select_ok;
use hyper::{StatusCode, Uri};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::clock::BootTime;
use crate::group::keys::{self, Keys, MAC, Message, NONCE};
use crate::group::word;
use crate::observation::Stages;
use crate::probes::blocking::Lane;
use crate::probes::http::{self, Answer, Request};
use crate::telemetry::ErrorChain;

/// The path of the question.
pub const PATH: &str = "/health/authority";

/// What the whole question may take, over two oceans.
const LIMIT: Duration = Duration::from_secs(2);

/// Addresses that are tried, all at once: a load balancer has one in each zone, and a zone may be gone.
const ADDRESSES: usize = 8;

/// The stage in which nobody has answered at all.
const CONNECT: &str = "connect";

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// The other region, as its `url` names it.
pub struct Other {
    region: String,
    deployment: String,
    /// With the port, if it is not the usual one.
    host: String,
    name: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// What came of one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// When it was asked.
    pub began: BootTime,
    pub said: Said,
}

/// What the other region said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Signed with a key of this deployment, by that region.
    Verified(Value),
    /// An answer that proves nothing, with the epoch that it claims to know, for people.
    Unverified(Option<u64>),
    /// No TCP connection came about to any of its addresses, in words.
    Unreached(String),
    /// A connection, or not even a name to connect to, but no answer that could be used, in words.
    Failed(String),
}

impl Other {
    /// `None` when `url` is none that can be asked. Needs no network and no file.
    #[must_use]
    pub fn new(region: &str, url: &str, deployment: &str) -> Option<Self> {
        let url: Uri = url.parse().ok()?;
        let is_tls = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let name = url.host()?.trim_matches(['[', ']']).to_owned();
        let tls = if is_tls { Some((connector()?, ServerName::try_from(name.clone()).ok()?)) } else { None };
        Some(Self {
            region: region.to_owned(),
            deployment: deployment.to_owned(),
            host: url.authority()?.as_str().to_owned(),
            name,
            port: url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            tls,
        })
    }

    /// Asks, within 2 s. Without `keys` no answer can be verified.
    pub async fn ask(&self, keys: Option<&Keys>) -> Heard {
        let began = BootTime::now();
        let mut stages = Stages::default();
        let said = timeout(LIMIT, self.question(keys, &mut stages)).await;
        let said = said.unwrap_or_else(|_| {
            let stage = stages.current().unwrap_or("start");
            let words = format!("{} does not answer within {LIMIT:?}: stopped in stage `{stage}`", self.host);
            if stage == CONNECT { Said::Unreached(words) } else { Said::Failed(words) }
        });
        Heard { began, said }
    }

    async fn question(&self, keys: Option<&Keys>, stages: &mut Stages) -> Said {
        let failed = |error: &(dyn std::error::Error + 'static)| format!("{}: {}", self.host, ErrorChain(error));
        stages.enter("dns");
        let addresses = match resolve(&self.name, self.port).await {
            Ok(addresses) if !addresses.is_empty() => addresses,
            Ok(_) => return Said::Failed(format!("{} has no address", self.host)),
            Err(error) => return Said::Failed(failed(&error)),
        };
        stages.enter(CONNECT);
        let attempts = addresses.into_iter().take(ADDRESSES).map(|address| Box::pin(TcpStream::connect(address)));
        let stream = match select_ok(attempts).await {
            Ok((stream, _)) => stream,
            Err(error) => return Said::Unreached(failed(&error)),
        };
        let Some(nonce) = keys::nonce() else {
            return Said::Failed("this machine has no randomness to give".to_owned());
        };
        let answer = match &self.tls {
            None => self.over(stream, keys, &nonce, stages).await,
            Some((connector, name)) => {
                stages.enter("tls");
                match connector.connect(name.clone(), stream).await {
                    Ok(stream) => self.over(stream, keys, &nonce, stages).await,
                    Err(error) => return Said::Failed(failed(&error)),
                }
            }
        };
        match answer {
            Ok(answer) => judge(&answer, keys, &nonce, &self.region),
            Err(error) => Said::Failed(failed(&error)),
        }
    }

    async fn over<S>(
        &self,
        stream: S,
        keys: Option<&Keys>,
        nonce: &str,
        stages: &mut Stages,
    ) -> Result<Answer, http::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut request = Request { keep: word::LIMIT + 1, ..Request::get(&self.host, PATH) };
        if let Some(keys) = keys {
            let deployment = &self.deployment;
            let message = Message::Request { method: "GET", path: PATH, deployment, nonce, body: b"" };
            request.headers = vec![(NONCE, nonce.to_owned()), (MAC, keys.sign(message))];
        }
        http::over(stream, request, stages).await
    }
}

impl fmt::Debug for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Other").field("region", &self.region).field("host", &self.host).finish_non_exhaustive()
    }
}

/// What an answer to the question with this nonce is worth.
fn judge(answer: &Answer, keys: Option<&Keys>, nonce: &str, region: &str) -> Said {
    let Answer { status, headers, body } = answer;
    if *status != StatusCode::OK {
        return Said::Failed(format!("it answered {status}"));
    }
    if body.len() > word::LIMIT {
        return Said::Failed(format!("its answer is longer than {} bytes", word::LIMIT));
    }
    let Ok(word) = serde_json::from_slice::<Value>(body) else {
        return Said::Failed("its answer is no JSON".to_owned());
    };
    let mac = headers.get(MAC).and_then(|mac| mac.to_str().ok()).unwrap_or_default();
    let signed = Message::Answer { nonce, status: status.as_u16(), body };
    if !keys.is_some_and(|keys| keys.verify(signed, mac)) {
        return Said::Unverified(word.get("epoch").and_then(Value::as_u64));
    }
    // A `url` that leads back here would have this region hear itself.
    match word.get("region").and_then(Value::as_str) {
        Some(speaker) if speaker == region => Said::Verified(word),
        Some(speaker) => Said::Failed(format!("its name leads to region {speaker}")),
        None => Said::Failed("it does not say which region it is".to_owned()),
    }
}

/// The system's resolver blocks for up to half a minute while DNS is dead.
async fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let name = name.to_owned();
    let found = LANE.run(move || (name, port).to_socket_addrs().map(Iterator::collect)).await;
    found.map_err(io::Error::other)?
}

/// Sessions are resumed, so most questions cost no full handshake. `None` when no crypto provider is installed.
fn connector() -> Option<TlsConnector> {
    let provider = rustls::crypto::CryptoProvider::get_default()?;
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Whoever { schemes }))
        .with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate: see the head of this file.
#[derive(Debug)]
struct Whoever {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Whoever {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    const REGION: &str = "us-east-1";
    const BODY: &str = r#"{"ok":true,"region":"us-east-1","epoch":4}"#;

    fn keys() -> Keys {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef0123456789abcdef").unwrap();
        Keys::read(file.path()).unwrap()
    }

    fn answer(status: u16, body: &str, mac: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(MAC, mac.parse().unwrap());
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: body.to_owned().into() }
    }

    fn signed(nonce: &str, status: u16, body: &str) -> Answer {
        answer(status, body, &keys().sign(Message::Answer { nonce, status, body: body.as_bytes() }))
    }

    #[test]
    fn only_an_answer_of_that_region_to_this_question_is_verified() {
        let heard = |answer: &Answer| judge(answer, Some(&keys()), "nonce", REGION);
        assert_eq!(heard(&signed("nonce", 200, BODY)), Said::Verified(serde_json::from_str(BODY).unwrap()));
        assert_eq!(heard(&signed("other", 200, BODY)), Said::Unverified(Some(4)), "a replay");
        assert_eq!(heard(&answer(200, BODY, "")), Said::Unverified(Some(4)));
        assert_eq!(heard(&answer(200, r#"{"ok":true}"#, "00")), Said::Unverified(None));
        assert_eq!(judge(&signed("nonce", 200, BODY), None, "nonce", REGION), Said::Unverified(Some(4)));
        for failed in [
            signed("nonce", 503, BODY),
            signed("nonce", 200, r#"{"region":"ap-south-1"}"#),
            signed("nonce", 200, "{}"),
            signed("nonce", 200, "<html>"),
            signed("nonce", 200, &format!("{BODY:9000}")),
        ] {
            assert!(matches!(heard(&failed), Said::Failed(_)), "{failed:?}");
        }
    }

    #[test]
    fn a_url_is_taken_apart() {
        crate::install_crypto_provider();
        let other = |url| Other::new(REGION, url, "shop").map(|other| (other.name, other.port, other.tls.is_some()));
        assert_eq!(other("https://a.example.com"), Some(("a.example.com".to_owned(), 443, true)));
        assert_eq!(other("http://[::1]:8080"), Some(("::1".to_owned(), 8080, false)));
        assert_eq!(other("ftp://a.example.com"), None);
        assert_eq!(other("a.example.com"), None);
    }
}
