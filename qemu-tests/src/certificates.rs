//! The certificates that claims about https need, as `init/tests/certificates` makes them.

use crate::places::{cache, once, project, sum};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Made certificates.
#[derive(Clone, Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// Makes them once.
    pub fn made() -> Result<Self> {
        let script = project().join("init/tests/certificates");
        let folder = cache("tls")?.join(sum(&script)?);
        once(&folder, |half| {
            fs::create_dir(half)?;
            crate::command::run(Command::new(&script).arg(half)).map(drop)
        })?;
        Ok(Self(folder))
    }

    /// The file of that name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The same as text, for a command line.
    pub fn path(&self, name: &str) -> String {
        Path::display(&self.file(name)).to_string()
    }
}
