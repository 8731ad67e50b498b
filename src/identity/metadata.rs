//! What the metadata service says of this instance, or why it says nothing. For people, who look once.

use super::Identity;
pub use super::imds::Silence;
use super::imds::{Answer, Imds};

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

/// What the metadata service says of a tag of this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    Is(String),
    Absent,
    /// It gives no tags of this instance, or nothing at all.
    Hidden,
}

/// Asks for a tag, within 2 s at most.
pub async fn tag(key: &str) -> Tag {
    let mut imds = Imds::new();
    match imds.get(&format!("tags/instance/{key}")).await {
        Answer::Is(value) => Tag::Is(value),
        // So it is when tags are switched off too; then the list is not there either.
        Answer::Absent if matches!(imds.get("tags/instance/").await, Answer::Is(_)) => Tag::Absent,
        Answer::Absent | Answer::Silent => Tag::Hidden,
    }
}
