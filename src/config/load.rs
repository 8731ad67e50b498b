//! EMPTY until its own commit: replaced whole by whoever owns this file.
use crate::config::Config;
use std::path::*;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Problems;
impl Problems {
    pub fn lines(&self) -> Vec<String> {
        vec![]
    }
}
pub struct File;
pub struct Loaded {
    pub config: Config,
    pub file: Option<File>,
    pub problems: Vec<String>,
}
pub fn at_start(_p: Option<&Path>, _r: Option<&str>) -> Loaded {
    todo!()
}
pub fn reload(_p: Option<&Path>, _r: Option<&str>) -> Result<(Option<File>, Config), Problems> {
    todo!()
}
pub fn remember_good(_f: &File, _d: &Path) -> std::io::Result<()> {
    Ok(())
}
