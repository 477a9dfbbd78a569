//! What the processes of a boot say to each other: one serde enum a direction, one packet a message over
//! SEQPACKET socketpairs. What PID 1 receives are enums, numbers, addresses and [`Label`](crate::label::Label)s;
//! it renders its own text from them.

mod fetch;
mod keeper;
mod net;
mod store;
pub mod wire;

pub use fetch::{FetchCause, FetchNews, FetchOrder, FetchWarning, Head, Range, TlsFault, Validity};
pub use keeper::{KeeperNews, KeeperOrder, Left};
pub use net::{Addressing, Carrier, Lease, LeaseFault, NetCause, NetNews, NetOrder, Route, Selection, StaticAddress};
pub use store::{
    Compressor, FilesystemKind, ImageFacts, SourceIndex, SourceTally, StoreCause, StoreNews, StoreOrder, Tally, Trust,
    Wanted,
};
