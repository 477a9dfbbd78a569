//! SEQPACKET socketpairs: one packet is one message, a closed peer is an end, nothing is ever half read.

use crate::messages::wire::{self, MAX_PACKET, Malformed};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// An end of a socketpair that sends `Out` and receives `In`. Non-blocking: wait with [`wait`] or poll.
#[derive(Debug)]
pub struct Channel<Out, In> {
    socket: OwnedFd,
    /// Where packets are received: made once, since clearing it for each would cost more than most packets.
    packet: Mutex<Box<[u8]>>,
    messages: PhantomData<fn(Out) -> In>,
}

/// What receiving gave.
#[derive(Debug)]
pub enum Received<In> {
    /// A message, with the descriptor that came along, if one did.
    Message(In, Option<OwnedFd>),
    /// Nothing there now.
    Empty,
    /// The other end is closed and everything it sent was read.
    Closed,
    /// A packet that is no message of this channel.
    Malformed(Malformed),
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The other end is closed.
    #[error("the other end is closed")]
    Closed,
    /// The socket's buffer is full: the peer does not read.
    #[error("the other end does not read")]
    Full,
    /// The message does not fit a packet.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The kernel refused.
    #[error("the kernel refused: {0}")]
    Kernel(#[from] io::Error),
}

/// A connected pair: this process's end (closed on exec) and the raw end for a child.
pub fn pair<Out: Serialize, In: DeserializeOwned>() -> io::Result<(Channel<Out, In>, OwnedFd)> {
    let (ours, theirs) = raw_pair()?;
    Ok((Channel::from_fd(ours), theirs))
}

/// A connected pair for two children.
pub fn raw_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// Takes a SEQPACKET socket that is already non-blocking.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket, packet: Mutex::new(vec![0; MAX_PACKET].into()), messages: PhantomData }
    }

    /// Sends one message, never waiting.
    pub fn send(&self, message: &Out) -> Result<(), SendError> {
        self.send_packet(message, None)
    }

    /// Sends one message with a descriptor (SCM_RIGHTS).
    pub fn send_with(&self, message: &Out, descriptor: BorrowedFd<'_>) -> Result<(), SendError> {
        self.send_packet(message, Some(descriptor))
    }

    fn send_packet(&self, message: &Out, descriptor: Option<BorrowedFd<'_>>) -> Result<(), SendError> {
        let packet = wire::encode(message)?;
        let descriptors = descriptor.as_slice();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        // NOSIGNAL: a dead peer is an error value, not SIGPIPE.
        let flags = SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(&packet)], &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(SendError::Full),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(SendError::Closed),
                Err(errno) => return Err(SendError::Kernel(errno.into())),
            }
        }
    }

    /// Receives one message, never waiting.
    pub fn receive(&self) -> io::Result<Received<In>> {
        let mut packet = self.packet.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let answer = loop {
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut packet)], &mut control, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Empty),
                Err(Errno::CONNRESET) => return Ok(Received::Closed),
                other => break other?,
            }
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        // A packet is never empty (an enum has at least its discriminant), so no bytes mean the end.
        if answer.bytes == 0 {
            return Ok(Received::Closed);
        }
        if answer.flags.contains(ReturnFlags::TRUNC) {
            return Ok(Received::Malformed(Malformed::TooLong));
        }
        let bytes = packet.get(..answer.bytes).unwrap_or_default();
        Ok(match wire::decode(bytes) {
            Ok(message) => Received::Message(message, descriptor),
            Err(malformed) => Received::Malformed(malformed),
        })
    }
}

impl<Out, In> AsFd for Channel<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until one of `descriptors` is readable or closed, at most `timeout`; says for each whether it is.
pub fn wait(descriptors: &[BorrowedFd<'_>], timeout: std::time::Duration) -> io::Result<Vec<bool>> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut polled: Vec<_> = descriptors.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        // A signal is as good as a time-out: the caller looks at everything anyway.
        Ok(_) | Err(Errno::INTR) => Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_message_arrives_whole_and_with_its_descriptor() {
        let (ours, theirs) = pair::<String, u32>().unwrap();
        let theirs = Channel::<u32, String>::from_fd(theirs);
        ours.send_with(&"hello".to_owned(), std::io::stdin().as_fd()).unwrap();
        assert_eq!(wait(&[theirs.as_fd()], Duration::from_secs(5)).unwrap(), [true]);
        let Received::Message(text, Some(descriptor)) = theirs.receive().unwrap() else { panic!("no message") };
        assert_eq!(text, "hello");
        let flags = rustix::io::fcntl_getfd(&descriptor).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert!(matches!(theirs.receive().unwrap(), Received::Empty));
    }

    #[test]
    fn a_closed_peer_is_seen_on_both_sides() {
        let (ours, theirs) = pair::<u32, u32>().unwrap();
        drop(theirs);
        assert!(matches!(ours.receive().unwrap(), Received::Closed));
        assert!(matches!(ours.send(&1), Err(SendError::Closed)));
    }

    #[test]
    fn garbage_is_told_from_messages() {
        let (ours, theirs) = pair::<u32, crate::messages::NetNews>().unwrap();
        for garbage in [&[0xff; 9][..], &vec![1; MAX_PACKET + 1]] {
            rustix::net::send(&theirs, garbage, SendFlags::empty()).unwrap();
            assert!(matches!(ours.receive().unwrap(), Received::Malformed(_)));
        }
    }

    #[test]
    fn a_peer_that_does_not_read_never_blocks_the_sender() {
        let (ours, _theirs) = pair::<Vec<u8>, u32>().unwrap();
        let message = vec![0; 30_000];
        let full = (0..10_000).any(|_| matches!(ours.send(&message), Err(SendError::Full)));
        assert!(full);
    }
}
