//! Until when the certificates of the regions' names are valid. Route 53 never looks at them; the users' browsers do.
//!
//! No verdict depends on it: a name that cannot be reached from here may well be reached by users.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::Uri;
use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::config::Region;
use crate::input::Input;
use crate::probes::blocking::Lane;
use crate::snapshot::Snapshot;

/// How often the running agent looks: certificates change every few weeks.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// One connection and handshake.
const LIMIT: Duration = Duration::from_secs(2);

/// Days before the end from which on it is a finding. ACM renews 60 days before, others at least 14.
pub const NEAR: i64 = 14;

static LANE: LazyLock<Lane> = LazyLock::new(Lane::new);

/// The end of the year 9999, when no certificate is valid any more.
const FAR: Duration = Duration::from_secs(253_402_300_799);

/// The certificate that one region's name shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub region: String,
    /// The host of the region's `url`.
    pub host: String,
    /// The end of its validity; `None` if none was shown.
    pub expires: Option<Timestamp>,
    /// Why it was not shown, or why a client would refuse it.
    pub problem: Option<String>,
}

impl Certificate {
    /// Whole days from `now` to the end; negative when it is over.
    #[must_use]
    pub fn days_left(&self, now: Timestamp) -> Option<i64> {
        self.expires.map(|expires| (expires.as_second() - now.as_second()).div_euclid(24 * 3_600))
    }

    /// A client refuses it, or soon will.
    #[must_use]
    pub fn is_finding(&self, now: Timestamp) -> bool {
        self.expires.is_some() && (self.problem.is_some() || self.days_left(now).is_some_and(|days| days < NEAR))
    }
}

/// Looks at the names of the configuration in force, at once when they change and every hour, and tells the owner, until
/// cancelled.
pub async fn run(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    inputs: mpsc::Sender<Input>,
    cancelled: CancellationToken,
) {
    loop {
        let config = Arc::clone(&snapshots.borrow().config);
        let certificates = look(&config.regions).await;
        if inputs.send(Input::Certificates(certificates)).await.is_err() {
            return;
        }
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep(INTERVAL) => {}
            changed = snapshots.wait_for(|snapshot| snapshot.config.regions != config.regions) => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// The certificates of all names that begin with `https://`, side by side, within twice [`LIMIT`]. Needs the installed
/// crypto provider.
pub async fn look(regions: &BTreeMap<String, Region>) -> Vec<Certificate> {
    let names = regions.iter().filter_map(|(region, settings)| {
        let url: Uri = settings.url.as_deref()?.parse().ok()?;
        (url.scheme_str() == Some("https")).then_some((region, url))
    });
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        return Vec::new();
    }
    // Reads files of the local disk.
    let verifier = match timeout(LIMIT, LANE.run(platform_verifier)).await {
        Ok(Ok(verifier)) => verifier,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the root certificates could not be read in time".to_owned()),
    };
    join_all(names.into_iter().map(|(region, url)| {
        let verifier = verifier.clone();
        async move {
            let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let (expires, problem) = match verifier {
                Ok(verifier) => shown(&host, url.port_u16().unwrap_or(443), verifier).await,
                Err(problem) => (None, Some(problem)),
            };
            Certificate { region: region.clone(), host, expires, problem }
        }
    }))
    .await
}

fn platform_verifier() -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    WebPkiServerVerifier::builder(Arc::new(roots))
        .build()
        .map_err(|error| format!("this machine has no root certificates: {error}"))
}

/// Until when what the host shows is valid, and what a client would say of it.
async fn shown(host: &str, port: u16, inner: Arc<WebPkiServerVerifier>) -> (Option<Timestamp>, Option<String>) {
    let verifier = Arc::new(Looking { inner, expires: Mutex::new(None) });
    let handshake = async {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        let stream = TcpStream::connect((host, port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop)
    };
    let problem = match timeout(LIMIT, handshake).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", LIMIT.as_secs())),
    };
    let expires = *verifier.expires.lock().unwrap_or_else(PoisonError::into_inner);
    (expires, problem)
}

/// Verifies as every client does, and notes the end of validity, also of a certificate that it refuses.
#[derive(Debug)]
struct Looking {
    inner: Arc<WebPkiServerVerifier>,
    expires: Mutex<Option<Timestamp>>,
}

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The time is the first thing that is looked at, and the refusal names it.
        let far = UnixTime::since_unix_epoch(FAR);
        let refused = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, far);
        if let Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) = refused {
            let expires = i64::try_from(not_after.as_secs()).ok().and_then(|at| Timestamp::from_second(at).ok());
            *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = expires;
        }
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
