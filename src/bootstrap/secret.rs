//! What the secret that the tag `dr-agent:secret` names must be: `{"password": "...", "key": "..."}`, either or both. Pure.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use crate::group::keys;
use crate::helper::tool::Failed as ToolFailed;

/// The tag, of the instance, that names the secret.
pub const TAG: &str = "dr-agent:secret";

/// No password and no key is this long.
const LONGEST: usize = 4096;

/// The text of each file.
#[derive(Default, PartialEq, Eq)]
pub struct Secret {
    pub password: Option<String>,
    /// Keys of agents, one a line.
    pub key: Option<String>,
}

/// It is printed nowhere.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// Why a secret is none. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unusable {
    #[error("is not a JSON object with the strings `password` and `key`")]
    NotAnObject,
    #[error("has neither `password` nor `key`")]
    Empty,
    #[error("has a `password` that is empty, has more than one line, or is longer than {LONGEST} characters")]
    Password,
    #[error("has a `key` that is no key: at least 32 characters a line, as `dr-agent key generate` prints")]
    Key,
}

/// Why the files of a secret are not there.
#[derive(Debug, Error)]
pub(super) enum NotThere {
    // Its cause belongs to the sentence.
    #[error("could not be fetched: {0}")]
    NotFetched(ToolFailed),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("has no `{field}` for {path}")]
    NoField { field: &'static str, path: PathBuf },
    #[error("was fetched, and {path} cannot be written: {error}")]
    NotWritten { path: PathBuf, error: io::Error },
}

impl NotThere {
    pub(super) fn hint(&self, region: &str) -> String {
        match self {
            Self::NotFetched(ToolFailed::NotRun(..)) => "install the AWS CLI (`dnf install awscli-2`)".to_owned(),
            Self::NotFetched(_) => format!(
                "the role needs `secretsmanager:GetSecretValue` on the secret in {region}, and the subnet a way to Secrets Manager"
            ),
            Self::Unusable(_) => "let it be JSON: {\"password\": \"...\", \"key\": \"...\"}".to_owned(),
            Self::NoField { field: "key", .. } => "add it, as `dr-agent key generate` prints one".to_owned(),
            Self::NoField { .. } => "add it: the password of the agent's database account".to_owned(),
            Self::NotWritten { .. } => "see to its folder: does it exist, and has the disk space?".to_owned(),
        }
    }
}

/// Others may keep more in the same secret.
#[derive(Deserialize)]
struct Fields {
    password: Option<String>,
    key: Option<String>,
}

/// The files' texts by a secret's text.
///
/// # Errors
/// When it is not what it must be: then no file is touched.
pub fn read(text: &str) -> Result<Secret, Unusable> {
    let Fields { password, key } = serde_json::from_str(text.trim()).map_err(|_| Unusable::NotAnObject)?;
    if password.is_none() && key.is_none() {
        return Err(Unusable::Empty);
    }
    let is_password =
        |text: &String| !text.is_empty() && text.chars().count() <= LONGEST && !text.contains(['\n', '\r', '\0']);
    if password.as_ref().is_some_and(|text| !is_password(text)) {
        return Err(Unusable::Password);
    }
    let key = key.map(|text| format!("{}\n", text.trim_end()));
    if key.as_ref().is_some_and(|text| text.len() > LONGEST || !keys::is_key_file(text)) {
        return Err(Unusable::Key);
    }
    Ok(Secret { password: password.map(|text| format!("{text}\n")), key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_secret_has_a_password_or_keys_or_both() {
        let both = read(&format!(r#"{{"password":"p w\"ä","key":"{KEY}\n{KEY}","host":"ignored"}}"#)).unwrap();
        assert_eq!(both.password.as_deref(), Some("p w\"ä\n"));
        assert_eq!(both.key, Some(format!("{KEY}\n{KEY}\n")));
        assert_eq!(read(r#"{"password":"p"}"#).unwrap().key, None);
        assert_eq!(read(&format!(r#"{{"key":"{KEY}"}}"#)).unwrap().password, None);
        assert_eq!(format!("{both:?}"), "Secret { .. }");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_repeated() {
        for (text, why) in [
            ("", Unusable::NotAnObject),
            ("swordfish", Unusable::NotAnObject),
            (r#"{"password":5}"#, Unusable::NotAnObject),
            ("{}", Unusable::Empty),
            (r#"{"password":null}"#, Unusable::Empty),
            (r#"{"password":""}"#, Unusable::Password),
            (r#"{"password":"a\nb"}"#, Unusable::Password),
            (r#"{"password":"a","key":"short"}"#, Unusable::Key),
            (r#"{"key":"\n"}"#, Unusable::Key),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error, why, "{text}");
            assert!(!error.to_string().contains("swordfish"));
        }
    }
}
