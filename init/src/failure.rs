//! What a failed step says to the person at the console: step, cause, object, remedy.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The steps of a boot, as they are named in messages and in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Early mounts, console, clock.
    Early,
    /// The kernel command line.
    Settings,
    /// Kernel modules and devices.
    Modules,
    /// Links and addresses.
    Network,
    /// The manifest, its signature and chunk list.
    Manifest,
    /// The weighing of image against memory.
    Memory,
    /// The image's bytes.
    Image,
    /// Mounting image and overlay.
    Mount,
    /// The root switch.
    Switch,
    /// The real init.
    Init,
    /// A worker process.
    Worker,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Early => "early",
            Self::Settings => "settings",
            Self::Modules => "modules",
            Self::Network => "network",
            Self::Manifest => "manifest",
            Self::Memory => "memory",
            Self::Image => "image",
            Self::Mount => "mount",
            Self::Switch => "switch",
            Self::Init => "init",
            Self::Worker => "worker",
        })
    }
}

/// Whether the same step can succeed later with nothing changed on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// A server, a cable or a name may come back.
    Later,
    /// Somebody has to change something first.
    Never,
}

/// Why a step failed. `Display` is what stands on the console: one sentence for the cause, one for the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step that failed.
    pub step: Step,
    /// What went wrong, without a full stop: "the server answered 404 Not Found".
    pub cause: String,
    /// What it went wrong with: a URL, a device, a path.
    pub object: String,
    /// What to do about it, a sentence in the imperative without a full stop.
    pub remedy: String,
    /// Whether waiting can help.
    pub retry: Retry,
}

impl Failure {
    /// A failure that only a change can mend.
    pub fn new(step: Step, object: impl Into<String>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { step, object: object.into(), cause: cause.into(), remedy: remedy.into(), retry: Retry::Never }
    }

    /// The same failure, as one that may pass by itself.
    pub fn passing(self) -> Self {
        Self { retry: Retry::Later, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, cause, object, remedy, .. } = self;
        write!(f, "FAILED at {step}: {object}: {cause}. Remedy: {remedy}.")
    }
}

impl std::error::Error for Failure {}
