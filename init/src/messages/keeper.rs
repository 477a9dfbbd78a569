//! What the keeper says to PID 1.

use serde::{Deserialize, Serialize};

/// The keeper to PID 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperNews {
    /// It has what it needs of the files of the initramfs.
    Begun,
}
