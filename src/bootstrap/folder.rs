//! The folder on the mount in which every instance's agent has a file of its own: made, or given the mode and the group that the
//! agents need. Whoever touches the mount is a process that can be left behind.

use std::path::Path;

use super::plan::CANARY;
use super::{GROUP, LOCAL};
use crate::helper::tool::{Failed, tool};
use crate::report::items::Item;

const MODE: &str = "770";

/// Enters the folder and changes what it is in: a link in its place would lead to whatever somebody who can write to the mount
/// wants to have changed by root.
const CHANGE: &str = r#"
cd -P -- "${1%/*}" && mount=$(pwd -P) && cd -P -- "./${1##*/}" || exit
if [ "$(pwd -P)" != "$mount/${1##*/}" ]; then
    echo "it leads to $(pwd -P)" >&2
    exit 1
fi
chgrp "$2" . && chmod "$3" .
"#;

/// Makes it so, or says why it cannot be.
pub(super) async fn made(folder: &Path) -> Item {
    let name = folder.display().to_string();
    let (words, hint) = match make(&name).await {
        Ok(words) => return Item::well(CANARY, words),
        Err(Failed::Said(_, why)) if why.contains("Read-only file system") => {
            let words = "the file system is read-only here, as a replica is: its folder comes from the other region";
            return Item::well(CANARY, words);
        }
        Err(Failed::Late(_, seconds)) => {
            let hint = "a port that is open proves a kernel, not a server: look at the file system's metrics and the security group";
            return Item::unhealthy(CANARY, format!("it was mounted and does not answer within {seconds} s"), hint);
        }
        Err(Failed::Said(_, why) | Failed::NotRun(_, why)) => {
            (why, format!("`mkdir -m 0{MODE} {name} && chgrp {GROUP} {name}` on an instance that may"))
        }
    };
    Item::degraded(CANARY, format!("the agent cannot write to {name}: {words}"), hint)
}

async fn make(folder: &str) -> Result<String, Failed> {
    match tool(&["stat", "--format=%F:%a:%g", folder], LOCAL).await {
        Ok(said) if said.trim() == format!("directory:{MODE}:{GROUP}") => return Ok(format!("{folder} is there")),
        Err(error @ Failed::Late(..)) => return Err(error),
        Ok(_) => {}
        // Two instances may do it at once.
        Err(_) => drop(tool(&["mkdir", "-p", folder], LOCAL).await?),
    }
    tool(&["sh", "-c", CHANGE, "sh", folder, &GROUP.to_string(), MODE], LOCAL).await?;
    Ok(format!("{folder} was made"))
}
