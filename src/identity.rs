//! Who this instance is: its id, region, zone and group; and where its group is taking it. Never on the path of a
//! verdict: until it is known, what needs it is unknown.

pub mod find;
mod imds;
pub mod lifecycle;
pub mod metadata;
pub mod watch;

use std::fs;
use std::path::Path;

use imds::{Answer, Imds, Silence};

/// An administrator's word on the region.
const REGION_FILE: &str = "/etc/dr-agent/region";

/// What is known of this instance; `None` for what is not, or not yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub instance: Option<String>,
    /// As the metadata service has it. Only on an EC2 instance.
    pub region: Option<String>,
    /// The availability zone.
    pub zone: Option<String>,
    /// Name of the Auto Scaling group. `None` also when it is in none.
    pub group: Option<String>,
}

impl Identity {
    /// What the metadata service says, within 4 s at most; where nobody answers, within 1 s. Text that cannot be what was
    /// asked for is no answer.
    pub async fn from_imds() -> Self {
        Self::ask(&mut Imds::new()).await.unwrap_or_default()
    }

    async fn ask(imds: &mut Imds) -> Result<Self, Silence> {
        let Some(region) = imds.get("placement/region").await.known(is_region) else {
            return Err(imds.silence.unwrap_or(Silence::Strange));
        };
        Ok(Self {
            instance: imds.get("instance-id").await.known(is_instance_id),
            zone: imds.get("placement/availability-zone").await.known(|zone| zone.starts_with(&region)),
            group: imds.get("tags/instance/aws:autoscaling:groupName").await.known(is_group),
            region: Some(region),
        })
    }
}

/// The instance id from the firmware's asset tag, where Nitro instances carry it. Reads a file of the kernel: no
/// network, no waiting.
#[must_use]
pub fn instance() -> Option<String> {
    let tag = fs::read_to_string("/sys/devices/virtual/dmi/id/board_asset_tag").ok()?;
    let tag = tag.trim();
    is_instance_id(tag).then(|| tag.to_owned())
}

/// A name for this machine's files on the shared mount: the instance id, else one made from the machine id, which two
/// machines do not share either.
#[must_use]
pub fn file_name(instance: Option<&str>) -> String {
    instance.map_or_else(
        || {
            let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
            let id: String = id.chars().filter(char::is_ascii_hexdigit).take(12).collect();
            format!("machine-{}", if id.is_empty() { "unknown" } else { &id })
        },
        str::to_owned,
    )
}

/// The region from the administrator's file.
#[must_use]
pub fn region_from_file() -> Option<String> {
    read_region(Path::new(REGION_FILE))
}

fn read_region(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let region = text.trim();
    (!region.is_empty()).then(|| region.to_owned())
}

impl Answer {
    /// What it says, if that can be it.
    fn known(self, is: impl Fn(&str) -> bool) -> Option<String> {
        match self {
            Self::Is(text) if is(&text) => Some(text),
            _ => None,
        }
    }
}

fn is_instance_id(text: &str) -> bool {
    text.strip_prefix("i-").is_some_and(|hex| hex.len() >= 8 && hex.chars().all(|c| c.is_ascii_hexdigit()))
}

fn is_region(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= 32 && text.contains('-') && text.chars().all(is_part) && text.ends_with(|c: char| c.is_ascii_digit())
}

/// As Auto Scaling has it: no colon, no space.
fn is_group(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && c != ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_instance_id_is_one() {
        assert!(is_instance_id("i-0123456789abcdef0"));
        assert!(!is_instance_id("Not Specified"));
        assert!(!is_instance_id("i-"));
    }

    #[test]
    fn what_another_schema_says_is_no_region_and_no_group() {
        assert!(is_region("ap-south-1") && is_region("us-gov-west-1"));
        assert!(!is_region("<html>") && !is_region("{\"region\":\"us-east-1\"}") && !is_region("") && !is_region("1"));
        assert!(is_group("shop-web_2") && is_group("eksctl/x.y"));
        assert!(!is_group("<html> x") && !is_group("") && !is_group("a:b") && !is_group(&"x".repeat(256)));
    }

    #[test]
    fn a_region_file_is_one_word() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), " us-east-1 \n").unwrap();
        assert_eq!(read_region(file.path()).as_deref(), Some("us-east-1"));
        fs::write(file.path(), "\n").unwrap();
        assert_eq!(read_region(file.path()), None);
    }
}
