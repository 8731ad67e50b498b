//! Who this instance is: its id and its region. Never on the path of a verdict: until it is known, what needs it is
//! unknown.

use std::fs;
use std::path::Path;
use std::time::Duration;

use aws_config::imds;

/// An administrator's word on the region, written by the bootstrap.
const REGION_FILE: &str = "/etc/dr-agent/region";

/// One IMDS call, connecting included. IMDS answers in milliseconds on an instance; elsewhere nobody answers.
const IMDS_LIMIT: Duration = Duration::from_secs(1);

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

/// Instance id and region from the instance metadata service, version 2, within [`IMDS_LIMIT`] each; `None` for what it
/// does not say. The client and its connector are dropped on return.
pub async fn from_imds() -> (Option<String>, Option<String>) {
    let client = imds::Client::builder().connect_timeout(IMDS_LIMIT).read_timeout(IMDS_LIMIT).max_attempts(1).build();
    let ask = async |path: &str| {
        let answer = tokio::time::timeout(IMDS_LIMIT, client.get(path)).await.ok()?;
        answer.ok().map(|value| value.as_ref().trim().to_owned()).filter(|value| !value.is_empty())
    };
    let Some(region) = ask("/latest/meta-data/placement/region").await else { return (None, None) };
    let instance = ask("/latest/meta-data/instance-id").await.filter(|id| is_instance_id(id));
    (instance, Some(region))
}

fn is_instance_id(text: &str) -> bool {
    text.strip_prefix("i-").is_some_and(|hex| hex.len() >= 8 && hex.chars().all(|c| c.is_ascii_hexdigit()))
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
    fn a_region_file_is_one_word() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), " us-east-1 \n").unwrap();
        assert_eq!(read_region(file.path()).as_deref(), Some("us-east-1"));
        fs::write(file.path(), "\n").unwrap();
        assert_eq!(read_region(file.path()), None);
    }
}
