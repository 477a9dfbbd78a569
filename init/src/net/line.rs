//! The channel to PID 1 in the event loop.

use crate::messages::{NetNews, NetOrder};
use crate::sys::channel::{Channel, Received, SendError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// How long PID 1, which never blocks, may leave its end unread.
const UNREAD_LIMIT: Duration = Duration::from_secs(10);

/// PID 1 cannot be talked to any more; nothing is left to do.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// The channel is closed.
    #[error("PID 1 has closed the channel")]
    Closed,
    /// PID 1 leaves its end unread.
    #[error("PID 1 does not read its channel")]
    Unread,
    /// The kernel refused.
    #[error("the channel to PID 1 failed: {0}")]
    Kernel(#[from] io::Error),
}

/// The channel's descriptor, as the event loop wants it.
#[derive(Debug)]
struct Owned(Channel<NetNews, NetOrder>);

impl AsRawFd for Owned {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The worker's end of the channel.
#[derive(Debug)]
pub struct Line {
    channel: AsyncFd<Owned>,
}

impl Line {
    /// Registers `channel` with the running event loop.
    pub fn new(channel: Channel<NetNews, NetOrder>) -> Result<Self, Gone> {
        // SAFETY: the channel owns its descriptor and stays inside the AsyncFd, never exchanged, until that is dropped.
        let channel = unsafe { AsyncFd::register(Owned(channel)) }.map_err(io::Error::from)?;
        Ok(Self { channel })
    }

    /// The next order. May be dropped and called again without losing one.
    pub async fn order(&self) -> Result<NetOrder, Gone> {
        loop {
            let mut ready = self.channel.readable().await?;
            match ready.get_inner().0.receive()? {
                Received::Message(order, _) => return Ok(order),
                Received::Empty => ready.clear_ready(),
                Received::Closed => return Err(Gone::Closed),
                Received::Malformed(malformed) => log::error!("net: an order was dropped: {malformed}"),
            }
        }
    }

    /// Tells PID 1, waiting a bounded time for room in the channel.
    pub async fn tell(&self, news: NetNews) -> Result<(), Gone> {
        log::debug!("net: {news:?}");
        let sent = async {
            loop {
                let mut ready = self.channel.writable().await?;
                match ready.get_inner().0.send(&news) {
                    Ok(()) => return Ok(()),
                    Err(SendError::Full) => ready.clear_ready(),
                    Err(SendError::Closed) => return Err(Gone::Closed),
                    Err(SendError::Kernel(error)) => return Err(Gone::Kernel(error)),
                    Err(SendError::Malformed(malformed)) => {
                        // The lists in our messages are cut well below a packet's size.
                        log::error!("net: news dropped: {malformed}: {news:?}");
                        return Ok(());
                    }
                }
            }
        };
        tokio::time::timeout(UNREAD_LIMIT, sent).await.unwrap_or(Err(Gone::Unread))
    }
}
