//! What the metadata service says of this instance, or why it says nothing. For people, who look once.

use super::Identity;
use super::imds::Imds;
pub use super::imds::Silence;

/// What was heard in one look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    pub identity: Identity,
    /// Why nothing was heard.
    pub silence: Option<Silence>,
    /// The role whose credentials the service gives; `None` where no instance profile is attached.
    pub role: Option<String>,
}

/// Asks, within 5 s at most; where nobody answers, within 1 s.
pub async fn ask() -> Metadata {
    let mut imds = Imds::new();
    match Identity::ask(&mut imds).await {
        Ok(identity) => {
            let role = imds.get("iam/security-credentials/").await.known(|role| !role.contains(char::is_whitespace));
            Metadata { identity, silence: None, role }
        }
        Err(silence) => Metadata { silence: Some(silence), ..Metadata::default() },
    }
}
