//! The encoding of a message: postcard, one message a packet, nothing before or behind it.

use serde::{Serialize, de::DeserializeOwned};

/// The longest packet, in bytes. Senders stay below it; a longer one is cut by the kernel and so refused.
pub const MAX_PACKET: usize = 32 << 10;

/// A packet that is no message, or a message that is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than [`MAX_PACKET`].
    #[error("the message is longer than {MAX_PACKET} bytes")]
    TooLong,
    /// Not this message type, or with bytes left over.
    #[error("the packet is not a message of this channel")]
    NotAMessage,
}

/// Encodes one message.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, Malformed> {
    let packet = postcard::to_stdvec(message).map_err(|_| Malformed::NotAMessage)?;
    if packet.len() > MAX_PACKET { Err(Malformed::TooLong) } else { Ok(packet) }
}

/// Decodes one packet; every byte of it must belong to the message.
pub fn decode<M: DeserializeOwned>(packet: &[u8]) -> Result<M, Malformed> {
    if packet.len() > MAX_PACKET {
        return Err(Malformed::TooLong);
    }
    match postcard::take_from_bytes(packet) {
        Ok((message, [])) => Ok(message),
        _ => Err(Malformed::NotAMessage),
    }
}
