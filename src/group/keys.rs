//! How agents of one deployment prove to each other who they are: HMAC-SHA256 under keys that all of them have.
//!
//! A question carries a nonce and a MAC over itself; the answer carries a MAC over that nonce and itself, so an answer
//! cannot be made without a key nor replayed. What is said is no secret, only who says it matters.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;
use thiserror::Error;

/// Header of a question: 32 hexadecimal digits that no other question has.
pub const NONCE: &str = "x-dr-agent-nonce";

/// Digits of a nonce.
pub const NONCE_LENGTH: usize = 32;

/// Header of a question and of its answer.
pub const MAC: &str = "x-dr-agent-mac";

/// Characters of a key: what `openssl rand -hex 32` prints has 64.
const SHORTEST: usize = 32;

/// The keys of a deployment, in the order of the file: the first signs, every one verifies. To rotate, add the new key
/// at the end everywhere, then move it to the front everywhere, then drop the old one.
#[derive(Debug, Clone)]
pub struct Keys(Vec<hmac::Key>);

/// Why a key file cannot be used.
#[derive(Debug, Error)]
pub enum Unusable {
    #[error("cannot read the key file `{path}`")]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("everybody may read the key file `{0}`: `chmod 0640` it, root:dr-agent")]
    Open(PathBuf),
    #[error(
        "the key file `{0}` has no key: one a line, at least {SHORTEST} characters, as `openssl rand -hex 32` prints"
    )]
    Empty(PathBuf),
    #[error("line {line} of the key file `{path}` is too short for a key: at least {SHORTEST} characters")]
    Short { path: PathBuf, line: usize },
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub enum Message<'a> {
    Request { method: &'a str, path: &'a str, deployment: &'a str, nonce: &'a str, body: &'a [u8] },
    Answer { nonce: &'a str, status: u16, body: &'a [u8] },
}

/// The lines of a key file that are to be keys, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Whether `text` would be a good key file.
#[must_use]
pub fn is_key_file(text: &str) -> bool {
    lines(text).all(|(_, key)| key.len() >= SHORTEST) && lines(text).next().is_some()
}

