//! PID 1 and the keeper.

use super::store::Tally;
use serde::{Deserialize, Serialize};

/// An image that is left to the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// What it is called on the console.
    pub name: String,
    /// Its sources in order of preference.
    pub sources: Vec<String>,
    /// What came so far.
    pub tally: Tally,
    /// Whether it is recorded what is read first.
    pub traced: bool,
    /// Whether a fetch worker runs for it.
    pub fetcher: bool,
    /// Whether its store has asked for another one, which it does once.
    pub asked: bool,
}

/// PID 1 to the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperOrder {
    /// One more image; its descriptors are those of its place in the order of these.
    Image(Left),
    /// These were all.
    Begin,
}

/// The keeper to PID 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperNews {
    /// It has what it needs of the files of the initramfs.
    Begun,
}