impl Keys {
    /// Reads the file. Lines that are empty or begin with `#` are none. Blocking.
    ///
    /// # Errors
    /// When it cannot be read, when everybody can read it, and when a line is no key.
    pub fn read(path: &Path) -> Result<Self, Unusable> {
        let unreadable = |error| Unusable::Unreadable { path: path.to_owned(), error };
        if fs::metadata(path).map_err(unreadable)?.mode() & 0o007 != 0 {
            return Err(Unusable::Open(path.to_owned()));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let mut keys = Vec::new();
        for (line, key) in lines(&text) {
            if key.len() < SHORTEST {
                return Err(Unusable::Short { path: path.to_owned(), line });
            }
            keys.push(hmac::Key::new(HMAC_SHA256, key.as_bytes()));
        }
        if keys.is_empty() { Err(Unusable::Empty(path.to_owned())) } else { Ok(Self(keys)) }
    }

    /// The MAC of a message under the first key, in lower-case hexadecimal digits.
    #[must_use]
    pub fn sign(&self, message: Message<'_>) -> String {
        // There is always a first one.
        self.0.first().map_or_else(String::new, |key| hex(hmac::sign(key, &message.bytes()).as_ref()))
    }

    /// Whether one of the keys made `mac` for this message.
    #[must_use]
    pub fn verify(&self, message: Message<'_>, mac: &str) -> bool {
        let (bytes, Some(mac)) = (message.bytes(), unhex(mac)) else { return false };
        // In constant time each.
        self.0.iter().any(|key| hmac::verify(key, &bytes, &mac).is_ok())
    }
}

/// A nonce for one question; `None` when the system has no randomness to give.
#[must_use]
pub fn nonce() -> Option<String> {
    let mut bytes = [0; NONCE_LENGTH / 2];
    rand::fill(&mut bytes).ok()?;
    Some(hex(&bytes))
}

impl Message<'_> {
    /// The word `request` or `answer`, then each part preceded by its length, so that no two messages are the same bytes.
    fn bytes(self) -> Vec<u8> {
        let digits;
        let (word, parts): (_, &[&[u8]]) = match self {
            Self::Request { method, path, deployment, nonce, body } => {
                ("request", &[method.as_bytes(), path.as_bytes(), deployment.as_bytes(), nonce.as_bytes(), body])
            }
            Self::Answer { nonce, status, body } => {
                digits = status.to_string();
                ("answer", &[nonce.as_bytes(), digits.as_bytes(), body])
            }
        };
        let mut bytes = word.as_bytes().to_vec();
        for part in parts {
            // Nothing that is signed comes near 4 GiB.
            bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| if let [high, low] = pair { Some(digit(high)? << 4 | digit(low)?) } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn keys(text: &str) -> Keys {
        Keys::read(file(text, 0o640).path()).unwrap()
    }

    fn request(body: &[u8]) -> Message<'_> {
        Message::Request { method: "GET", path: "/peer", deployment: "shop", nonce: "00ff", body }
    }

    #[test]
    fn a_rotation_in_three_steps_is_understood_at_every_step() {
        let steps = [OLD.to_owned(), format!("{OLD}\n{NEW}\n"), format!("# rotated\n\n{NEW}\n{OLD}"), NEW.to_owned()];
        for pair in steps.windows(2) {
            for (from, to) in [(0, 1), (1, 0)] {
                let mac = keys(&pair[from]).sign(request(b"body"));
                assert!(keys(&pair[to]).verify(request(b"body"), &mac), "{pair:?}");
            }
        }
        assert!(!keys(NEW).verify(request(b""), &keys(OLD).sign(request(b""))));
    }

    #[test]
    fn the_mac_is_of_the_whole_message_and_of_nothing_else() {
        let keys = keys(OLD);
        let mac = keys.sign(request(b"body"));
        assert_eq!(mac, "72d864ed7fa00bc4da6bc5c8cb4522759fdd66dc2fe30747f7a7394aae0f9701", "as any release has it");
        let others = [
            request(b"bodY"),
            request(b""),
            Message::Request { method: "GE", path: "T/peer", deployment: "shop", nonce: "00ff", body: b"body" },
            Message::Request { method: "GET", path: "/peer", deployment: "shop2", nonce: "00ff", body: b"body" },
            Message::Request { method: "GET", path: "/peer", deployment: "shop", nonce: "00fe", body: b"body" },
            Message::Answer { nonce: "00ff", status: 200, body: b"body" },
        ];
        for other in others {
            assert!(!keys.verify(other, &mac), "{other:?}");
        }
        for broken in ["", "0", &mac[1..], &mac.to_uppercase(), &format!("{mac}00"), &mac[..62]] {
            assert!(!keys.verify(request(b"body"), broken), "{broken}");
        }
    }

    #[test]
    fn a_file_that_is_no_secret_or_has_no_key_is_refused_by_name() {
        let refused = |text, mode| Keys::read(file(text, mode).path()).unwrap_err().to_string();
        assert!(refused(OLD, 0o644).starts_with("everybody may read the key file"));
        assert!(refused("# none\n\n", 0o600).contains("has no key"));
        assert!(refused("\nsecret\n", 0o600).starts_with("line 2 of the key file"));
        assert!(Keys::read(Path::new("/nonexistent")).unwrap_err().to_string().starts_with("cannot read"));
    }

    #[test]
    fn no_two_nonces_are_the_same() {
        let (one, other) = (nonce().unwrap(), nonce().unwrap());
        assert_ne!(one, other);
        assert!(one.len() == 32 && one.chars().all(|c| c.is_ascii_hexdigit()));
    }
}
